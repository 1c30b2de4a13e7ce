"""Two unknown tokens are no exact match; a text without a word is worth one constant, far below any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from mice_st import MiceCrossEncoder, convert
from tests.promises.one_score import QUERY, TOLERANCE, by_id, make_documents, padded_scores

Load = Callable[..., CrossEncoder]
BLANK = ["", " ", "   ", "\n", "\t \n", "\u00a0"]

FEATURES: dict[str, dict[str, Any]] = {
    "exact match": {"exact_match": True},
    "lexical bias": {"lexical_bias": True},
    "max-sim": {"max_sim_residual": True},
}


@pytest.fixture(scope="module", params=list(FEATURES.values()), ids=list(FEATURES))
def matching(
    request: pytest.FixtureRequest, cross_encoder_folder: Path, shake: Callable[..., None], tmp_path_factory: Any
) -> MiceCrossEncoder:
    """A model whose scores hang on exact matches."""
    torch.manual_seed(0)
    model, _ = convert(cross_encoder_folder, 2, 2, query_max_length=16, document_max_length=32, **request.param)
    shake(model, seed=3, scale=0.3)
    if model.mice.max_sim_residual is not None:
        model.mice.max_sim_residual.match_bonus.data.fill_(0.5)
    folder = tmp_path_factory.mktemp("matching")
    model.save(str(folder))
    return MiceCrossEncoder(str(folder), device="cpu")


def swap_unknown(model: MiceCrossEncoder, query_id: int, document_id: int) -> list[float]:
    """Scores, by the padded and the fast path, where the last word has these ids; their embeddings are one and the same."""
    network: Any = model.mice
    embedding = network.get_input_embeddings().weight
    with torch.no_grad():
        for token in (query_id, document_id):
            embedding[token] = embedding[1]
        query = torch.tensor([[2, 20, 21, query_id, 3]])
        document = torch.tensor([[2, 22, document_id, 23, 3]])
        queries = network.encode_queries(query, torch.ones_like(query))
        documents = network.encode_documents(document, torch.ones_like(document))
        return [
            float(network.score(queries, documents)),
            float(network.score_documents(queries, documents.unpad() * 6)[0]),
        ]


def test_two_unknown_tokens_do_not_match(matching: MiceCrossEncoder) -> None:
    """The same states, and ids that differ: what is left is what a match adds."""
    other = [matching.tokenizer.convert_tokens_to_ids(word) for word in ("dog", "bird")]
    weights = getattr(matching.mice.max_sim_residual, "log_weights", None)
    if weights is not None:
        with torch.no_grad():
            weights[other] = weights[1].clone()
    differing = swap_unknown(matching, *other)
    unknown = swap_unknown(matching, 1, 1)
    np.testing.assert_allclose(unknown, differing, atol=TOLERANCE)
    same = swap_unknown(matching, other[0], other[0])
    assert abs(same[0] - differing[0]) > 1e-4, "a match that is one has to count, or the test says nothing"
    np.testing.assert_allclose(same[0], same[1], atol=TOLERANCE)


def test_two_emoji_score_as_an_emoji_and_another(matching: MiceCrossEncoder) -> None:
    """Both are [UNK] to this tokenizer, so their scores are equal by necessity; every way agrees on them."""
    documents = ["berlin 🍕 city", "berlin 🚀 city", "🚀", "🍕 🚀 🎉"]
    padded = padded_scores(matching, documents, ["where is 🍕"])[0]
    assert padded[0] == pytest.approx(padded[1], abs=1e-6)
    for scores in (
        matching.predict([("where is 🍕", document) for document in documents]),
        by_id(matching.rank("where is 🍕", documents)),
        by_id(matching.rank("where is 🍕", matching.encode_documents(documents))),
        np.array([matching.predict(("where is 🍕", document)) for document in documents]),
    ):
        np.testing.assert_allclose(scores, padded, atol=TOLERANCE)


def test_an_emoji_does_not_outrank_the_right_text(released_folder: Path) -> None:
    model = MiceCrossEncoder(str(released_folder), device="cpu")
    scores = model.predict(
        [
            ("best pizza in town 🍕", "This restaurant serves the best pizza in town."),
            ("best pizza in town 🍕", "🚀 🎉"),
        ]
    )
    assert scores[0] > scores[1]


# --- texts without a word ---


def test_the_constant_is_in_the_config_and_is_saved(load_either: Load, tmp_path: Path) -> None:
    model = load_either()
    constant = model[0].model.config.empty_document_score
    assert isinstance(constant, float)
    assert np.isfinite(constant)
    assert constant < -30  # below any score: logits of models trained on cosines reach 30
    model[0].model.config.empty_document_score = -123.5
    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["empty_document_score"] == -123.5
    assert float(MiceCrossEncoder(str(tmp_path), device="cpu").predict((QUERY, ""))) == -123.5


@pytest.mark.parametrize("folder", ["mice_folder", "max_sim_folder", "modernbert_folder"])
def test_blank_documents_have_the_constant_in_every_way(
    request: pytest.FixtureRequest, load_either: Load, folder: str
) -> None:
    model = load_either(request.getfixturevalue(folder))
    constant = model[0].model.config.empty_document_score
    texts = make_documents(8)
    documents = [*BLANK, *texts]
    expected = [constant] * len(BLANK) + padded_scores(model, texts, [QUERY])[0].tolist()
    assert constant < min(expected[len(BLANK) :])
    ways = {
        "padded": padded_scores(model, documents, [QUERY])[0],
        "predict": model.predict([(QUERY, document) for document in documents]),
        "small batches": model.predict([(QUERY, document) for document in documents], batch_size=2),
        "rank": by_id(model.rank(QUERY, documents)),
        "alone": np.array([model.predict((QUERY, document)) for document in documents]),
        "blank alone": np.array([model.predict([(QUERY, text)])[0] for text in BLANK]),
    }
    if isinstance(model, MiceCrossEncoder):
        states: Any = model.encode_documents(documents)
        ways["states"] = by_id(model.rank(QUERY, states))
        ways["one state"] = np.array([model.predict((QUERY, state)) for state in states])
        ways["passages"] = by_id(model.rank(QUERY, documents, passages=True))
    for way, scores in ways.items():
        np.testing.assert_allclose(scores, expected[: len(scores)], atol=TOLERANCE, rtol=0, err_msg=way)


def test_blank_documents_of_a_store_have_it_too(load: Load, tmp_path: Path) -> None:
    from mice_st.data.collection import Document
    from mice_st.states.encoding import encode_corpus
    from mice_st.states.engines import open_store
    from mice_st.states.fingerprint import fingerprint_of

    model: Any = load()
    texts = ["a dog", "", "the city of berlin", "  \n"]
    corpus = [Document(f"d{place}", text) for place, text in enumerate(texts)]
    with open_store(tmp_path / "s.sqlite", fingerprint_of(model, "fp32"), read_only=False) as store:
        encode_corpus(model, corpus, store)
        ranking = model.rank(QUERY, store=store, ids=[document.id for document in corpus])
    scores = {hit["corpus_id"]: hit["score"] for hit in ranking}
    constant = model.mice.config.empty_document_score
    assert [scores["d1"], scores["d3"]] == [constant, constant]
    assert scores["d0"] == pytest.approx(float(model.predict((QUERY, texts[0]))), abs=TOLERANCE)


def test_a_blank_query_still_has_a_finite_score(load_either: Load) -> None:
    model = load_either()
    for query in ("", "   "):
        scores = model.predict([(query, document) for document in ["a dog", *make_documents(6)]])
        assert np.isfinite(scores).all()


def test_an_activation_applies_to_the_constant(load_either: Load) -> None:
    model = load_either()
    score = float(model.predict((QUERY, ""), activation_fn=torch.nn.Sigmoid()))
    assert 0.0 <= score < 1e-6


def test_training_goes_on_over_an_empty_document(load_either: Load) -> None:
    """Its score is a constant: the others' gradients are finite, and those of a batch of empty ones are there."""
    model = load_either().train()
    for pairs in ([(QUERY, ""), (QUERY, "a dog")], [(QUERY, ""), (QUERY, " ")]):
        model.zero_grad()
        scores = model(model.preprocess(pairs))["scores"]
        scores.sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
    assert scores.requires_grad
