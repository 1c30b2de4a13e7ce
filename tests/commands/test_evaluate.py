"""``mice-st evaluate``: figures against an obvious path, what is kept, and what is never read again."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.evaluate import EvaluateOptions, measure_suite
from mice_st.data.collection import Collection, write_beir
from mice_st.data.first_stage import BM25
from mice_st.evaluation import suites
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.suites import SuiteSet, cached_candidates, draw_queries
from mice_st.evaluation.systems import list_systems
from mice_st.evaluation.tables import format_table
from mice_st.loading import model_hash, model_kind
from tests.evaluation.made import make_collection

Options = Callable[..., EvaluateOptions]


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    return measure_suite(options)[0]


SETS = {name: make_collection(name, seed) for seed, name in enumerate(("first", "second", "third"))}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """``options(*models, **fields)`` over a suite of three sets, two of them in one group."""
    for name, made in SETS.items():
        write_beir(made, tmp_path / "data" / name, "test")
    entries = tuple(SuiteSet(f"{name}:test", "b" if name == "third" else "a") for name in SETS)
    monkeypatch.setitem(suites.SUITES, "tiny", entries)

    def make(*models: str | Path, **fields: Any) -> EvaluateOptions:
        defaults = {
            "data": str(tmp_path / "data"),
            "output": str(tmp_path / "out.json"),
            "suite": "tiny",
            "time_queries": 0,
        }
        return EvaluateOptions([str(model) for model in models], **{**defaults, "top_k": 8, "device": "cpu", **fields})

    return make


@pytest.fixture(scope="module")
def colbert_folder(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colbert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MultiVectorEncoder(str(encoder_folder), device="cpu").save(str(folder), create_model_card=False)
    return folder


def expected(made: Collection, score: Callable[[str, list[str]], list[float]]) -> float:
    """nDCG@10 of BM25's 8 best documents, ordered by a score for each query alone."""
    candidates = BM25(made.corpus).search(made.queries, 8)
    run = {
        query: dict(zip(items, score(made.queries[query], [made.corpus[item] for item in items]), strict=True))
        for query, items in candidates.items()
    }
    return evaluate_run(made.qrels, run).ndcg_at_10


def test_every_kind_of_model_is_measured_as_it_scores_by_itself(
    options: Options, mice_folder: Path, cross_encoder_folder: Path, embedding_folder: Path, colbert_folder: Path
) -> None:
    mice = MiceCrossEncoder(str(mice_folder), device="cpu")
    cross_encoder = CrossEncoder(str(cross_encoder_folder), device="cpu", activation_fn=torch.nn.Identity())
    bi_encoder = SentenceTransformer(str(embedding_folder), device="cpu")
    colbert = MultiVectorEncoder(str(colbert_folder), device="cpu")

    def maxsim(query: str, texts: list[str]) -> list[float]:
        rows = torch.as_tensor(colbert.encode_query(query))
        return [float((rows @ torch.as_tensor(colbert.encode_document(text)).T).amax(1).sum()) for text in texts]

    scores = {
        mice_folder: lambda query, texts: mice.predict([(query, text) for text in texts]).tolist(),
        cross_encoder_folder: lambda query, texts: [float(cross_encoder.predict((query, text))) for text in texts],
        embedding_folder: lambda query, texts: (bi_encoder.encode(texts) @ bi_encoder.encode(query)).tolist(),
        colbert_folder: maxsim,
    }
    results = evaluate(options("bm25", *scores))
    assert [row["name"] for row in results["systems"]] == ["bm25", *(folder.name for folder in scores)]
    assert [model_kind(str(folder)) for folder in scores] == ["mice", "cross_encoder", "bi_encoder", "colbert"]
    for row, score in zip(results["systems"][1:], scores.values(), strict=True):
        for name, made in SETS.items():
            assert row["sets"][name]["ndcg@10"] == pytest.approx(expected(made, score), abs=1e-9), (row["name"], name)
    first = results["systems"][0]
    for name, made in SETS.items():
        measured = evaluate_run(made.qrels, BM25(made.corpus).search(made.queries, 8))
        assert first["sets"][name]["recall"] == measured.recall
        assert first["sets"][name]["mrr@10"] == measured.mrr_at_10
    for row in results["systems"]:
        figures = [row["sets"][name]["ndcg@10"] for name in SETS]
        assert row["groups"]["a"]["ndcg@10"] == mean(figures[:2])
        assert row["groups"]["b"]["ndcg@10"] == figures[2]


def test_what_is_written_tells_no_path_of_the_machine(options: Options, mice_folder: Path, tmp_path: Path) -> None:
    assert mice_folder.is_absolute()
    written = json.dumps(evaluate(options("bm25", mice_folder)))
    assert str(mice_folder.parent) not in written
    assert str(tmp_path) not in written


def test_only_the_named_sets_are_measured_and_others_are_refused(options: Options) -> None:
    everything, some = evaluate(options("bm25")), evaluate(options("bm25", sets=["third", "first"]))
    assert [made["name"] for made in some["sets"]] == ["first", "third"]
    assert some["systems"][0]["sets"] == {name: everything["systems"][0]["sets"][name] for name in ("first", "third")}
    with pytest.raises(ValueError, match=r"sets: the suite tiny has no fourth; it has first, second, third"):
        options("bm25", sets=["first", "fourth"])


