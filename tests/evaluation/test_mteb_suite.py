"""``mice-st evaluate`` through mteb: figures against mteb's own, tables, what is kept and what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.evaluate import EvaluateOptions, measure_suite
from mice_st.data.collection import write_beir
from mice_st.data.first_stage import BM25
from mice_st.evaluation import mteb_stock, suites
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.mteb_adapter import MtebSuite
from mice_st.evaluation.mteb_candidates import find_candidates
from mice_st.evaluation.mteb_model import load_for_mteb
from mice_st.evaluation.mteb_run import measure
from mice_st.evaluation.mteb_tasks import load_tasks
from mice_st.evaluation.per_query import per_query_file
from mice_st.evaluation.tables import format_latex, format_table, write_tables
from tests.evaluation.made import make_collection

pytest.importorskip("mteb")


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    return measure_suite(options)[0]


TINY = make_collection("tiny", 0)


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., EvaluateOptions]:
    """``options(*models, **fields)`` over a folder as a suite."""
    write_beir(TINY, tmp_path / "tiny", "test")

    def make(*models: str | Path, **fields: Any) -> EvaluateOptions:
        defaults = {"output": str(tmp_path / "out.json"), "suite": f"folder:{tmp_path / 'tiny'}"}
        return EvaluateOptions([str(model) for model in models], **{**defaults, "top_k": 8, "device": "cpu", **fields})

    return make


def test_every_kind_of_model(
    options: Callable[..., EvaluateOptions],
    mice_folder: Path,
    mice: MiceCrossEncoder,
    cross_encoder_folder: Path,
    embedding_folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    made = options()
    models = [str(folder) for folder in (mice_folder, cross_encoder_folder, embedding_folder)]
    arguments = ["--output", made.output, "--suite", made.suite, "--top-k", "8", "--device", "cpu"]
    assert cli.main(["evaluate", "--model", "bm25", *models, *arguments]) == 0
    results = json.loads(Path(made.output).read_text())
    assert capsys.readouterr().out.strip().endswith(format_table(results))
    candidates = BM25(TINY.corpus).search(TINY.queries, 8)
    run = {
        query: dict(zip(items, mice.predict([(TINY.queries[query], TINY.corpus[item]) for item in items]), strict=True))
        for query, items in candidates.items()
    }
    first, ours, *_ = results["systems"]
    expected = evaluate_run(TINY.qrels, run)
    assert ours["sets"]["tiny"]["ndcg@10"] == pytest.approx(expected.ndcg_at_10, abs=1e-9)
    assert ours["sets"]["tiny"]["map"] == pytest.approx(expected.map, abs=1e-9)
    assert ours["groups"]["tiny"]["mrr@10"] == pytest.approx(expected.mrr_at_10, abs=1e-9)
    assert first["sets"]["tiny"]["ndcg@10"] == evaluate_run(TINY.qrels, candidates).ndcg_at_10
    # One relevant document each: perfect re-ranking reaches 1 where it is a candidate, and so does recall.
    described = results["sets"][0]
    found = mean(f"d{query[1:]}" in items for query, items in candidates.items())
    assert (described["ceiling"], described["recall"]) == (pytest.approx(found), pytest.approx(found))
    for row in results["systems"]:
        assert row["sets"]["tiny"]["main_score"] == pytest.approx(row["sets"]["tiny"]["ndcg@10"], abs=1e-5), row["name"]
    with per_query_file(Path(made.output)).open(newline="") as file:
        lines = [row for row in csv.DictReader(file) if row["system"] == ours["name"]]
    assert {row["query"]: float(row["ndcg@10"]) for row in lines} == {
        query: figures.ndcg_at_10 for query, figures in expected.per_query.items()
    }
    written = sorted((tmp_path / "out.mteb" / "results").glob("*/*/tiny-*.json"))
    assert {path.parts[-3] for path in written} == {f"local__{Path(name).name}" for name in ("bm25", *models)}
    for ending in (".md", ".csv", ".tex", ".png"):
        assert Path(made.output).with_suffix(ending).stat().st_size > 50, ending


def test_a_set_has_one_result_whichever_way_it_is_read(
    options: Callable[..., EvaluateOptions],
    mice_folder: Path,
    embedding_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(suites.SUITES, "own", (suites.SuiteSet("tiny:test", "tiny"),))
    models = ("bm25", mice_folder, embedding_folder)
    through_mteb = evaluate(options(*models))
    fields = {"suite": "own", "data": str(tmp_path), "codecs": ["fp32"], "time_queries": 0}
    own = evaluate(options(*models, **fields, output=str(tmp_path / "own.json")))
    for row, other in zip(through_mteb["systems"], own["systems"], strict=True):
        assert (row["name"], row["kind"], row["groups"]) == (other["name"], other["kind"], other["groups"])
        assert row["sets"]["tiny"] == other["sets"]["tiny"] | {"main_score": row["sets"]["tiny"]["main_score"]}
    assert through_mteb["sets"] == [own["sets"][0] | {"main_score": "ndcg_at_10"}]
    assert per_query_file(tmp_path / "own.json").read_text() == per_query_file(tmp_path / "out.json").read_text()


def test_written_results_are_those_of_mteb_driving_the_model(
    options: Callable[..., EvaluateOptions], mice_folder: Path, tmp_path: Path
) -> None:
    made = options(mice_folder)
    evaluate(made)
    (written,) = (tmp_path / "out.mteb" / "results").glob("*/*/tiny-*.json")
    (task,) = load_tasks(made.suite)
    candidates = find_candidates(task, "bm25", 8, tmp_path / "cache")
    driven = measure(task, candidates, load_for_mteb(str(mice_folder), "cpu")[0], made.batch_size)
    (ours,) = json.loads(written.read_text())["scores"]["test"]
    (expected,) = driven.result["scores"]["test"]
    assert ours.keys() == expected.keys()
    figures = [name for name, value in expected.items() if isinstance(value, float)]
    assert len(figures) > 20
    for name in figures:  # the file has six digits
        assert ours[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


def test_the_stock_wrapper_beside_ours(
    options: Callable[..., EvaluateOptions],
    mice_folder: Path,
    mice: MiceCrossEncoder,
    stock: CrossEncoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    made = options()
    arguments = ["--output", made.output, "--suite", made.suite, "--top-k", "8", "--device", "cpu", "--stock"]
    assert cli.main(["evaluate", "--model", str(mice_folder), "bm25", *arguments]) == 0
    results = json.loads(Path(made.output).read_text())
    (row,) = results["stock"]
    assert (row["set"], row["system"]) == ("tiny", mice_folder.name)
    assert row["ndcg@10"] == row["stock_ndcg@10"] == results["systems"][0]["sets"]["tiny"]["ndcg@10"]
    assert 0 <= row["largest_difference"] < 1e-5
    assert min(row["seconds"], row["stock_seconds"]) > 0
    assert (
        f"| tiny | {mice_folder.name} | {row['ndcg@10']:.4f} | {row['stock_ndcg@10']:.4f} |" in capsys.readouterr().out
    )
    # A wrapper that scores otherwise is seen.
    off = stock.predict

    class Other(CrossEncoder):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            return off(*args, **kwargs) + 0.25

    monkeypatch.setattr(mteb_stock, "CrossEncoder", Other)
    tasks = MtebSuite(made.suite, "bm25", 8, None, 0, tmp_path, tmp_path / "other.mteb").tasks()
    (row,) = mteb_stock.compare_with_stock([str(mice_folder)], tasks, "cpu")
    assert row["largest_difference"] == pytest.approx(0.25, abs=1e-5)
    with pytest.raises(ValueError, match="stock: none of the models is MICE"):
        mteb_stock.compare_with_stock(["bm25"], [])


def test_measured_once(
    options: Callable[..., EvaluateOptions], mice_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = evaluate(options("bm25", mice_folder))
    monkeypatch.setattr("mice_st.evaluation.pipeline.rerank", lambda *_: pytest.fail("it was measured before"))
    assert evaluate(options("bm25", mice_folder)) == results
    with pytest.raises(pytest.fail.Exception):
        evaluate(options(mice_folder, codecs=["int8"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 3}, r"out\.mteb: holds results with top_k 8, not 3; give another output"),
        ({"first_stage": "mteb/baseline-bm25s"}, r"holds results with first_stage bm25, not mteb/baseline-bm25s"),
        ({"queries": 2}, r"holds results with queries None, not 2"),
    ],
)
def test_results_of_another_setting_are_refused(
    options: Callable[..., EvaluateOptions], fields: dict[str, Any], message: str
) -> None:
    evaluate(options("bm25"))
    with pytest.raises(ValueError, match=message):
        evaluate(options("bm25", **fields))


def test_queries_are_drawn(options: Callable[..., EvaluateOptions]) -> None:
    assert evaluate(options("bm25", queries=2))["sets"][0]["queries"] == 2
    with pytest.raises(ValueError, match="queries: a part of the queries of nanobeir would no longer be the task"):
        evaluate(options("bm25", queries=2, suite="nanobeir"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nonsense"], "suite: there is no 'nonsense'; there are dev, paper, paper-id"),
        (["--suite", "dev"], "data: the suite dev needs the folder of its sets"),
        (
            ["--suite", "dev", "--data", "x", "--first-stage", "y"],
            "the candidates of the suite dev are always those of",
        ),
        (["--suite", "folder:absent"], "absent: there is no such folder"),
        (["--suite", "dev", "--data", "x", "--stock"], "stock: the suite dev is not measured through mteb"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "--model", "bm25", "--output", str(tmp_path / "out.json"), *arguments]) == 2
    assert message in capsys.readouterr().err


def made_results() -> dict[str, Any]:
    """Two systems on three sets in two groups."""
    figures = {"A_1": {"a": 0.5, "b": 0.7, "c": 0.31}, "B": {"a": 0.6, "b": 0.7, "c": 0.2}}
    described = {"documents": 3, "queries": 2, "queries_without_candidates": 0, "first_stage": "bm25", "recall": 0.9}
    return {
        "sets": [
            {"name": name, "group": "ID" if name != "c" else "OOD", "ceiling": 0.8, **described}
            for name in ("a", "b", "c")
        ],
        "systems": [
            {
                "name": system,
                "sets": {name: {"ndcg@10": figure, "map": 0.1} for name, figure in row.items()},
                "groups": {"ID": {"ndcg@10": (row["a"] + row["b"]) / 2}, "OOD": {"ndcg@10": row["c"]}},
            }
            for system, row in figures.items()
        ],
    }


def test_tables(tmp_path: Path) -> None:
    results = made_results()
    assert format_table(results).splitlines() == [
        "| system | a | b | mean ID | c | mean OOD |",
        "| --- | --- | --- | --- | --- | --- |",
        "| A_1 | 0.5000 | 0.7000 | 0.6000 | 0.3100 | 0.3100 |",
        "| B | 0.6000 | 0.7000 | 0.6500 | 0.2000 | 0.2000 |",
    ]
    assert r"A\_1 & 50.0 & \textbf{70.0} & 60.0 & \textbf{31.0} & \textbf{31.0} \\" in format_latex(results)
    write_tables(results, tmp_path / "table.json")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.DictReader(file))[2] == {
            "system": "A_1",
            "group": "OOD",
            "set": "c",
            "ndcg@10": "0.31",
            "map": "0.1",
        }
