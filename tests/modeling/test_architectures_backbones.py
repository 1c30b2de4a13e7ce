"""Every type of backbone, against transformers' own model and along every path to a score."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from mice_st import MiceCrossEncoder, convert
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.states.packed import PackedStates
from tests.modeling.backbones import BACKBONES, LAYERS, hidden_states, make_tokenizer, normalised
from tests.text_pairs import rank_alike

BELOW = 2  # contextualisation layers of most tests
PAIRS = [
    ("where is berlin", "the capital of germany"),
    ("where is berlin", "a river and a bridge in the city of berlin, open to people 24 of 24"),
    ("how many people live in the city of berlin and where is the museum", "berlin population 3520031"),
    ("cat", "dog"),
    ("how </s> [SEP] many", "people </s> [SEP] live"),
    ("", "a bird"),
    ("a dog", ""),
]
QUERY, DOCUMENTS = PAIRS[0][0], [document for _, document in PAIRS]
ORDERS = ("cross_first", "self_first")

every_backbone = pytest.mark.parametrize("name", BACKBONES)


@pytest.fixture(scope="module")
def hub_folders(
    backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, shake: Callable[..., None]
) -> dict[str, Path]:
    """A converted model of every backbone, its own parameters off their starts, as it goes to the Hub."""
    folders = {}
    for name, source in backbone_folders.items():
        model, _ = convert(source, BELOW, 2, exact_match=True, query_max_length=24, document_max_length=30)
        shake(model.mice.interaction, seed=5)
        folders[name] = tmp_path_factory.mktemp("hub") / name
        model.save(str(folders[name]))
    return folders


def load(folder: Path, **fields: Any) -> MiceForSequenceClassification:
    return MiceForSequenceClassification.from_pretrained(folder, **fields).eval()


def texts(name: str, side: int) -> tuple[Tensor, Tensor]:
    """One side of PAIRS, framed and padded; the padding's ids are arbitrary, as they must not matter."""
    encoding = make_tokenizer(name)([pair[side] for pair in PAIRS], split_special_tokens=True, padding=True)
    ids, mask = torch.tensor(encoding["input_ids"]), torch.tensor(encoding["attention_mask"])
    return ids, mask


# --- contextualisation ---


@every_backbone
@pytest.mark.parametrize("below", [1, BELOW, LAYERS])
def test_contextualisation_is_transformers_own(backbone_folders: dict[str, Path], name: str, below: int) -> None:
    original = AutoModelForSequenceClassification.from_pretrained(backbone_folders[name])
    model, _ = convert(backbone_folders[name], below, [LAYERS - 1])
    for side, encode in enumerate((model.mice.encode_queries, model.mice.encode_documents)):
        ids, mask = texts(name, side)
        expected = hidden_states(name, original, ids, mask)[below]
        if encode == model.mice.encode_documents:
            expected = normalised(name, expected)
        with torch.no_grad():
            encoded = encode(ids, mask)
        torch.testing.assert_close(encoded.states[mask.bool()], expected[mask.bool()], atol=1e-6, rtol=0)


