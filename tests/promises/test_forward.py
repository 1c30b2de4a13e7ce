"""``forward`` as BertForSequenceClassification has it; other classes on the folder; export of the parts of a score."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor
from transformers import BertForSequenceClassification

from mice_st import MiceCrossEncoder
from mice_st.modeling.layers_mice import EncodedTexts
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from tests.promises.one_score import assert_one_line
from tests.text_pairs import PAIRS

Encoding = dict[str, Tensor]


@pytest.fixture
def encoding(mice: MiceCrossEncoder) -> Encoding:
    return dict(mice.tokenizer(*map(list, zip(*PAIRS[:4], strict=True)), padding=True, return_tensors="pt"))


@pytest.fixture
def model(mice_folder: Path) -> MiceForSequenceClassification:
    return MiceForSequenceClassification.from_pretrained(mice_folder, attn_implementation="eager").eval()


@torch.no_grad()
def test_hidden_states_and_attentions_are_given_on_demand(
    model: MiceForSequenceClassification, encoding: Encoding
) -> None:
    plain = model(**encoding)
    assert plain.hidden_states is None
    assert plain.attentions is None
    full = model(**encoding, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(full.logits, plain.logits, atol=1e-6, rtol=0)
    for name in ("hidden_states", "attentions"):
        found = getattr(full, name)
        assert isinstance(found, tuple), name
        assert found, name
        for tensor in found:
            assert isinstance(tensor, Tensor), name
            assert len(tensor) == len(encoding["input_ids"]), name
            assert tensor.isfinite().all(), name
    assert {states.shape[-1] for states in full.hidden_states} == {model.config.hidden_size}


@torch.no_grad()
def test_they_can_be_asked_for_in_the_config(model: MiceForSequenceClassification, encoding: Encoding) -> None:
    model.config.output_hidden_states = True
    assert model(**encoding).hidden_states
    assert model(**encoding, output_hidden_states=False).hidden_states is None


@torch.no_grad()
def test_without_return_dict_it_is_a_tuple(model: MiceForSequenceClassification, encoding: Encoding) -> None:
    logits = model(**encoding, return_dict=True).logits
    (alone,) = model(**encoding, return_dict=False)
    assert torch.equal(alone, logits)
    labels = torch.tensor([1.0, 0.0, 0.5, 0.0])
    loss, with_loss = model(**encoding, labels=labels, return_dict=False)
    assert torch.equal(with_loss, logits)
    assert float(loss) == pytest.approx(float((logits.squeeze(-1) - labels).square().mean()), abs=1e-6)
    found = model(**encoding, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert torch.equal(found[0], logits)
    assert [type(part) for part in found[1:]] == [tuple, tuple]


def test_it_takes_the_arguments_of_bert(model: MiceForSequenceClassification, encoding: Encoding) -> None:
    ours = inspect.signature(model.forward).parameters
    theirs = inspect.signature(BertForSequenceClassification.forward).parameters
    accepts_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values())
    assert accepts_more
    assert set(theirs) - {"self", "position_ids", "kwargs"} <= set(ours)
    with torch.no_grad():
        expected = model(**encoding).logits
        assert torch.equal(
            model(**encoding, inputs_embeds=None, position_ids=None, num_items_in_batch=4).logits, expected
        )


def test_embeddings_in_place_of_ids_are_refused_by_name(
    model: MiceForSequenceClassification, encoding: Encoding
) -> None:
    embeddings = model.get_input_embeddings()(encoding["input_ids"])
    with pytest.raises(ValueError, match="inputs_embeds"):
        model(inputs_embeds=embeddings, attention_mask=encoding["attention_mask"])
    with pytest.raises(ValueError, match="input_ids"):
        model(attention_mask=encoding["attention_mask"])


# --- other classes on the folder ---


def test_other_backends_are_refused_by_name(load_either: Callable[..., CrossEncoder]) -> None:
    """Before sentence-transformers asks for packages that would not help."""
    for backend in ("onnx", "openvino"):
        with pytest.raises(ValueError, match="MICE") as caught:
            load_either(backend=backend)
        assert_one_line(caught.value, backend)


OPEN = """
import sys, json
import numpy as np
from transformers import AutoModel
from sentence_transformers import SentenceTransformer
folder = sys.argv[1]
calls = {
    "AutoModel": lambda: AutoModel.from_pretrained(folder, trust_remote_code=True),
    "SentenceTransformer": lambda: SentenceTransformer(folder, trust_remote_code=True, device="cpu").encode("a dog"),
}
try:
    made = calls[sys.argv[2]]()
    print(json.dumps([type(made).__name__, bool(np.isfinite(made).all()) if isinstance(made, np.ndarray) else True]))
