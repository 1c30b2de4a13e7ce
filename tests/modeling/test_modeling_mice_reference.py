"""The model's scores against an independent re-implementation: loops over heads and tokens, in float64."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel

from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from tests.modeling.small_model import CLS, PAIRS, SEP, frame, score_pairs


class Reference:
    """The paper's description, one pair at a time, without padding or masks."""

    def __init__(self, model: MiceForSequenceClassification) -> None:
        self.config = model.config
        self.weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
        self.backbone = BertModel(model.config.backbone_config, add_pooling_layer=False).double().eval()
        self.backbone.load_state_dict({name: tensor.double() for name, tensor in model.backbone.state_dict().items()})

    def linear(self, name: str, rows: np.ndarray) -> np.ndarray:
        product = rows @ self.weights[f"{name}.weight"].T
        return product + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else product

    def norm(self, name: str, rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config.backbone_config.layer_norm_eps)
        return centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attend(
        self, name: str, rows: np.ndarray, states: np.ndarray, may_read: Callable[[int, int], bool]
    ) -> np.ndarray:
        query, key, value = (
            self.linear(f"{name}.{part}", x)
            for part, x in zip(("query", "key", "value"), (rows, states, states), strict=True)
        )
        heads = self.config.backbone_config.num_attention_heads
        width = rows.shape[1] // heads
        context = np.zeros_like(rows)
        for head, row in itertools.product(range(heads), range(len(rows))):
            columns = slice(head * width, (head + 1) * width)
            read = [place for place in range(len(states)) if may_read(row, place)]
            weights = np.exp(key[read, columns] @ query[row, columns] / math.sqrt(width))
            if read:
                context[row, columns] = weights / weights.sum() @ value[read, columns]
        return self.norm(f"{name}.norm", rows + self.linear(f"{name}.output", context))

    def read_document(
        self, name: str, rows: np.ndarray, states: np.ndarray, ids: tuple[list[int], list[int]]
    ) -> np.ndarray:
        if self.config.exact_match:
            rows = rows.copy()
            for row, token in enumerate(ids[0]):
                same = [states[place] for place, other in enumerate(ids[1]) if other == token]
                if same and token not in (CLS, SEP):
                    mean = sum(same) / len(same)
                    rows[row] += self.linear(
                        f"{name}.exact_match.output", self.linear(f"{name}.exact_match.value", mean)
                    )
        sees = self.config.cls_attends_document
        return self.attend(f"{name}.cross_attention", rows, states, lambda row, _: sees or row != 0)

    def read_query(self, name: str, rows: np.ndarray) -> np.ndarray:
        sees = self.config.query_attends_cls
        return self.attend(f"{name}.self_attention", rows, rows, lambda row, place: sees or row == 0 or place != 0)

    def feed_forward(self, name: str, rows: np.ndarray) -> np.ndarray:
        inner = self.linear(f"{name}.intermediate", rows)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))  # GELU
        return self.norm(f"{name}.norm", rows + self.linear(f"{name}.output", inner))

    def contextualise(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return self.backbone(torch.tensor([ids])).last_hidden_state[0].numpy()

    def score(self, query: list[int], document: list[int]) -> float:
        ids = (frame(query), frame(document))
        query_states, document_states = map(self.contextualise, ids)
        rows = query_states
        for layer in range(self.config.interaction_layers):
            name = f"interaction.{layer}"
            if self.config.interaction_order == "cross_first":
                rows = self.read_query(name, self.read_document(name, rows, document_states, ids))
            else:
                rows = self.read_document(name, self.read_query(name, rows), document_states, ids)
            rows = self.feed_forward(f"{name}.feed_forward", rows)
        row = np.tanh(self.linear("pooler", rows[0])) if self.config.pooler else rows[0]
        score = self.linear("classifier", row).item()
        if self.config.pooled_residual:
            first, second = (
                states[0] if self.config.pooling == "cls" else states.mean(0)
                for states in (query_states, document_states)
            )
            cosine = first @ second / math.sqrt(first @ first) / math.sqrt(second @ second)
            score += math.exp(self.weights["pooled_residual_log_scale"].item()) * cosine
        return score


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("residual", [None, "mean", "cls"])
@pytest.mark.parametrize("exact_match", [False, True])
@pytest.mark.parametrize("query_attends_cls", [False, True])
@pytest.mark.parametrize("cls_attends_document", [True, False])
@pytest.mark.parametrize("order", ["cross_first", "self_first"])
def test_score_equals_a_loop_over_heads_and_tokens(
    build: Callable[..., MiceForSequenceClassification],
    order: str,
    cls_attends_document: bool,
    query_attends_cls: bool,
    exact_match: bool,
    residual: str | None,
    pooler: bool,
) -> None:
    model = build(
        interaction_layers=3,
        interaction_order=order,
        cls_attends_document=cls_attends_document,
        query_attends_cls=query_attends_cls,
        exact_match=exact_match,
        pooled_residual=residual is not None,
        pooling=residual or "mean",
        pooler=pooler,
    )
    reference = Reference(model)
    expected = [reference.score(query, document) for query, document in PAIRS]
    assert np.ptp(expected) > 0.05  # the pairs differ, so that agreement says something
    np.testing.assert_allclose(score_pairs(model).numpy(), expected, atol=1e-5, rtol=0)


CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"interaction_order": "cross_first"}, {"interaction_order": "self_first"}),
    ({"query_attends_cls": False}, {"query_attends_cls": True}),
    ({"cls_attends_document": True}, {"cls_attends_document": False}),
    ({"pooler": True}, {"pooler": False}),
]


@pytest.mark.parametrize(("one", "other"), CHOICES)
def test_every_choice_changes_the_score(
    build: Callable[..., MiceForSequenceClassification], one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = build(interaction_layers=2, **one), build(interaction_layers=2, **other)
    second.load_state_dict(first.state_dict(), strict=False)
    assert (score_pairs(first) - score_pairs(second)).abs().max() > 1e-3
