"""Start values from texts, against counting and a singular value decomposition by hand."""

import math
from pathlib import Path

import pytest
import torch

from mice_st import MiceCrossEncoder
from mice_st.commands.main import main
from mice_st.conversion.convert import convert
from mice_st.conversion.corpus_statistics import inverse_document_frequencies, principal_directions, start_from_texts

TEXTS = ["the cat sat", "the dog", "a cat and a cat", "nothing of it"]


@pytest.fixture(scope="module")
def model(cross_encoder_folder: Path) -> MiceCrossEncoder:
    return convert(cross_encoder_folder, 1, 1, max_sim_residual=True)[0]


def test_a_token_weighs_by_the_texts_that_hold_it(model: MiceCrossEncoder) -> None:
    found = inverse_document_frequencies(model, TEXTS)
    ids = [set(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert found.shape == (model.mice.config.vocab_size,)
    for token in range(model.mice.config.vocab_size):
        holding = sum(token in text for text in ids)
        assert found[token].item() == pytest.approx(math.log(1 + (4 - holding + 0.5) / (holding + 0.5)), rel=1e-5)


def test_the_directions_are_those_of_the_states_singular_vectors(model: MiceCrossEncoder) -> None:
    directions = principal_directions(model, TEXTS, 8)
    rows = []
    for text in TEXTS:
        encoded = model.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model.mice.encode_documents(encoded["input_ids"], encoded["attention_mask"]).states
        rows.append(states[0].double())
    _, _, vectors = torch.linalg.svd(torch.cat(rows), full_matrices=False)
    torch.testing.assert_close(directions @ directions.T, torch.eye(8), atol=1e-5, rtol=0)
    overlap = (directions.double() @ vectors[:8].T).abs()
    torch.testing.assert_close(overlap, torch.eye(8, dtype=torch.float64), atol=1e-3, rtol=0)


def test_what_has_nothing_to_start_from_texts_is_refused(cross_encoder_folder: Path) -> None:
    plain, _ = convert(cross_encoder_folder, 1, 1)
    with pytest.raises(ValueError, match="max_sim_residual"):
        start_from_texts(plain, TEXTS)


@pytest.mark.parametrize("function", [inverse_document_frequencies, lambda m, t: principal_directions(m, t, 4)])
def test_no_texts_are_refused(model: MiceCrossEncoder, function: object) -> None:
    with pytest.raises(ValueError, match="texts"):
        function(model, [])  # type: ignore[operator]


def test_the_command_starts_weights_and_projections_from_a_collection(
    cross_encoder_folder: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "tiny"
    (corpus / "qrels").mkdir(parents=True)
    lines = [f'{{"_id": "{place}", "title": "", "text": "{text}"}}' for place, text in enumerate(TEXTS)]
    (corpus / "corpus.jsonl").write_text("\n".join(lines))
    (corpus / "queries.jsonl").write_text('{"_id": "q", "text": "cat"}\n')
    (corpus / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    output = tmp_path / "narrow"
    command = ["convert", "--model", str(cross_encoder_folder), "--output", str(output)]
    command += ["--contextualization-layers", "1", "--interaction-layers", "1", "--interaction-hidden-size", "8"]
    main([*command, "--max-sim-residual", "--data", f"{corpus}:train"])
    mice = MiceCrossEncoder(str(output)).mice
    assert torch.equal(mice.query_projection.weight, mice.document_projection.weight)
    expected = inverse_document_frequencies(MiceCrossEncoder(str(output)), TEXTS)
    torch.testing.assert_close(mice.max_sim_residual.log_weights.exp(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mice.document_projection.weight.norm(dim=1), torch.ones(8), rtol=1e-4, atol=1e-4)