except ValueError as error:
    print(json.dumps(["ValueError", str(error)]))
"""


@pytest.mark.parametrize("kind", ["AutoModel", "SentenceTransformer"])
@pytest.mark.parametrize("without_mice_st", [True, False], ids=["published code", "installed code"])
def test_other_classes_work_or_say_what_the_folder_is(
    fork_python: Callable[..., str], mice_folder: Path, kind: str, without_mice_st: bool
) -> None:
    code = OPEN if without_mice_st else "import mice_st\nmice_st.MiceCrossEncoder\n" + OPEN
    printed = fork_python(code, mice_folder, kind, without_mice_st=without_mice_st)
    made, answer = json.loads(printed.splitlines()[-1])
    if made == "ValueError":
        assert "MICE" in answer
        assert "\n" not in answer
        assert len(answer) < 300
    else:
        assert answer is True


# --- export ---


class Documents(torch.nn.Module):
    def __init__(self, model: MiceForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_documents(input_ids, attention_mask).states


class Queries(Documents):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_queries(input_ids, attention_mask).states


class Score(Documents):
    def forward(self, *parts: Tensor) -> Tensor:  # type: ignore[override]
        return self.model.score(EncodedTexts(*parts[:3]), EncodedTexts(*parts[3:]))


def make_batch(lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, 100, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    ids[:, 0] = 2
    for row, length in enumerate(lengths):
        ids[row, length - 1], ids[row, length:] = 3, 0
    return ids, mask


EXPORTED = ["mice_folder", "max_sim_folder", "modernbert_folder"]


@pytest.mark.parametrize("side", [Documents, Queries])
@pytest.mark.parametrize("folder", EXPORTED)
def test_encoders_export_with_any_number_and_length_of_texts(
    request: pytest.FixtureRequest, folder: str, side: type[Documents]
) -> None:
    model = MiceForSequenceClassification.from_pretrained(request.getfixturevalue(folder)).eval()
    module = side(model)
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=3, max=30)
    example = make_batch([9, 5, 7], seed=0)
    exported = torch.export.export(module, example, dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}))
    for lengths in ([9, 5, 7], [4, 12], [3, 3, 6, 11, 20]):
        ids, mask = make_batch(lengths, seed=len(lengths))
        with torch.no_grad():
            expected, found = module(ids, mask), exported.module()(ids, mask)
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("folder", EXPORTED)
def test_score_exports_with_any_number_and_length_of_texts(request: pytest.FixtureRequest, folder: str) -> None:
    model = MiceForSequenceClassification.from_pretrained(request.getfixturevalue(folder)).eval()
    module = Score(model)

    def parts(queries: list[int], documents: list[int]) -> tuple[Tensor, ...]:
        sides = (make_batch(queries, 1), make_batch(documents, 2))
        with torch.no_grad():
            return (*model.encode_queries(*sides[0]), *model.encode_documents(*sides[1]))

    batch = torch.export.Dim("batch", min=2, max=64)
    names = [torch.export.Dim(name, min=3, max=40) for name in ("query", "document")]
    shapes = tuple({0: batch, 1: names[place // 3]} for place in range(6))
    exported = torch.export.export(module, parts([5, 4, 8], [9, 5, 7]), dynamic_shapes=(shapes,))
    for queries, documents in (([5, 4, 8], [9, 5, 7]), ([6, 3], [12, 20]), ([3, 4, 5, 6], [21, 4, 5, 6])):
        given = parts(queries, documents)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(*given), module(*given), atol=1e-5, rtol=0)