@every_backbone
def test_an_interaction_layer_without_a_document_is_transformers_own_layer(
    backbone_folders: dict[str, Path], name: str
) -> None:
    original = AutoModelForSequenceClassification.from_pretrained(backbone_folders[name])
    model, _ = convert(backbone_folders[name], 1, 3)
    ids, mask = texts(name, 0)
    states = hidden_states(name, original, ids, mask)
    may_read = mask.bool()[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
    layers: list[Any] = list(model.mice.interaction)
    for place, layer in enumerate(layers):
        with torch.no_grad():
            rows = layer.contextualize(states[1 + place], may_read)
        torch.testing.assert_close(rows[mask.bool()], states[2 + place][mask.bool()], atol=1e-5, rtol=0)


@every_backbone
def test_the_head_is_the_cross_encoders_own(backbone_folders: dict[str, Path], name: str) -> None:
    original = AutoModelForSequenceClassification.from_pretrained(backbone_folders[name]).eval()
    model, _ = convert(backbone_folders[name], LAYERS - 1, 1)
    ids, mask = texts(name, 1)
    with torch.no_grad():
        expected = original(ids, attention_mask=mask).logits
        rows = hidden_states(name, original, ids, mask)[LAYERS]
        torch.testing.assert_close(model.mice.head(rows, mask.bool()), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


# --- one score, along every path ---


@every_backbone
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cls_attends_document", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_every_path_gives_one_score(
    hub_folders: dict[str, Path], name: str, order: str, cls_attends_document: bool, attention: str
) -> None:
    choices = {"interaction_order": order, "cls_attends_document": cls_attends_document}
    model = load(hub_folders[name], attn_implementation=attention, **choices)
    queries, documents = model.encode_queries(*texts(name, 0)), model.encode_documents(*texts(name, 1))
    padded = model.score(queries, documents).squeeze(-1)
    assert padded.std() > 0.01  # they differ, so that agreement says something
    stored = PackedStates.from_documents(documents.unpad(), "fp32")
    for row, query in enumerate(queries.unpad()):
        one = queries.select(torch.tensor([row]))
        alone = model.encode_queries(query.input_ids.unsqueeze(0), torch.ones(1, len(query)))
        fast = model.score_documents(one, documents.unpad())
        close(fast[row], padded[row])
        close(model.score_documents(alone, stored, 2), fast)
        close(model.score(alone.select(torch.zeros(len(PAIRS), dtype=torch.long)), documents).squeeze(-1), fast)
    encoding = make_tokenizer(name)(*map(list, zip(*PAIRS, strict=True)), split_special_tokens=True, padding=True)
    pairs = {key: torch.tensor(value) for key, value in encoding.items()}
    close(model(**pairs).logits.squeeze(-1), padded)


def close(scores: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@every_backbone
@torch.no_grad()
def test_padding_does_not_move_a_score(hub_folders: dict[str, Path], name: str) -> None:
    model = load(hub_folders[name])
    sides = [texts(name, 0), texts(name, 1)]
    expected = model.score(model.encode_queries(*sides[0]), model.encode_documents(*sides[1]))
    for filler in (0, 1, 7):
        wider = []
        for ids, mask in sides:
            room = 32 - ids.shape[1]
            ids = ids.masked_fill(~mask.bool(), filler)
            wider.append(
                (torch.nn.functional.pad(ids, (0, room), value=filler), torch.nn.functional.pad(mask, (0, room)))
            )
        scores = model.score(model.encode_queries(*wider[0]), model.encode_documents(*wider[1]))
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@every_backbone
def test_every_weight_learns(hub_folders: dict[str, Path], name: str) -> None:
    model = load(hub_folders[name]).train()
    scores = model.score(model.encode_queries(*texts(name, 0)), model.encode_documents(*texts(name, 1)))
    scores.square().mean().backward()
    still = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A bias of keys, or of normalised keys, moves all logits of a row alike.
    assert [key for key in still if not key.endswith("key.bias")] == []


# Runs where mice_st cannot be imported: the argument is a JSON object of folders, pairs, documents and choices.
DOORS = """
import json, sys

from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

task, results = json.loads(sys.argv[1]), {}
pairs = [tuple(pair) for pair in task["pairs"]]
for name, folder in task["folders"].items():
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    encoding = tokenizer(*map(list, zip(*pairs)), padding=True, return_tensors="pt")
    scores = results[name] = {}
    for choice, fields in task["choices"].items():
        model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, **fields).eval()
        assert type(model).__module__.startswith("transformers_modules.")
        scores[choice] = model(**encoding).logits.squeeze(-1).tolist()
    model = CrossEncoder(folder, trust_remote_code=True, device="cpu")
    module = model[0]
    scores["stock"] = model.predict(pairs).tolist()
    scores["ranked"] = model.rank(task["query"], task["documents"])
    states = module.model.encode_documents(**module.preprocess(task["documents"])).unpad()
    scores["states"] = model.rank(task["query"], states)
print(json.dumps(results))
"""


CHOICES = {
    "/".join(map(str, values)): dict(
        zip(("interaction_order", "cls_attends_document", "attn_implementation"), values, strict=True)
    )
    for values in itertools.product(ORDERS, (True, False), ("sdpa", "eager"))
}


@pytest.mark.slow
def test_the_hub_copies_give_the_same_scores(run_python: Callable[..., str], hub_folders: dict[str, Path]) -> None:
    folders = {name: str(folder) for name, folder in hub_folders.items()}
    task = {"folders": folders, "pairs": PAIRS, "query": QUERY, "documents": DOCUMENTS, "choices": CHOICES}
    printed = json.loads(run_python(DOORS, json.dumps(task), without_mice_st=True).splitlines()[-1])
    for name, folder in hub_folders.items():
        queries, documents = texts(name, 0), texts(name, 1)
        for choice, fields in CHOICES.items():
            model = load(folder, **fields)
            with torch.no_grad():
                scores = model.score(model.encode_queries(*queries), model.encode_documents(*documents)).squeeze(-1)
            np.testing.assert_allclose(printed[name][choice], scores.numpy(), atol=1e-5, rtol=0, err_msg=choice)
        model = MiceCrossEncoder(str(folder), device="cpu")
        np.testing.assert_allclose(printed[name]["stock"], model.predict(PAIRS), atol=1e-5, rtol=0)
        expected = model.rank(QUERY, DOCUMENTS)
        for door in ("ranked", "states"):
            rank_alike(printed[name][door], expected, tolerance=1e-5)
