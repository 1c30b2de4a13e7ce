"""Losses against hand-written mathematics, and each of them through the trainer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import MarginMSELoss

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.training import TrainingRecipe, train
from mice_st.training.data import rows_to_dataset
from mice_st.training.losses import LAYOUTS, build_loss, choose_loss
from mice_st.training.row_format import TrainingRow
from mice_st.training.rows import MemoryRows
from mice_st.training.stored_states import RerankerDataCollator

Recipe = Callable[..., TrainingRecipe]

QUERIES = ["how many people", "the river"]
DOCUMENTS = [["three people", "a cat", "a dog in berlin"], ["a bridge", "the river of berlin", "cat"]]
SCORES = [[4.0, 1.0, -2.0], [0.5, 3.0, 1.0]]


@pytest.fixture
def still(still_mice_folder: Path) -> MiceCrossEncoder:
    return MiceCrossEncoder(str(still_mice_folder), device="cpu").train()


def logits(model: CrossEncoder) -> torch.Tensor:
    """``(queries, documents)``, each pair scored by itself."""
    pairs = [(query, text) for query, texts in zip(QUERIES, DOCUMENTS, strict=True) for text in texts]
    return torch.stack([model(model.preprocess([pair]))["scores"].view(()) for pair in pairs]).view(2, 3)


def test_list_net_with_a_temperature_is_listwise_distillation(still: MiceCrossEncoder) -> None:
    loss = build_loss("list_net", still, temperature=2.0)
    collate = RerankerDataCollator(preprocess_fn=still.preprocess, temperature=2.0)
    features = [
        {"query": query, "documents": texts, "labels": labels, "source": "here"}
        for query, texts, labels in zip(QUERIES, DOCUMENTS, SCORES, strict=True)
    ]
    batch = collate(features)
    computed = loss([batch["query"], batch["documents"]], batch["label"])
    student = F.log_softmax(logits(still) / 2.0, dim=1)
    teacher = F.softmax(torch.tensor(SCORES) / 2.0, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean")
    entropy = -(teacher * teacher.log()).sum(1).mean()
    assert float(computed) == pytest.approx(float(divergence + entropy), abs=1e-5)


def test_margin_mse_in_one_pass_is_sentence_transformers_own(still: MiceCrossEncoder) -> None:
    columns = [QUERIES, *(list(column) for column in zip(*DOCUMENTS, strict=True))]
    labels = [torch.tensor(scores) for scores in SCORES]
    ours = build_loss("margin_mse", still)(columns, labels)
    theirs = MarginMSELoss(still)(cast(Any, columns), labels)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    gradients = []
    for value in (ours, theirs):
        still.zero_grad()
        value.backward()
        gradients.append([parameter.grad.clone() for parameter in still.parameters() if parameter.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_margin_mse_encodes_each_query_once(still: MiceCrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = still.mice.encode_queries

    def count(ids: torch.Tensor, mask: torch.Tensor) -> Any:
        encoded.append(len(ids))
        return encode(ids, mask)

    monkeypatch.setattr(still.mice, "encode_queries", count)
    columns = [QUERIES, *(list(column) for column in zip(*DOCUMENTS, strict=True))]
    build_loss("margin_mse", still)(columns, [torch.tensor(scores) for scores in SCORES])
    assert encoded == [2]


def test_auto_and_faults() -> None:
    plain = TrainingRow("q", "p", ("n",), None, "row 0")
    scored = TrainingRow("q", "p", ("n",), (1.0, 0.0), "row 0")
    pair = TrainingRow("q", "p", (), (1.0,), "row 0")
    assert [choose_loss("auto", MemoryRows([row])) for row in (plain, scored, pair)] == [
        "list_net",
        "margin_mse",
        "mse",
    ]
    assert choose_loss("lambda", MemoryRows([scored])) == "lambda"


def test_only_list_net_has_a_temperature(still: MiceCrossEncoder) -> None:
    with pytest.raises(ValueError, match="temperature: loss margin_mse has none"):
        build_loss("margin_mse", still, temperature=2.0)
    with pytest.raises(ValueError, match="loss: 'hinge' is none of"):
        build_loss("hinge", still)


@pytest.mark.parametrize("loss", list(LAYOUTS))
def test_every_loss_takes_the_columns_of_its_rows(still: MiceCrossEncoder, loss: str) -> None:
    rows = [
        TrainingRow(query, texts[0], tuple(texts[1:]), tuple(scores), "here")
        for query, texts, scores in zip(QUERIES, DOCUMENTS, SCORES, strict=True)
    ]
    collate = RerankerDataCollator(preprocess_fn=still.preprocess, in_pairs=LAYOUTS[loss] == "pairs")
    batch = collate([rows_to_dataset(rows, loss, 10.0)[place] for place in range(2)])
    assert batch.pop("source")
    labels = batch.pop("label", None)
    value = build_loss(loss, still)(list(batch.values()), labels)
    value.backward()
    assert bool(torch.isfinite(value))
    if loss == "mse":
        expected = ((logits(still) - torch.tensor(SCORES)) ** 2).mean()
        assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    if loss == "bce":
        expected = F.binary_cross_entropy_with_logits(logits(still), torch.sigmoid(torch.tensor(SCORES)))
        assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", list(LAYOUTS))
def test_every_loss_learns_who_is_better(recipe: Recipe, toy: Collection, loss: str, tmp_path: Path) -> None:
    documents = list(toy.corpus.values())
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as lines:
        for place, query in enumerate(list(toy.queries.values())[:8]):
            row = {
                "query": query,
                "positive": documents[place],
                "negatives": [documents[place - 1], documents[place - 2]],
            }
            lines.write(json.dumps(row | {"scores": [3.0, -1.0, -2.0]}) + "\n")
    result = train(recipe(train_data=str(rows), loss=loss, max_steps=40, learning_rate=2e-3))
    losses = [entry["loss"] for entry in result.history]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    pairs = [
        (query, documents[place - shift])
        for place, query in enumerate(list(toy.queries.values())[:8])
        for shift in (0, 2)
    ]
    scores = torch.tensor(result.model.predict(pairs)).view(8, 2)
    assert int((scores[:, 0] > scores[:, 1]).sum()) >= 7
