"""``mice-st trim``: what is measured without a layer is the model without that layer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mice_st.commands.main import main
from mice_st.conversion.convert import convert
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection, write_beir
from mice_st.research.laboratory.trimming import keep_interaction_layers

PAIRS = [("the city of berlin", "a museum in germany"), ("sort", "a python function returns a list")]


@pytest.fixture(scope="module")
def mice_three(
    cross_encoder_folder: Path, shake: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One contextualisation layer and three interaction layers, all different."""
    folder = tmp_path_factory.mktemp("mice-three")
    model, _ = convert(cross_encoder_folder, 1, 3, query_max_length=16, document_max_length=32)
    shake(model, seed=5)
    model.save(str(folder))
    return folder


def test_a_layer_taken_away_is_skipped(mice_three: Path) -> None:
    """Against the layers called by hand, one after the other."""
    model = MiceCrossEncoder(str(mice_three), device="cpu").mice
    trimmed = keep_interaction_layers(model, [0, 2])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(7, 60, (3, 6), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        queries, documents = model.encode_queries(ids, mask), model.encode_documents(ids.flip(0), mask)
        model.interaction[1].forward = lambda rows, *others: rows
        assert torch.allclose(trimmed.score(queries, documents), model.score(queries, documents), atol=1e-6)


def test_layers_that_are_not_there_are_refused(mice_three: Path) -> None:
    model = MiceCrossEncoder(str(mice_three), device="cpu").mice
    for kept in ([0, 3], [1, 0], [0, 0]):
        with pytest.raises(ValueError, match="expected rising numbers below 3"):
            keep_interaction_layers(model, kept)
    with pytest.raises(ValueError, match="interaction_layers: at least 1"):
        keep_interaction_layers(model, [])


def test_the_command_prints_every_choice_and_saves_the_result(
    mice_three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["the museum of berlin", "a bridge over the river", "how to sort a list", "a function returns a string"]
    corpus = {f"d{place}": text for place, text in enumerate(texts)}
    queries = {f"q{place}": " ".join(text.split()[1:]) for place, text in enumerate(texts)}
    write_beir(Collection("tiny", corpus, queries, {query: {f"d{query[1:]}": 1} for query in queries}), tmp_path, "dev")
    output = tmp_path / "trimmed"
    flags = ["--model", str(mice_three), "--data", str(tmp_path), "--output", str(output), "--tolerance", "1.0"]
    assert main(["trim", *flags]) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert [row["removed"] for row in results["rows"][:4]] == [None, 0, 1, 2]
    assert len(results["rows"]) == 1 + 3 + 2
    assert sum(row["is_chosen"] for row in results["rows"]) == 3
    assert results["rows"][4]["kept"] in [row["kept"][1:] for row in results["rows"][1:4] if row["is_chosen"]]
    assert len(results["kept"]) == 1  # with such a tolerance, the fewest there can be
    assert f"layers {results['kept']}" in printed
    saved = MiceCrossEncoder(str(output), device="cpu")
    whole = MiceCrossEncoder(str(mice_three), device="cpu")
    whole[0].model = keep_interaction_layers(whole.mice, results["kept"])
    assert np.abs(saved.predict(PAIRS) - whole.predict(PAIRS)).max() < 1e-6
