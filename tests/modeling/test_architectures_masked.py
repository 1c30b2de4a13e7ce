"""A cross-encoder under Mask3-l, its masks written out here, converts to MICE without loss."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from mice_st import MiceCrossEncoder, convert
from mice_st.data.collection import Document
from mice_st.states.encoding import encode_corpus
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.sqlite_store import SqliteStore

LOSSLESS: dict[str, Any] = {
    "mask3_frame": True,
    "cls_attends_document": False,
    "document_states": "per_layer",
    "interaction_attention": "joint",
}
LAYERS = 4
QUERIES = ["where is berlin", "how many people live in the city of berlin", "sort", ""]
DOCUMENTS = [
    "the capital of germany",
    "a river and a bridge in the city, open to people: 3,520,031 of them, where is it",
    "berlin",
    "python function returns a sorted list of the number of lines in a file",
]
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]

# Segment that reads -> segments that it may read below the fusion layer, and from there on. Mask3 after Mask0-2.
READS = {
    "CLS": ({"CLS", "Q", "SEP1"}, {"CLS", "Q", "SEP1"}),
    "Q": ({"Q", "SEP1"}, {"Q", "SEP1", "D"}),
    "SEP1": ({"SEP1"}, {"SEP1"}),
    "D": ({"D", "SEP2"}, {"D", "SEP2"}),
    "SEP2": ({"SEP2"}, {"SEP2"}),
}


def mask_of(segments: list[str], layer: int, fusion: int) -> Tensor:
    """``(1, 1, L, L)``, float: 0 where a token may read, otherwise as good as minus infinity."""
    may_read = [[column in READS[row][int(layer >= fusion)] for column in segments] for row in segments]
    return torch.zeros(1, 1, len(segments), len(segments)).masked_fill(~torch.tensor(may_read), -1e30)


@torch.no_grad()
def masked_score(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, pair: tuple[str, str], fusion: int
) -> float:
    """One pair through transformers' own layers, each with the mask of its own."""
    query, document = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair)
    ids = [tokenizer.cls_token_id, *query, tokenizer.sep_token_id, *document, tokenizer.sep_token_id]
    segments = ["CLS", *["Q"] * len(query), "SEP1", *["D"] * len(document), "SEP2"]
    below = len(query) + 2
    states = model.bert.embeddings(
        input_ids=torch.tensor([ids]),
        token_type_ids=torch.tensor([[0] * below + [1] * (len(ids) - below)]),
        position_ids=torch.tensor([[*range(below), *range(len(ids) - below)]]),
    )
    for index, layer in enumerate(model.bert.encoder.layer):
        states = layer(states, mask_of(segments, index, fusion))
    return model.classifier(model.bert.pooler(states)).item()


@pytest.fixture(scope="module")
def cross_encoder(cross_encoder_folder: Path) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(cross_encoder_folder).eval()


@pytest.fixture(scope="module", params=[1, 2])
def masked(
    request: pytest.FixtureRequest,
    cross_encoder: BertForSequenceClassification,
    cross_encoder_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[MiceCrossEncoder, np.ndarray]:
    """The conversion of a cross-encoder under Mask3-l, and what the cross-encoder itself scores for PAIRS."""
    fusion = request.param
    model, report = convert(cross_encoder_folder, fusion, LAYERS - fusion, **LOSSLESS)
    assert report.fresh == report.dropped == []  # every tensor has its place
    expected = np.array([masked_score(cross_encoder, tokenizer, pair, fusion) for pair in PAIRS])
    assert np.ptp(expected) > 0.1  # the pairs differ, so that agreement says something
    return model, expected


def test_every_way_to_score_gives_what_the_masked_cross_encoder_gives(
    masked: tuple[MiceCrossEncoder, np.ndarray], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model, expected = masked
    np.testing.assert_allclose(model.predict(PAIRS), expected, atol=1e-5, rtol=0)
    states = model.encode_documents(DOCUMENTS)
    with SqliteStore(tmp_path / "store.sqlite", fingerprint_of(model, "fp32"), read_only=False) as store:
        encode_corpus(model, [Document(str(i), text) for i, text in enumerate(DOCUMENTS)], store)
        for start, query in enumerate(QUERIES):
            wanted = expected[start * len(DOCUMENTS) :][: len(DOCUMENTS)]
            for ranked in (
                model.rank(query, states),
                model.rank(query, store=store, ids=[str(i) for i in range(len(DOCUMENTS))]),
            ):
                scores = [entry["score"] for entry in sorted(ranked, key=lambda entry: int(entry["corpus_id"]))]
                np.testing.assert_allclose(scores, wanted, atol=1e-5, rtol=0)
    pairs = tokenizer([q for q, _ in PAIRS], [d for _, d in PAIRS], padding=True, return_tensors="pt")
    for attention in ("sdpa", "eager"):
        model.mice.set_attn_implementation(attention)
        with torch.no_grad():
            logits = model.mice(**pairs).logits.squeeze(-1)  # the obvious path
        np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5, rtol=0)
    model.mice.set_attn_implementation("sdpa")


def test_no_state_is_kept_that_no_layer_reads(masked: tuple[MiceCrossEncoder, np.ndarray]) -> None:
    model, _ = masked
    (document,) = model.encode_documents(DOCUMENTS[:1])
    layers = model.mice.config.interaction_layers
    assert document.states.shape[1] == 32 * (layers - 1)  # the last layer's only row is [CLS], which reads no document


def test_each_field_is_needed(cross_encoder_folder: Path) -> None:
    # Three interaction layers: the last one's only row, [CLS], does not read the document, so that of two one reads it.
    expected = convert(cross_encoder_folder, 1, 3, **LOSSLESS)[0].predict(PAIRS)
    other: dict[str, Any] = {"document_states": "frozen", "interaction_attention": "split"}
    for name, value in LOSSLESS.items():
        changed = LOSSLESS | {name: other.get(name, not value)}
        scores = convert(cross_encoder_folder, 1, 3, **changed)[0].predict(PAIRS)
        assert np.abs(scores - expected).max() > 1e-3, name


OPTIONS: dict[str, Any] = {
    "document_contextualization_layers": 3,
    "lexical_bias": True,
    "exact_match": True,
    "global_cls": True,
    "mask3_frame": True,
}

DOORS = """
import json, sys
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, pairs = sys.argv[1], [tuple(pair) for pair in json.loads(sys.argv[2])]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
encoding = tokenizer(*map(list, zip(*pairs)), padding=True, return_tensors="pt")
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    scores = [model(**encoding).logits.squeeze(-1).tolist()]
model = CrossEncoder(folder, trust_remote_code=True, device="cpu")
scores.append(model.predict(pairs).tolist())
module = model[0]
states = module.model.encode_documents(**module.preprocess([document for _, document in pairs])).unpad()
scores.append(model.predict([(query, state) for (query, _), state in zip(pairs, states)]).tolist())
print(json.dumps(scores))
"""


@pytest.mark.slow  # a fresh process
@pytest.mark.parametrize("fields", [LOSSLESS, OPTIONS], ids=["lossless", "options"])
def test_the_hub_copy_gives_the_same_scores(
    cross_encoder_folder: Path, tmp_path: Path, run_python: Callable[..., str], fields: dict[str, Any]
) -> None:
    model, _ = convert(cross_encoder_folder, 1, 3, **fields)
    model.save(str(tmp_path))
    expected = model.predict(PAIRS)
    printed = run_python(DOORS, tmp_path, json.dumps(PAIRS), without_mice_st=True)
    for scores in json.loads(printed.splitlines()[-1]):
        np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
