"""``mice-st plot``: the points that the pictures show, and results that do not fit together."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st.commands import main as cli
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


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``draw(panels)``: the figure of quality and time, laid out; systems are as in ``SYSTEMS``."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))

    def make(**panels: Any) -> Figure:
        rows = {
            title: [
                {"system": name, "kind": kind, "ndcg@10": figure, "ms_per_query": milliseconds}
                for name, kind, figure, milliseconds, _ in systems
            ]
            for title, systems in panels.items()
        }
        plot_quality_and_cost(rows, "ms_per_query", "ms", tmp_path / "x.png")
        drawn[-1].draw_without_rendering()
        return drawn[-1]

    return make


def test_what_the_picture_shows(draw: Callable[..., Any]) -> None:
    figure = draw(one=SYSTEMS, two=SYSTEMS[1:])
    one, two = figure.axes
    points = one.collections
    assert sorted(text.get_text() for text in one.texts) == ["bm25 0.400", "mini 0.690 to 0.700", "teacher 0.720"]
    assert [point.get_offsets()[0].tolist() for point in points] == [
        [20.0, 0.7],
        [21.0, 0.69],
        [900.0, 0.72],
    ]
    shapes = [point.get_paths()[0].vertices.tolist() for point in points]
    assert shapes[0] != shapes[1], "one marker for each codec"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["states in fp16", "states in int8"]
    assert [line.get_ydata()[0] for line in one.lines if line.get_linestyle() == "--"] == [0.4]
    assert [line for line in two.lines if line.get_linestyle() == "--"] == []
    ours, baseline = points[0].get_facecolor()[0], points[2].get_facecolor()[0]
    assert ours.tolist() != baseline.tolist()
    assert len(set(baseline[:3].tolist())) == 1, "grey"


def test_without_codecs_there_is_no_legend_and_a_name_may_hold_an_at_sign(draw: Callable[..., Any]) -> None:
    figure = draw(one=[("org/model@v2", "mice", 0.5, 10.0, None), ("other", "mice", 0.6, 20.0, None)])
    assert {text.get_text() for text in figure.axes[0].texts} == {"org/model@v2 0.500", "other 0.600"}
    assert figure.legends == []


def test_no_label_covers_another_or_a_point_or_leaves_its_panel(draw: Callable[..., Any]) -> None:
    from matplotlib.text import Text

    close = [
        ("mini", 0.791, 134.0),
        ("mini-narrow", 0.782, 64.0),
        ("mini-other", 0.786, 90.0),
        ("mini-fourth", 0.79, 100.0),
    ]
    systems: list[Any] = [
        (f"{name}@{codec}", "mice", figure + place / 500, milliseconds * 1.02**place, None)
        for name, figure, milliseconds in close
        for place, codec in enumerate(("fp16", "int8", "int4"))
    ]
    systems += [("bm25", "bm25", 0.785, None, None), ("other", "cross_encoder", 0.7855, None, None)]
    systems += [("teacher", "cross_encoder", 0.763, 6104.0, None), ("cosine", "bi_encoder", 0.75, 27.8, None)]
    (axes,) = draw(one=systems).axes
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == len(close) + 4
    radius = 4 * axes.figure.dpi / 72
    for place, box in enumerate(boxes):
        label = axes.texts[place].get_text()
        assert not any(box.overlaps(other) for other in boxes[:place]), label
        for point in axes.collections:
            x, y = axes.transData.transform(point.get_offsets())[0]
            assert not box.padded(radius).contains(x, y), label
        for line in axes.lines:
            if line.get_linestyle() == "--":
                height = axes.transData.transform((1.0, line.get_ydata()[0]))[1]
                assert not box.y0 < height < box.y1, label
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1, label
        assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1, label


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
