"""The demo, run as a command: what it leaves behind, and what its figures have to do with each other."""

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from mice_st.commands import demo_released
from mice_st.commands.demo import run_demo
from mice_st.commands.demo_options import DemoOptions
from mice_st.commands.demo_training import print_table
from mice_st.commands.main import main
from mice_st.conversion.convert import convert
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection, Document
from mice_st.data.first_stage import BM25
from mice_st.data.python_docs import load_python_docs
from mice_st.data.wheels import find_backbone
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.plots import plot_quality_and_time
from mice_st.states.encoding import encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.fingerprint import fingerprint_of
from tests.markdown_page import ROOT, read_blocks
from tests.text_pairs import rank_alike

SYSTEMS = ["bm25", "bi-encoder", "cross-encoder", "mice", "mice-stored"]
RELEASED_SYSTEMS = ["bm25", "bi-encoder", "mice-mini", "mice-mini-stored"]

# Each query shares words with several documents, its own among them.
TINY = Collection(
    "tiny",
    {
        "bridge": "the bridge in the city of berlin is a river bridge",
        "split": "string function returns a list of the words",
        "sort": "list function sort the list in python",
        "file": "read a file and close the file in python",
        "cat": "cat and dog and bird in the city",
        "museum": "museum in berlin what people read",
    },
    {
        "bridge": "river city berlin",
        "split": "words of a string list",
        "file": "python read a file",
        "cat": "a dog city",
    },
    {name: {name: 1} for name in ("bridge", "split", "file", "cat")},
)


def test_picture_is_a_png_of_readable_size(tmp_path: Path) -> None:
    rows = [
        {"system": name, "ndcg@10": 0.5 + place / 50, "ms_per_query": 10.0**place} for place, name in enumerate(SYSTEMS)
    ]
    plot_quality_and_time(rows, tmp_path / "picture.png")
    data = (tmp_path / "picture.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) >= 800  # pixels wide


def test_table_names_every_system_once(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"ndcg@10": 0.5, "mrr@10": 0.4, "ms_per_query": 1.0, "queries": 3}
    rows = [row | {"system": name} for name in SYSTEMS]
    print_table({"rows": rows, "same_queries": rows})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "0.5000" in line] == SYSTEMS


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="queries: must be at least 1, got 0"):
        DemoOptions(queries=0)


def sample_scores(model: CrossEncoder) -> list[float]:
    return model.predict([(demo_released.SAMPLE_QUERY, text) for text in demo_released.SAMPLE_TEXTS]).tolist()


def test_the_sample_is_the_readmes_first_example() -> None:
    example = next(block.text for block in read_blocks(ROOT / "README.md") if block.language == "python")
    assert f'query = "{demo_released.SAMPLE_QUERY}"' in example
    documents = example.partition("documents = [")[2].partition("]")[0]
    assert ast.literal_eval(f"[{documents}]") == demo_released.SAMPLE_TEXTS


def test_the_samples_answer_is_first_for_whatever_ranks() -> None:
    query, texts = demo_released.SAMPLE_QUERY, demo_released.SAMPLE_TEXTS
    answer = next(place for place, text in enumerate(texts) if text.startswith("str.split "))
    found = BM25({str(place): text for place, text in enumerate(texts)}).search({"sample": query}, len(texts))
    assert next(iter(found["sample"])) == str(answer)
    backbone = SentenceTransformer(str(find_backbone()), device="cpu")
    assert (backbone.encode(texts) @ backbone.encode(query)).argmax() == answer
    untrained, _ = convert(find_backbone(), interaction_layers=1, max_sim_residual=True)
    assert untrained.rank(query, texts)[0]["corpus_id"] == answer


