"""``score_scale``: one factor on the final logits, in every way to a score; the order stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from mice_st import MiceCrossEncoder
from tests.promises.one_score import QUERIES, assert_one_score, make_documents, padded_scores

Load = Callable[..., CrossEncoder]


@pytest.fixture(params=["mice_folder", "max_sim_folder", "modernbert_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_a_conversion_keeps_the_scores_of_its_source(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["score_scale"] == 1.0


def test_half_of_it_is_half_of_every_score(load_either: Load, folder: Path) -> None:
    model = load_either(folder)
    network: Any = model[0].model
    whole = padded_scores(model)
    network.config.score_scale = 0.5
    half = assert_one_score(model, counts=(1, 2, 5, 25), expected=whole / 2)
    for one, other in zip(whole, half, strict=True):
        gaps = np.diff(np.sort(one))
        assert np.median(gaps) > 1e-6
        np.testing.assert_array_equal(np.argsort(one, kind="stable"), np.argsort(other, kind="stable"))


def test_it_is_saved_and_loaded_in_every_way(load_either: Load, folder: Path, tmp_path: Path) -> None:
    model = load_either(folder)
    whole = padded_scores(model)
    model[0].model.config.score_scale = 0.25
    model.save_pretrained(str(tmp_path))
    for loaded in (
        MiceCrossEncoder(str(tmp_path), device="cpu"),
        CrossEncoder(str(tmp_path), trust_remote_code=True, device="cpu"),
    ):
        assert_one_score(loaded, counts=(1, 25), expected=whole / 4)
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True).eval()
    encoding = model.tokenizer(QUERIES[0], make_documents()[0], return_tensors="pt")
    assert float(network(**encoding).logits) == pytest.approx(whole[0, 0] / 4, abs=1e-5)


def test_an_empty_document_keeps_its_constant(load_either: Load) -> None:
    """It is a score, not a logit: with another scale it still lies below all others."""
    model = load_either()
    model[0].model.config.score_scale = 0.5
    expected = model[0].model.config.empty_document_score
    assert float(model.predict((QUERIES[0], ""))) == pytest.approx(expected)
    assert float(model.predict([(QUERIES[0], text) for text in ["", *make_documents(6)]])[0]) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_loses_the_order_is_refused(folder: Path, tmp_path: Path, scale: float) -> None:
    config: Any = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).config
    fields = config.to_dict() | {"score_scale": scale}
    with pytest.raises(ValueError, match="score_scale"):
        type(config)(**fields)