def test_the_command_prints_one_row_for_each_system_and_codec(
    options: Options, mice_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = options()
    arguments = [
        "--model",
        "bm25",
        str(mice_folder),
        "--data",
        str(made.data),
        "--output",
        made.output,
        "--suite",
        "tiny",
    ]
    assert cli.main(["evaluate", *arguments, "--codecs", "fp32", "int4", "--queries", "0"]) == 0
    table = capsys.readouterr().out.strip().splitlines()
    assert table[0] == "| system | first | second | mean a | third | mean b | ms per query | bytes per token |"
    # States are 32 wide: 4 bytes each, or half a byte each and a scale of 2.
    assert [line.split(" | ")[-1].removesuffix(" |") for line in table[2:]] == ["", "128", "18.0"]
    names = ["bm25", f"{mice_folder.name}@fp32", f"{mice_folder.name}@int4"]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == names
    results = json.loads(Path(made.output).read_text())
    assert table == format_table(results).splitlines()
    assert [entry["queries"] for entry in results["sets"]] == [6, 6, 6]


def test_all_codecs_are_measured_from_one_encoding(
    options: Options, mice_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {
        codec: evaluate(options(mice_folder, codecs=[codec], output=f"{options().output}.{codec}"))
        for codec in ("fp16", "int4")
    }
    encoded: list[str] = []
    encode = MiceCrossEncoder.encode_documents

    def count(self: MiceCrossEncoder, documents: list[str], **rest: Any) -> Any:
        encoded.extend(documents)
        return encode(self, documents, **rest)

    monkeypatch.setattr(MiceCrossEncoder, "encode_documents", count)
    both = evaluate(options(mice_folder, codecs=["fp16", "int4"], cache=f"{options().output}.other"))
    wanted = [made.corpus[item] for made in SETS.values() for item in candidates_of(made)]
    assert sorted(encoded) == sorted(wanted)
    assert [row["sets"] for row in both["systems"]] == [one["systems"][0]["sets"] for one in alone.values()]


def candidates_of(made: Collection) -> set[str]:
    return {item for items in BM25(made.corpus).search(made.queries, 8).values() for item in items}


def test_what_a_system_costs(
    options: Options, mice_folder: Path, cross_encoder_folder: Path, embedding_folder: Path, colbert_folder: Path
) -> None:
    folders = [mice_folder, cross_encoder_folder, embedding_folder, colbert_folder]
    results = evaluate(options("bm25", *folders, codecs=["fp16", "int8"], time_queries=2, threads=1))
    assert results["timing"]["threads"] == 1
    assert results["timing"]["queries_per_set"] == 2
    rows = {row["name"].removeprefix(mice_folder.name): row for row in results["systems"]}
    assert rows["bm25"]["ms_per_query"] is None
    assert all(row["ms_per_query"] > 0 for name, row in rows.items() if name != "bm25")
    costs = {name: row["bytes_per_token"] for name, row in rows.items()}
    assert costs["bm25"] is None
    assert costs[cross_encoder_folder.name] is None
    # 32 numbers of 2 bytes; 32 of one and a scale of 2; 128 of ColBERT's of 2 bytes.
    assert (costs["@fp16"], costs["@int8"], costs[colbert_folder.name]) == (64, 34, 256)
    # A vector of 32 numbers stands for all tokens of a document, which are 3 at least and 24 at most.
    assert 64 / 24 <= costs[embedding_folder.name] <= 64 / 3
    again = evaluate(options("bm25", *folders, codecs=["fp16", "int8"], time_queries=2))
    assert [row["sets"] for row in again["systems"]] == [row["sets"] for row in results["systems"]]
    assert [row["ms_per_query"] for row in again["systems"]] != [row["ms_per_query"] for row in results["systems"]]


def test_the_figures_of_every_query_are_kept_and_compared(
    options: Options, embedding_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = options("bm25", embedding_folder)
    evaluate(made)
    with (tmp_path / "out.per_query.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 6
    for name, collection in SETS.items():
        run = BM25(collection.corpus).search(collection.queries, 8)
        measured = evaluate_run(collection.qrels, run).per_query
        perfect = {query: {item: collection.qrels[query].get(item, 0) for item in run[query]} for query in run}
        best = evaluate_run(collection.qrels, perfect).per_query
        for row in rows:
            if (row["system"], row["set"]) == ("bm25", name):
                one = measured[row["query"]]
                assert float(row["ndcg@10"]) == one.ndcg_at_10
                assert float(row["mrr@10"]) == one.reciprocal_rank_at_10
                assert float(row["ceiling"]) == best[row["query"]].ndcg_at_10
    table = tmp_path / "table.csv"
    assert cli.main(["compare", made.output, "--metric", "mrr@10", "--output", str(table)]) == 0
    assert "mrr@10" in capsys.readouterr().out
    with table.open(newline="") as file:
        compared = {row["set"]: row for row in csv.DictReader(file)}
    # Group b has one set only, which is its mean.
    assert list(compared) == ["first", "second", "third", "mean a"]
    both = (float(compared["first"]["difference"]) + float(compared["second"]["difference"])) / 2
    assert float(compared["mean a"]["difference"]) == pytest.approx(both)


def test_figures_kept_without_their_queries_are_measured_again(options: Options) -> None:
    made = options("bm25")
    before = evaluate(made)
    for path in Path(f"{made.output}.cache").glob("figures/*.json"):
        kept = json.loads(path.read_text())
        kept["figures"]["ndcg@10"] = 2.0
        del kept["per_query"]
        path.write_text(json.dumps(kept))
    assert evaluate(made) == before


def test_a_killed_evaluation_measures_nothing_twice(
    options: Options, mice_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    measure = evaluate_run

    def count(*arguments: Any) -> Any:
        calls.append("measured")
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr("mice_st.evaluation.pipeline.evaluate_run", count)
    with pytest.raises(KeyboardInterrupt):
        evaluate(options(mice_folder))
    resumed = evaluate(options(mice_folder))
    assert len(calls) == 4, "two sets, the third that was cut off, and the third again"
    monkeypatch.setattr("mice_st.evaluation.systems.load_model", lambda *_: pytest.fail("there is nothing to load"))
    assert evaluate(options(mice_folder)) == resumed


def test_nothing_stale_is_read(options: Options, mice_folder: Path, shake: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(mice_folder, folder)
    before = evaluate(options(folder, codecs=["fp32"]))
    changed = MiceCrossEncoder(str(folder), device="cpu")
    shake(changed, seed=9, scale=0.5)
    changed.save(str(folder))
    after = evaluate(options(folder, codecs=["fp32"]))
    assert after["systems"] != before["systems"]
    fresh = evaluate(options(folder, codecs=["fp32"], cache=str(tmp_path / "empty")))
    assert fresh["systems"] == after["systems"]


def test_candidates_are_found_again_by_texts_and_depth_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SETS["first"]
    run, key = cached_candidates(made, 8, tmp_path)
    assert run == BM25(made.corpus).search(made.queries, 8)
    with monkeypatch.context() as patch:
        patch.setattr(BM25, "search", lambda *_: pytest.fail("it was found before"))
        assert cached_candidates(made, 8, tmp_path) == (run, key)
    texts = made.corpus | {"d0": "berlin"}
    others = [
        cached_candidates(made, 3, tmp_path),
        cached_candidates(Collection("first", texts, made.queries, made.qrels), 8, tmp_path),
        cached_candidates(Collection("first", made.corpus, {"q0": "berlin"}, made.qrels), 8, tmp_path),
    ]
    assert len({key, *(other for _, other in others)}) == 4
    assert others[1][0] == BM25(texts).search(made.queries, 8)


def test_queries_are_drawn_by_the_seed_with_their_judgements() -> None:
    drawn = draw_queries(SETS["first"], 3, 0)
    assert len(drawn.queries) == 3
    assert drawn.qrels == {query: SETS["first"].qrels[query] for query in drawn.queries}
    assert drawn.queries == draw_queries(SETS["first"], 3, 0).queries
    assert len({tuple(draw_queries(SETS["first"], 3, seed).queries) for seed in range(5)}) > 1


def test_the_dev_suite_names_sets_of_both_groups() -> None:
    groups = [entry.group for entry in suites.SUITES["dev"]]
    assert (groups.count("in domain"), groups.count("out of domain")) == (3, 4)


def test_the_hash_of_a_model_sees_weights_and_not_its_card(mice_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(mice_folder, tmp_path / "copy")
    assert model_hash(str(tmp_path / "copy")) == model_hash(str(mice_folder))
    (tmp_path / "copy" / "evaluation").mkdir()
    for name in ("README.md", "card.yaml", "training.json", "verification.json", "evaluation/dev.json"):
        (tmp_path / "copy" / name).write_text("new")
    assert model_hash(str(tmp_path / "copy")) == model_hash(str(mice_folder))
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert model_hash(str(tmp_path / "copy")) != model_hash(str(mice_folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "absent/model", "--suite", "tiny"], "absent/model: there is no such folder"),
        (["--model", "bm25", "bm25", "--suite", "tiny"], "model: 'bm25' is given twice"),
        (["--model", "bm25", "--suite", "none"], "suite: there is no 'none'; there are dev"),
        (["--model", "bm25", "--suite", "tiny", "--top-k", "0"], "top_k: must be at least 1"),
        (["--model", "bm25", "--suite", "dev"], "squad: there is no such folder, and no squad.tar.gz"),
    ],
)
def test_bad_input_is_one_line(
    options: Options, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = options()
    assert cli.main(["evaluate", *arguments, "--data", str(made.data), "--output", made.output]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_model_and_an_unknown_kind_are_told_apart(tmp_path: Path, encoder_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        list_systems([str(tmp_path)], ["fp16"])
    with pytest.raises(ValueError, match="holds neither MICE"):
        list_systems([str(encoder_folder)], ["fp16"])