def test_released_demo_measures_what_the_models_score(
    mice_folder: Path,
    embedding_folder: Path,
    stock: CrossEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo_released, "resolve_model", lambda name: str(mice_folder))
    monkeypatch.setattr(demo_released, "find_backbone", lambda: embedding_folder)
    monkeypatch.setattr(demo_released, "load_python_docs", lambda split: TINY)
    # The process without mice_st is started by tests of its own; here its door is opened in this one.
    monkeypatch.setattr(
        "mice_st.commands.demo_comparison.run_doors",
        lambda folder, revision, pairs: {"CrossEncoder": stock.predict(pairs).tolist()},
    )
    run_demo(DemoOptions(output=str(tmp_path / "out")))
    rows = {row["system"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert list(rows) == RELEASED_SYSTEMS

    candidates = BM25(TINY.corpus).search(TINY.queries, demo_released.TOP_K)
    by_stock = {
        query_id: dict(
            zip(found, stock.predict([(TINY.queries[query_id], TINY.corpus[item]) for item in found]), strict=True)
        )
        for query_id, found in candidates.items()
    }
    expected = round(evaluate_run(TINY.qrels, by_stock).ndcg_at_10, 4)
    assert rows["mice-mini"]["ndcg@10"] == rows["mice-mini-stored"]["ndcg@10"] == expected
    assert rows["bm25"]["ndcg@10"] == round(evaluate_run(TINY.qrels, candidates).ndcg_at_10, 4) != expected
    assert all(row["queries"] == 4 and row["ms_per_query"] > 0 for row in rows.values())

    printed = capsys.readouterr().out
    assert f"{expected:.4f}" in printed
    ranked = [line for line in printed.splitlines() if any(text[:40] in line for text in demo_released.SAMPLE_TEXTS)]
    scores = dict(zip(demo_released.SAMPLE_TEXTS, sample_scores(stock), strict=True))
    for line, text in zip(ranked, sorted(scores, key=lambda text: -scores[text]), strict=True):
        assert line.split()[1] == text.split()[0]  # the samples' scores lie far apart
        assert float(line.split()[0]) == pytest.approx(scores[text], abs=1e-4)
    assert "over document states: largest difference of 3 scores" in printed
    assert (tmp_path / "out" / "backbone" / "config.json").is_file()
    with open_store(tmp_path / "out" / demo_released.STORE, None, read_only=True) as store:
        assert len(store) == len(TINY.corpus)


def test_demo_refuses_a_folder_whose_copy_scores_otherwise(
    mice_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_released, "resolve_model", lambda name: str(mice_folder))
    monkeypatch.setattr(demo_released, "load_python_docs", lambda split: TINY)
    monkeypatch.setattr(
        "mice_st.commands.demo_comparison.run_doors",
        lambda folder, revision, pairs: {"CrossEncoder": [9.0] * len(pairs)},
    )
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "scores of CrossEncoder differ by" in capsys.readouterr().err


def run_demo_command(home: Path, *arguments: str) -> str:
    """What the demo prints, run as a user would with an empty home."""
    process = subprocess.run(
        [sys.executable, "-m", "mice_st.commands.main", *arguments],
        cwd=home,
        env=os.environ | {"HF_HOME": str(home / "cache"), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


@pytest.mark.slow
def test_released_demo_runs_and_its_advice_works(released_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mice-mini").symlink_to(released_folder)
    lines = run_demo_command(tmp_path, "demo", "--output", "out").splitlines()
    rows = {row["system"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert list(rows) == RELEASED_SYSTEMS
    assert all(row["queries"] == 100 and row["ms_per_query"] > 0 for row in rows.values())
    assert rows["mice-mini"]["ndcg@10"] == rows["mice-mini-stored"]["ndcg@10"] > rows["bm25"]["ndcg@10"]
    advice = [shlex.split(line) for line in lines[lines.index("Next:") + 1 :]]
    assert [words[1] for words in advice] == ["rank", "rank", "encode", "convert", "demo"]
    assert "shutil.copy" in run_demo_command(tmp_path, *advice[0][1:])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of the demo that trains, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    arguments = ["--output", "out", "--train-seconds", "90", "--cross-encoder-queries", "3", "--queries", "60"]
    return home / "out", run_demo_command(home, "demo", "--train", *arguments)


@pytest.mark.slow
def test_demo_leaves_results_picture_and_a_model_that_learned(demo: tuple[Path, str]) -> None:
    output, printed = demo
    results = json.loads((output / "results.json").read_text())
    assert [row["system"] for row in results["rows"]] == SYSTEMS
    figures = {row["system"]: row for row in results["rows"]}
    # A cross-encoder that trained for a minute may well rank none of its three queries.
    assert all(0 < row["ndcg@10"] <= 1 for row in results["rows"] if row["system"] != "cross-encoder")
    assert all(row["ms_per_query"] > 0 for row in results["rows"])
    assert figures["mice"]["ndcg@10"] == figures["mice-stored"]["ndcg@10"]
    assert figures["mice-stored"]["ndcg@10"] > figures["bm25"]["ndcg@10"]
    assert figures["cross-encoder"]["queries"] == 3
    assert (output / "quality_vs_time.png").stat().st_size > 10_000
    assert (output / "model" / "model.safetensors").exists()
    assert [line.split()[1] for line in printed.splitlines()[-3:]] == ["rank", "encode", "train"]


@pytest.mark.slow
def test_the_demos_queries_rank_alike_from_store_from_memory_and_on_the_fly(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    model = MiceCrossEncoder(str(demo[0] / "model"), device="cpu", local_files_only=True)
    test = load_python_docs("test")
    queries = dict(list(test.queries.items())[:40])
    candidates = BM25(test.corpus).search(queries, 20)
    ids = sorted({document_id for found in candidates.values() for document_id in found})
    states = dict(zip(ids, model.encode_documents([test.corpus[document_id] for document_id in ids]), strict=True))
    # fp32, so that all three read the same states; what a codec's rounding changes is the benchmark's to measure.
    with open_store(tmp_path / "store.sqlite", fingerprint_of(model, "fp32", ""), read_only=False) as store:
        encode_corpus(model, [Document(document_id, test.corpus[document_id]) for document_id in ids], store)
        for query_id, query in queries.items():
            found = list(candidates[query_id])
            stored = model.rank(query, store=store, ids=found)
            for documents in ([states[item] for item in found], [test.corpus[item] for item in found]):
                ranked = [entry | {"corpus_id": found[entry["corpus_id"]]} for entry in model.rank(query, documents)]
                rank_alike(ranked, stored, tolerance=1e-5)
