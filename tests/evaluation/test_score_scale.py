"""Scores are scaled so that a sigmoid tells them apart; their order stays."""

from pathlib import Path

import pytest
import torch

from mice_st import MiceCrossEncoder
from mice_st.data.collection import Collection
from mice_st.evaluation.score_scale import judged_lists, lower_score_scale, score_lists

TEXTS = ["the capital of germany", "a river and a bridge", "berlin", "how many people live in the city", ""]
LISTS = [("where is berlin", TEXTS), ("a bridge", TEXTS[::-1])]


@pytest.fixture
def model(mice_folder: Path) -> MiceCrossEncoder:
    """With logits that a sigmoid cannot tell apart."""
    model = MiceCrossEncoder(str(mice_folder), device="cpu")
    with torch.no_grad():
        model.mice.classifier.weight.mul_(200.0)
        model.mice.classifier.bias.fill_(20.0)
    return model


def test_logits_come_within_eight_and_keep_their_order(model: MiceCrossEncoder, tmp_path: Path) -> None:
    before = score_lists(model, LISTS)
    worded = [score for score in before if score != model.mice.config.empty_document_score]
    assert max(map(abs, worded)) > 17
    assert len(before) == len(worded) + 2
    scale = lower_score_scale(model, before)
    assert scale == pytest.approx(8.0 / max(map(abs, worded)))
    after = score_lists(model, LISTS)
    assert [score == -100.0 for score in after] == [score == -100.0 for score in before]  # blank ones are not scaled
    scaled = [score for score in after if score != -100.0]
    assert scaled == pytest.approx([score * scale for score in worded], abs=1e-4)
    assert max(map(abs, scaled)) == pytest.approx(8.0)
    model.save(str(tmp_path))
    assert MiceCrossEncoder(str(tmp_path), device="cpu").mice.config.score_scale == scale
    assert lower_score_scale(model, after) == pytest.approx(scale)


def test_small_scores_are_left_alone(model: MiceCrossEncoder) -> None:
    assert lower_score_scale(model, [0.01, -7.9, -100.0]) == 1.0
    with pytest.raises(ValueError, match="no score to measure"):
        lower_score_scale(model, [-100.0])


def test_the_lists_of_a_collection_hold_its_judged_documents() -> None:
    corpus = {f"d{place}": f"text {place}" for place in range(40)}
    queries = {f"q{place}": f"query {place}" for place in range(3)}
    collection = Collection("made", corpus, queries, {query: {f"d{place}": 1} for place, query in enumerate(queries)})
    lists = dict(judged_lists(collection))
    assert set(lists) == set(queries.values())
    for place, query in enumerate(queries.values()):
        assert lists[query][0] == f"text {place}"
        assert len(lists[query]) == 9
