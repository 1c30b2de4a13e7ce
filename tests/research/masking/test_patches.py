"""Patches and presets as tables; what a model does with them is tested in test_masked_cross_encoder.py."""

from typing import Any

import pytest

from mice_st.research.masking import SEGMENTS, Patch, make_preset, readable_segments
from mice_st.research.masking.patches import as_patches


@pytest.mark.parametrize("name", ["mask3-l0", "mask3-l5", "mask3", "mask4", "prettr-l5", "Mask0", "mask0-l2", ""])
def test_unknown_presets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="masking: "):
        make_preset(name, 4)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((["Q"], ["DOC"]), "patch 1: patch columns: there is no segment 'DOC'; there are CLS, Q, SEP1, D, SEP2"),
        (("Q", ["D"]), "patch 1: patch rows: expected a list"),
        (([], ["D"]), "patch 1: patch rows: expected a list"),
        ((["Q"], ["D"], 4), "patch 1: first_layer 4, but the model's last layer is 3"),
        ((["Q"], ["D"], 0, 4), "patch 1: last_layer 4, but the model's last layer is 3"),
        ((["Q"], ["D"], 2, 1), "patch 1: patch: layers 2 to 1 are none"),
        ((["Q"], ["D"], -1), "patch 1: patch: layers -1"),
        ((["Q"], ["D"], "0"), "patch 1: patch first_layer: expected a number"),
        ((["Q"],), "patch 1: "),
    ],
)
def test_faulty_patches_are_named(patch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_patches([Patch(("CLS",), ("D",)), patch], 4)


def test_a_patch_takes_away_its_own_layers_and_segments_only() -> None:
    readable = readable_segments(as_patches([(["Q", "CLS"], ["D"], 1, 2)], 4), 4)
    lost = {(layer, SEGMENTS[row], SEGMENTS[column]) for layer, row, column in (~readable).nonzero().tolist()}
    assert lost == {(1, "Q", "D"), (1, "CLS", "D"), (2, "Q", "D"), (2, "CLS", "D")}


def test_mask3_in_all_layers_lets_the_query_read_the_document_nowhere() -> None:
    readable = readable_segments(make_preset("mask3-l4", 4), 4)
    assert not readable[:, SEGMENTS.index("Q"), SEGMENTS.index("D")].any()
