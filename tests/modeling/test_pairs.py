"""``forward``: pair encodings, cut into queries and documents, and what is refused as one."""

from collections.abc import Callable

import pytest
import torch

from mice_st.modeling.modeling_mice import MiceForSequenceClassification, split_pairs
from tests.modeling.small_model import CLS, EVERYTHING, PAIRS, SEP, pad, pair_rows, score_pairs


@torch.no_grad()
def test_forward_splits_pairs_and_scores_them(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(**EVERYTHING)
    expected = score_pairs(model)
    ids, mask = pad(pair_rows())
    logits = model(ids, mask).logits
    assert logits.shape == (len(PAIRS), 1)
    torch.testing.assert_close(logits.squeeze(-1), expected, atol=1e-6, rtol=0)
    types = torch.tensor([[0] * (len(q) + 2) + [1] * (ids.shape[1] - len(q) - 2) for q, _ in PAIRS])
    assert torch.equal(model(ids, mask, token_type_ids=types).logits, logits)
    left = model(*pad(pair_rows(), length=25, left=True)).logits
    torch.testing.assert_close(left, logits, atol=1e-6, rtol=0)
    row = torch.tensor(pair_rows()[:1])
    torch.testing.assert_close(model(row).logits, logits[:1], atol=1e-6, rtol=0)  # no mask: all tokens


def test_forward_with_labels(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    labels = torch.tensor([1, 0, 2, 0])
    output = model(*pad(pair_rows()), labels=labels)
    mean = sum((row[0] - label) ** 2 for row, label in zip(output.logits.tolist(), labels.tolist(), strict=True)) / 4
    assert output.loss.item() == pytest.approx(mean, rel=1e-5)
    loss, logits = model(*pad(pair_rows()), labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert model(*pad(pair_rows())).loss is None


@torch.no_grad()
def test_a_further_separator_belongs_to_the_document(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build()
    (query, query_mask), (document, _) = split_pairs(
        model.config, torch.tensor([[CLS, 10, SEP, 11, SEP, 12, SEP]]), None
    )
    assert query.tolist() == [[CLS, 10, SEP]]
    assert query_mask.tolist() == [[True] * 3]
    assert document.tolist() == [[CLS, 11, SEP, 12, SEP]]


@pytest.mark.parametrize(
    "row",
    [
        [10, 11, SEP, 12, SEP],  # does not start with [CLS]
        [CLS, 10, 11, 12, SEP],  # one [SEP]
        [CLS, 10, SEP, 11, 12],  # does not end with [SEP]
        [CLS, 10, SEP, 11, SEP, 12],  # goes on after the last [SEP]
        [CLS, 10, 11, 12, 13],  # none
    ],
)
def test_a_row_that_is_no_pair_is_named(build: Callable[..., MiceForSequenceClassification], row: list[int]) -> None:
    rows = [[CLS, 10, SEP, 11, SEP], row]
    with pytest.raises(ValueError, match=r"row 1 is not of the form \[CLS\] query \[SEP\] document \[SEP\]"):
        build()(*pad(rows))


@torch.no_grad()
def test_long_sides_are_cut_each_at_its_own_length(build: Callable[..., MiceForSequenceClassification]) -> None:
    model = build(query_max_length=8, document_max_length=10)
    query, document = list(range(10, 30)), list(range(30, 58))
    logits = model(torch.tensor([[CLS, *query, SEP, *document, SEP]])).logits
    short = model(torch.tensor([[CLS, *query[:6], SEP, *document[:8], SEP]])).logits
    assert torch.equal(logits, short)
    less = model(torch.tensor([[CLS, *query[:5], SEP, *document[:8], SEP]])).logits
    assert not torch.allclose(less, short)
