"""Segments are found in token ids, whatever a tokenizer puts between the sides."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mice_st.research.masking.pair_layout import PairLayout, restarted_positions

NAMES = {"C": 0, "q": 1, "1": 2, "d": 3, "2": 4, ".": 5}


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", ["Cqq1ddd2..", "Cqqq1dddd2", "C12......."]), ("roberta", ["Cqq11ddd2..", "Cqqq11dddd2", "C112......."])],
)
def test_segments_of_a_padded_batch(family: str, expected: list[str], family_folder: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(family_folder(family))
    batch = tokenizer(
        [("the city", "the museum of"), ("who is what", "cat dog bird river"), ("", "")],
        padding=True,
        return_tensors="pt",
    )
    segments = PairLayout.of_tokenizer(tokenizer).find_segments(batch["input_ids"], batch["attention_mask"])
    width = segments.shape[1]
    assert segments.tolist() == [[NAMES[letter] for letter in row.ljust(width, ".")[:width]] for row in expected]


def test_positions_restart_with_the_document() -> None:
    segments = torch.tensor([[0, 1, 1, 2, 3, 3, 4, 5], [0, 1, 2, 2, 3, 3, 3, 4]])
    assert restarted_positions(segments, 2).tolist() == [[2, 3, 4, 5, 2, 3, 4, 2], [2, 3, 4, 5, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "row",
    [[2, 9, 3, 9, 9], [9, 9, 3, 9, 3], [2, 9, 3, 9, 3, 9], [2, 9, 3, 9, 3, 9, 3], [2, 9, 9, 9, 9, 3]],
    ids=["no end", "no start", "text after the end", "three sides", "one side"],
)
def test_a_row_that_is_no_pair_is_named(row: list[int]) -> None:
    good = [2, 9, 3, 9, 9, 9, 3]
    ids = torch.tensor([good, row + [0] * (len(good) - len(row))])
    with pytest.raises(ValueError, match="row 1 is not of the form"):
        PairLayout(2, 3, 1).find_segments(ids, (ids != 0).long())


def test_separators_apart_are_no_pair_of_roberta() -> None:
    with pytest.raises(ValueError, match=r"row 0 is not of the form \[CLS\] query \[SEP\] \[SEP\] document \[SEP\]"):
        PairLayout(2, 3, 2).find_segments(torch.tensor([[2, 9, 3, 9, 3, 9, 3]]), None)


@pytest.mark.parametrize(
    "template", ["$A $B", "[CLS] $A $B [SEP]", "$A [SEP] $B [SEP]", "[CLS] $A [SEP] $B [SEP] [SEP]"]
)
def test_unknown_separators_are_refused_and_shown(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    own = copy.deepcopy(tokenizer)
    ids = [("[CLS]", own.cls_token_id), ("[SEP]", own.sep_token_id)]
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair=template, special_tokens=ids)
    with pytest.raises(ValueError, match="separators cannot be recognised"):
        PairLayout.of_tokenizer(own)
