"""``predict`` goes through the model's ``__call__``; options that sentence-transformers promises do what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder, convert
from tests.promises.one_score import QUERIES, QUERY, TOLERANCE, assert_one_line, assert_one_score, make_documents

Load = Callable[..., CrossEncoder]
LONG = "the city of berlin and a river " * 8


def count_calls(module: Any) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


# --- hooks and compile ---


def test_every_batch_goes_through_the_module_and_the_model(load_either: Load) -> None:
    model = load_either()
    of_module, of_network = count_calls(model[0]), count_calls(model[0].model)
    pairs = [(QUERY, document) for document in make_documents(10)]
    for batch_size in (4, 32):
        of_module.clear()
        of_network.clear()
        model.predict(pairs, batch_size=batch_size)
        assert len(of_module) >= 1
        assert len(of_network) >= 1
    of_module.clear()
    of_network.clear()
    model.rank(QUERY, [text for _, text in pairs])
    assert of_module
    assert of_network


def test_the_parts_of_a_pipeline_are_called(load_either: Load) -> None:
    """A hook on the whole cross-encoder, as profilers and serving tools place it."""
    model = load_either()
    calls = count_calls(model)
    model.predict([(QUERY, document) for document in make_documents(6)])
    assert calls


def test_what_a_hook_makes_of_scores_arrives(load_either: Load, base_scores: np.ndarray) -> None:
    model = load_either()

    def add_one(_module: Any, _inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
        features["scores"] = features["scores"] + 1.0
        return features

    model[0].register_forward_hook(add_one)
    for count in (1, 5, 40):
        pairs = [(QUERY, document) for document in make_documents()[:count]]
        np.testing.assert_allclose(model.predict(pairs), base_scores[0, :count] + 1.0, atol=TOLERANCE)
        ranking = model.rank(QUERY, [document for _, document in pairs])
        found = {hit["corpus_id"]: hit["score"] for hit in ranking}
        np.testing.assert_allclose(
            [found[place] for place in range(count)], base_scores[0, :count] + 1.0, atol=TOLERANCE
        )


def test_compiled_it_scores_the_same(load_either: Load, base_scores: np.ndarray) -> None:
    model = load_either()
    model.compile(backend="eager")
    assert_one_score(model, counts=(1, 5, 25), expected=base_scores)


def test_the_network_compiled_scores_the_same(load_either: Load, base_scores: np.ndarray) -> None:
    model = load_either()
    model[0].model.compile(backend="eager")
    assert_one_score(model, counts=(1, 5), expected=base_scores)


# --- lengths ---


def cut_at(model: CrossEncoder, tokens: int) -> float:
    """Score of the text that ``tokens`` tokens leave of ``LONG``."""
    return float(model.predict((QUERY, " ".join(LONG.split()[: tokens - 2]))))


@pytest.mark.parametrize("name", ["max_length", "max_seq_length"])
def test_a_length_set_after_loading_cuts(load_either: Load, name: str) -> None:
    model = load_either()
    expected, full = cut_at(model, 20), float(model.predict((QUERY, LONG)))
    setattr(model, name, 20)
    assert getattr(model, name) == 20
    assert float(model.predict((QUERY, LONG))) == pytest.approx(expected, abs=TOLERANCE)
    assert abs(expected - full) > 1e-3


def test_processing_kwargs_cut_as_in_sentence_transformers(load_either: Load) -> None:
    """``max_length`` at a call, for that call alone; or a clear line that says what to set instead."""
    model = load_either()
    expected, full = cut_at(model, 16), float(model.predict((QUERY, LONG)))
    try:
        found = float(model.predict((QUERY, LONG), processing_kwargs={"text": {"max_length": 16}}))
    except ValueError as error:
        assert_one_line(error, "processing_kwargs", "max_length")
    else:
        assert found == pytest.approx(expected, abs=TOLERANCE)
        assert abs(found - full) > 1e-3
    assert float(model.predict((QUERY, LONG))) == pytest.approx(full, abs=TOLERANCE)


def test_processing_kwargs_of_the_folder_cut_or_are_refused(
    load_either: Load, mice_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    settings["processing_kwargs"] = {"text": {"max_length": 16}}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    expected = cut_at(load_either(), 16)
    try:
        found = float(load_either(folder).predict((QUERY, LONG)))
    except ValueError as error:
        assert_one_line(error, "processing_kwargs", "max_length")
    else:
        assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("length", [65, 512, 10**30])
def test_a_length_above_the_positions_is_clamped(load_either: Load, length: int) -> None:
    """LlamaIndex passes 512 unasked; stock breaks in its embeddings then."""
    model = load_either(max_length=length)
    assert model.max_seq_length == 64
    assert np.isfinite(model.predict((QUERY, "cat " * 200)))


def test_the_tokenizers_own_length_does_not_lengthen_documents(
    load_either: Load, mice_folder: Path, tmp_path: Path, base_scores: np.ndarray
) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 100_000
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert_one_score(load_either(folder), counts=(1, 25), expected=base_scores)


# --- training mode ---


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_classifiers_dropout_is_that_of_the_config(
    bert_config: Callable[..., Any], tokenizer: Any, tmp_path: Path, dropout: float
) -> None:
    from transformers import BertForSequenceClassification

    fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": dropout}
    BertForSequenceClassification(bert_config(num_labels=1, **fields)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = convert(tmp_path, 2, 1)
    encoding = dict(model.tokenizer(QUERIES[0], "the capital of germany", return_tensors="pt"))
    with torch.no_grad():
        network: Any = model.mice.train()
        trained = torch.cat([network(**encoding).logits for _ in range(8)])
        assert bool(trained.std() > 1e-4) is (dropout > 0)
        network.eval()
        assert torch.equal(network(**encoding).logits, network(**encoding).logits)


# --- inputs ---


@pytest.mark.parametrize("inputs", ["a single text", ["a single text"], ["one", "two", "three"], [["only one"]]])
def test_texts_that_are_no_pairs_are_refused_by_name(load_either: Load, inputs: Any) -> None:
    model = load_either()
    with pytest.raises(ValueError, match=r"pair|\(query, document\)"):
        model.predict(inputs)


def test_a_batch_size_below_one_is_refused(load_either: Load) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match="batch_size"):
            load_either().predict([(QUERY, "a dog")], batch_size=size)


def test_softmax_and_several_scores_are_untouched(mice: MiceCrossEncoder) -> None:
    pairs = [(QUERY, document) for document in make_documents(5)]
    np.testing.assert_allclose(mice.predict(pairs, apply_softmax=True), mice.predict(pairs), atol=1e-6)
