"""Operation counts against numbers worked out by hand, and against what torch counts while the model runs."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mice_st import MiceConfig, MiceForSequenceClassification
from mice_st.modeling.interaction_mice import absorbing_pays, score_documents
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.research.benchmark import flops

TINY = flops.Shape(width=2, inner=3, heads=1)


def test_one_layer_by_hand() -> None:
    # 3 tokens: projections 2*3*4*4 = 96, feed-forward 2*3*2*2*3 = 72, attention 4*9*2 = 72
    assert flops.layer(TINY, 3) == 96 + 72 + 72


def test_mice_by_hand() -> None:
    # layer(1) = 32 + 24 + 8 = 64; layer(3) = 240. One layer below, one above, query 1, document 3.
    assert flops.paper_mice(TINY, 1, 1, 1, 3) == (64 + 240) + (64 + 8 * 3 * 4 + 4 * 1 * 4 * 2)
    assert flops.exact_mice(TINY, 1, 1, 1, 3) == (64 + 240) + (64 + 4 * 1 * 4 + 4 * 3 * 4 + 4 * 1 * 3 * 2)
    assert flops.exact_mice(TINY, 1, 1, 1, 3, stored=True) == 64 + (64 + 16 + 48 + 24)


def test_the_published_figures_are_reproduced() -> None:
    lengths = (flops.PAPER_QUERY, flops.PAPER_DOCUMENT)
    full = flops.cross_encoder(flops.MINILM, 12, flops.PAPER_SEQUENCE)
    assert round(full / 1e9, 2) == 26.58
    assert round(flops.paper_mice(flops.MINILM, 4, 3, *lengths) / 1e9, 2) == 10.72
    assert round(flops.paper_mice(flops.MINILM, 4, 3, *lengths) / full, 3) == 0.403
    assert round(flops.exact_mice(flops.MINILM, 4, 3, *lengths) / full, 3) == 0.373
    assert round(flops.exact_mice(flops.MINILM, 4, 3, *lengths, stored=True) / full, 3) == 0.067


@pytest.mark.parametrize(
    ("shape", "layers", "below", "above", "share"),
    [
        (flops.MINILM, 12, 4, 8, 0.54),
        (flops.MINILM, 12, 8, 3, 0.73),
        (flops.Shape(256, 384, 4), 7, 3, 3, 0.58),  # Ettin-17m
        (flops.Shape(384, 576, 6), 10, 6, 3, 0.71),  # Ettin-32m
        (flops.Shape(512, 768, 8), 19, 8, 3, 0.48),  # Ettin-68m
        (flops.Shape(768, 1152, 12), 22, 12, 3, 0.60),  # Ettin-150m
    ],
)
def test_the_convention_fits_every_published_share(
    shape: flops.Shape, layers: int, below: int, above: int, share: float
) -> None:
    full = flops.cross_encoder(shape, layers, flops.PAPER_SEQUENCE)
    assert round(flops.paper_mice(shape, below, above, flops.PAPER_QUERY, flops.PAPER_DOCUMENT) / full, 2) == share


def test_fast_interaction_by_hand() -> None:
    # self_first, [CLS] blind, two layers, query of 2, one document of 3 tokens, absorbed; w = 2, H = 1, f = 3.
    interaction = flops.Interaction(TINY, layers=2, cross_first=False, blind_rows=1, pooler=False)
    # The blind [CLS] goes through the first layer's output projection and feed-forward, too, once for all documents.
    first = (8 * 2 * 4 + 4 * 4 * 2) + 16 + (4 * 3 * 2 + 2 * 4) + 2 * 8 + 2 * 4 * 2 * 3
    last = (8 * 4 + 4 * 1 * 2 * 2) + 0 + 8 + 4 * 2 * 3
    assert flops.fast_interaction(interaction, 2, [3], absorbed=True) == first + last + 2 * 2


def count_fused(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


@pytest.mark.parametrize("order", ["self_first", "cross_first"])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("document_tokens", [4, 40])
def test_fast_interaction_is_what_torch_counts(bert_config: Any, order: str, reads: bool, document_tokens: int) -> None:
    config = MiceConfig(bert_config(), 3, document_max_length=64, interaction_order=order, cls_attends_document=reads)
    config._attn_implementation = "eager"  # the query's self-attention, written out
    model = MiceForSequenceClassification(config).eval()
    query_tokens, lengths = 7, [document_tokens, document_tokens + 3]
    ids = torch.full((1, query_tokens), 7)
    with torch.inference_mode():
        query = model.encode_queries(ids, torch.ones_like(ids))
    documents = [
        DocumentStates(torch.randn(length, config.interaction_width), torch.full((length,), 7)) for length in lengths
    ]
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch counts it on accelerators only
    counter = FlopCounterMode(display=False, custom_mapping={fused: count_fused})
    with counter:
        score_documents(model, query, documents)
    absorbed = absorbing_pays(config, query_tokens, sum(lengths) / 2)
    assert absorbed is (document_tokens == 40), "both ways are to be counted"
    expected = flops.fast_interaction(flops.Interaction.of(config), query_tokens, lengths, absorbed)
    assert counter.get_total_flops() == expected


def test_bytes_of_a_document() -> None:
    assert flops.bytes_per_document("fp16", 384, 180) == 768 * 180
    assert flops.bytes_per_document("int8", 128, 75) == 130 * 75


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_config": {"model_type": "modernbert"}}, "'modernbert' has others"),
        ({"interaction_attention": "joint"}, "interaction_attention"),
        ({"mask3_frame": True}, "mask3_frame"),
        ({"query_self_attention": False}, "query_self_attention"),
    ],
)
def test_what_is_not_counted_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"flops: .*{message}"):
        flops.Interaction.of(MiceConfig(**fields))
