"""``mice-st mask`` and ``mice-st trim`` on tiny models: what they print and write is what the parts compute."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sentence_transformers import SentenceTransformer
from torch import nn

from mice_st.commands.main import main
from mice_st.conversion.convert import convert
from mice_st.data.collection import Collection, write_beir
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.plots import _layer_range, plot_readable_segments
from mice_st.research.laboratory.baselines import make_baseline, measure_baselines, parse_mice_name
from mice_st.research.laboratory.experiment import Retraining, load_experiment
from mice_st.research.laboratory.ladder import largest_difference, measure_ladder, recommend_fusion_layer
from mice_st.research.laboratory.vectors import train_vectors
from mice_st.research.masking import SEGMENTS, MaskedCrossEncoder, make_preset, readable_segments

TEXTS = [
    "the museum of berlin is on the river",
    "a bridge over the river in germany",
    "the population of the city",
    "how to sort a list in python",
    "a function returns a string",
    "open the file and read the path",
    "the cat and the dog",
    "people live in the capital",
    "write a number",
    "close the file",
    "a bird is what the cat was",
]


@pytest.fixture(scope="module")
def beir_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven documents; each is relevant to a query made of some of its words. A test and a train split."""
    folder = tmp_path_factory.mktemp("beir")
    corpus = {f"d{place}": text for place, text in enumerate(TEXTS)}
    queries = {f"q{place}": " ".join(text.split()[1:4]) for place, text in enumerate(TEXTS)}
    qrels = {query: {f"d{query[1:]}": 1} for query in queries}
    for split, part in (("train", list(queries)[:5]), ("test", list(queries)[5:])):
        write_beir(Collection("tiny", corpus, queries, {query: qrels[query] for query in part}), folder, split)
    return folder


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_the_ladder_measures_each_mask(
    beir_folder: Path, family_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = family_folder("bert")
    flags = ["--data", beir_folder, "--queries", 4, "--top-k", 5, "--fusion-layer", 1, "--output", tmp_path]
    assert run("mask", "--model", source, *flags, "--sweep-fusion-layer") == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    steps = ["full", "mask0", "mask1", "mask2", "mask3-l1", "prettr-l1", "sparse-ce"]
    assert [row["step"] for row in results["ladder"]] == steps
    assert results["ladder"][0]["difference"] == 0
    for row in results["ladder"][1:]:
        assert row["difference"] > 1e-3, row["step"]
        assert row["readable"] == readable_segments(make_preset(row["step"], 4), 4).int().tolist()
        assert f"{row['step']:<12}  {row['ndcg@10']:7.4f}" in printed
    assert results["segments"] == list(SEGMENTS)
    sweep = results["sweep"]
    assert list(sweep["ndcg@10"]) == ["1", "2"]
    assert sweep["ndcg@10"]["1"] == results["ladder"][4]["ndcg@10"]
    assert f"--contextualization-layers {sweep['recommended']}" in printed
    assert imread(tmp_path / "sweep.png").std() > 0.05  # something is drawn


def test_the_heat_map_shows_what_is_read(tmp_path: Path) -> None:
    def readable(name: str) -> list[Any]:
        return readable_segments(make_preset(name, 4), 4).int().tolist()

    rows = [{"step": name, "ndcg@10": 0.5, "readable": readable(name)} for name in ("full", "mask3-l4")]
    plot_readable_segments(rows, SEGMENTS, tmp_path / "map.png")
    picture = imread(tmp_path / "map.png")[..., :3]
    is_dark_blue = (picture[..., 2] > picture[..., 0] + 0.2) & (picture[..., 0] < 0.2)
    left, right = (half.sum() for half in np.array_split(is_dark_blue, 2, axis=1))
    # 25 cells are read in all layers by the full model; CLS 3, Q 2, SEP1 1, D 2, SEP2 1 under mask3-l4.
    assert right / left == pytest.approx(9 / 25, rel=0.1)


@pytest.mark.parametrize(
    ("reads", "text"), [([1, 1, 1], "all"), ([0, 0, 0], ""), ([0, 1, 1], "1-2"), ([1, 0, 1], "0,2")]
)
def test_layers_in_words(reads: list[int], text: str) -> None:
    assert _layer_range(reads) == text


def test_retraining_trains_each_step_from_the_source(
    beir_folder: Path, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = str(family_folder("bert"))
    experiment = load_experiment(str(beir_folder), "test", "train", 50, 5, 0)
    retraining = Retraining(steps=2, seconds=None, learning_rate=1e-3, batch_size=2, negatives=2, seed=0)
    rows = measure_ladder(source, ["full", "mask2"], experiment, retraining, tmp_path)
    assert [row["training_steps"] for row in rows] == [2, 2]
    saved = {step: MaskedCrossEncoder(str(tmp_path / step), activation_fn=nn.Identity()) for step in ("full", "mask2")}
    assert np.array_equal(saved["mask2"].readable, readable_segments(make_preset("mask2", 4), 4))
    runs = {step: experiment.evaluator.rerank(model) for step, model in saved.items()}
    assert evaluate_run(experiment.evaluator.collection.qrels, runs["mask2"]).ndcg_at_10 == rows[1]["ndcg@10"]
    assert largest_difference(runs["full"], runs["mask2"]) == pytest.approx(rows[1]["difference"], abs=1e-5)
    untrained = MaskedCrossEncoder(source, "mask2", activation_fn=nn.Identity())
    assert largest_difference(experiment.evaluator.rerank(untrained), runs["mask2"]) > 1e-3


def test_the_recommended_fusion_layer_is_the_highest_within_the_tolerance() -> None:
    ndcg = {1: 0.60, 2: 0.62, 3: 0.615, 4: 0.611, 5: 0.618, 6: 0.40}
    assert recommend_fusion_layer(ndcg, 0.01) == 5
    assert recommend_fusion_layer(ndcg, 0.0) == 2
    assert recommend_fusion_layer(ndcg, 1.0) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fusion-layer", 9], "mask3-l9 separates 9 layers, of a model that has 4"),
        (["--split", "dev"], "no split 'dev'"),
        (["--train-steps", 1, "--train-split", "test"], "train_split: 'test' is the split that is measured on"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[Any],
    message: str,
    beir_folder: Path,
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = family_folder("bert")
    capsys.readouterr()  # what making it has printed
    assert run("mask", "--model", source, "--data", beir_folder, "--output", tmp_path, "--top-k", 3, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_encoder_without_a_classifier_is_refused(
    beir_folder: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mask", "--model", encoder_folder, "--data", beir_folder, "--output", tmp_path, "--top-k", 3) == 2
    assert "no trained classifier" in capsys.readouterr().err


def test_baselines_are_measured_on_the_same_candidates(
    beir_folder: Path, family_folder: Callable[[str], Path], embedding_folder: Path, tmp_path: Path
) -> None:
    source = str(family_folder("bert"))
    experiment = load_experiment(str(beir_folder), "test", "train", 50, 5, 0)
    names = ["sparse-ce", "mice-l2-d3+2-self", str(embedding_folder)]
    rows = measure_baselines(source, names, experiment, None, tmp_path)
    assert [row["step"] for row in rows] == names
    sparse = MaskedCrossEncoder(source, "sparse-ce", activation_fn=nn.Identity())
    mice, _ = convert(source, 2, 2, document_contextualization_layers=3, interaction_order="self_first")
    qrels = experiment.evaluator.collection.qrels
    for row, model in zip(rows, (sparse, mice), strict=False):
        assert row["ndcg@10"] == evaluate_run(qrels, experiment.evaluator.rerank(model)).ndcg_at_10
    vectors = SentenceTransformer(str(embedding_folder))
    corpus, queries = experiment.evaluator.collection.corpus, experiment.evaluator.collection.queries
    run = {
        query: {item: float(vectors.encode(queries[query]) @ vectors.encode(corpus[item])) for item in items}
        for query, items in experiment.evaluator.candidates.items()
    }
    assert rows[2]["ndcg@10"] == pytest.approx(evaluate_run(qrels, run).ndcg_at_10)


def test_baselines_of_vectors_are_trained_first(
    beir_folder: Path, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = str(family_folder("bert"))
    experiment = load_experiment(str(beir_folder), "test", "train", 50, 5, 0)
    with pytest.raises(ValueError, match="colbert: a cross-encoder's layers are no encoder"):
        measure_baselines(source, ["colbert"], experiment, None, tmp_path)
    retraining = Retraining(steps=2, seconds=None, learning_rate=1e-3, batch_size=2, negatives=2, seed=0)
    for name in ("colbert", "bi-encoder"):
        model = make_baseline(source, name, None)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        assert train_vectors(retraining, model, experiment, tmp_path / name) == 2
        moved = [not old.equal(new) for old, new in zip(before, model.parameters(), strict=True)]
        assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize(
    "name",
    ["mice-l2+2", "mice-l2-d4+2", "mice-l1+3-self-blindcls-lex", "mice-l2+2-w16", "mice-l2+2-joint-perlayer-mask3"],
)
def test_a_mice_model_is_made_by_its_name(name: str, family_folder: Callable[[str], Path]) -> None:
    model = make_baseline(str(family_folder("bert")), name, None)
    assert model.mice.config.name == name


@pytest.mark.parametrize(
    "name", ["mice-l2", "mice-l2+2-lexx", "mice-l2+2-", "mice-lx+2", "mice-l2+2-kv2", "mice-l2+2-w"]
)
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        parse_mice_name(name)
