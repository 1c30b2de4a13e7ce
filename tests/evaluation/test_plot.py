"""``mice-st plot``: the points that the pictures show, and results that do not fit together."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st import cli
from mice_st.evaluation.plots import plot_quality_and_cost

pytest.importorskip("matplotlib")

SYSTEMS = [
    ("bm25", "bm25", 0.4, None, None),
    ("mini@fp16", "mice", 0.7, 20.0, 768.0),
    ("mini@int8", "mice", 0.69, 21.0, 386.0),
    ("teacher", "cross_encoder", 0.72, 900.0, None),
]


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[..., Path]:
    """``write_results(name, *systems)``: an evaluation of one set in each of two groups."""

    def write(name: str, *systems: Any, top_k: int = 100) -> Path:
        path = tmp_path / f"{name}.json"
        rows = [
            {
                "name": system,
                "kind": kind,
                "groups": {"in domain": {"ndcg@10": figure}, "out of domain": {"ndcg@10": figure - 0.1}},
                "ms_per_query": milliseconds,
                "bytes_per_token": stored,
            }
            for system, kind, figure, milliseconds, stored in systems
        ]
        sets = [
            {"name": "a", "group": "in domain", "queries": 5},
            {"name": "b", "group": "out of domain", "queries": 6},
        ]
        path.write_text(json.dumps({"options": {"top_k": top_k}, "sets": sets, "systems": rows}))
        return path

    return write


def test_pictures_and_points(
    write_results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_results("first", *SYSTEMS[:2]), write_results("second", *SYSTEMS[1:])
    output = tmp_path / "docs"
    assert cli.main(["plot", "--results", str(first), str(second), "--output", str(output)]) == 0
    written = capsys.readouterr().out.split()
    assert [Path(name).name for name in written] == ["quality.csv", "quality_by_time.png", "quality_by_bytes.png"]
    for name in written[1:]:
        assert Path(name).read_bytes().startswith(b"\x89PNG")
    with (output / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(SYSTEMS)
    by_key = {(row["system"], row["group"]): row for row in rows}
    assert by_key["mini@int8", "out of domain"] == {
        "system": "mini@int8",
        "kind": "mice",
        "group": "out of domain",
        "ndcg@10": str(0.69 - 0.1),
        "ms_per_query": "21.0",
        "bytes_per_token": "386.0",
    }
    assert by_key["teacher", "in domain"]["bytes_per_token"] == ""


def test_what_the_picture_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    rows = [
        {"system": name, "kind": kind, "ndcg@10": figure, "ms_per_query": milliseconds}
        for name, kind, figure, milliseconds, _ in SYSTEMS
    ]
    plot_quality_and_cost({"one": rows, "two": rows[1:]}, "ms_per_query", "ms", tmp_path / "x.png")
    one, two = drawn[0].axes
    points: Any = one.collections
    lines: Any = one.lines
    assert [text.get_text() for text in one.texts] == [
        "bm25 0.400",
        "mini@fp16 0.700",
        "mini@int8 0.690",
        "teacher 0.720",
    ]
    assert [point.get_offsets()[0].tolist() for point in points] == [
        [20.0, 0.7],
        [21.0, 0.69],
        [900.0, 0.72],
    ]
    assert [line.get_ydata()[0] for line in lines] == [0.4]
    assert len(two.lines) == 0
    ours, baseline = points[0].get_facecolor()[0], points[2].get_facecolor()[0]
    assert ours.tolist() != baseline.tolist()
    assert len(set(baseline[:3].tolist())) == 1, "grey"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 50}, "second.json: measured on other sets, queries or candidates than"),
        (
            {"systems": [("bm25", "bm25", 0.5, None, None)]},
            "second.json: bm25 has another figure in domain than in an earlier",
        ),
        ({"without_times": True}, "second.json: bm25 has no times; run mice-st evaluate"),
        ({"absent": True}, "results: there is no file"),
    ],
)
def test_bad_input_is_one_line(
    change: dict[str, Any], message: str, write_results: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_results("first", *SYSTEMS)
    second = write_results("second", *change.get("systems", SYSTEMS), top_k=change.get("top_k", 100))
    if "without_times" in change:
        results = json.loads(second.read_text())
        for system in results["systems"]:
            del system["ms_per_query"]
        second.write_text(json.dumps(results))
    if "absent" in change:
        second.unlink()
    output = str(first.parent / "docs")
    assert cli.main(["plot", "--results", str(first), str(second), "--output", output]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
