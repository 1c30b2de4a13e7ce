"""Operations and bytes of MICE, counted on paper.

An operation is one multiplication or one addition in a matrix product; softmax, normalisation and activations are left
out, as everywhere in the literature. Letters: q query tokens, n document tokens, L layers of the cross-encoder,
l contextualisation and k interaction layers, w width, f inner width of the feed-forward, H heads.

Three counts are kept apart:

- ``paper_*``: the convention of the MICE paper's FLOPs column (arXiv 2602.16299), a cross-encoder sequence of 512 tokens
  against a query of 32 and a document of 477. It counts all four projections of the cross-attention on document tokens,
  and its logits over query and document tokens; this reading gives the published 10.72 of 26.58 GFLOP, .403.
- ``exact_*``: the same model, with the query and output projections counted on the query's rows only and the logits
  over document tokens only: .373, and .067 where document states are stored.
- ``fast_interaction``: what ``modeling/interaction.py`` really computes, line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.states.codecs import get_codec

PAPER_SEQUENCE, PAPER_QUERY, PAPER_DOCUMENT = 512, 32, 477  # tokens


@dataclass(frozen=True)
class Shape:
    """Size of a model.

    Attributes:
        width: Of the states, w.
        inner: Of the feed-forward, f.
        heads: Attention heads, H.
    """

    width: int
    inner: int
    heads: int


MINILM = Shape(width=384, inner=1536, heads=12)


def layer(shape: Shape, tokens: int) -> int:
    """Operations of one transformer layer: ``8 s w^2`` projections, ``4 s^2 w`` attention, ``4 s w f`` feed-forward.

    Source: two per multiplication with the ``4 w^2 + 2 w f`` weights of BERT's layer for each of ``s`` tokens, and
    ``2 s^2 w`` each for logits and weighted values. The paper counts alike: 26.58 GFLOP for MiniLM-L12 at 512 tokens.
    """
    return 2 * tokens * (4 * shape.width**2 + 2 * shape.width * shape.inner) + 4 * tokens**2 * shape.width


def cross_encoder(shape: Shape, layers: int, tokens: int) -> int:
    """Operations of a cross-encoder over one pair of ``tokens`` tokens: ``L`` layers."""
    return layers * layer(shape, tokens)


def paper_mice(shape: Shape, below: int, above: int, query: int, document: int) -> int:
    """Operations of MICE for one pair as the paper counts them.

    Source: ``l (layer(q) + layer(n)) + k (layer(q) + 8 n w^2 + 4 q (q + n) w)``; see the module's docstring.
    """
    cross = 8 * document * shape.width**2 + 4 * query * (query + document) * shape.width
    return below * (layer(shape, query) + layer(shape, document)) + above * (layer(shape, query) + cross)


def exact_mice(shape: Shape, below: int, above: int, query: int, document: int, stored: bool = False) -> int:
    """Operations of MICE for one pair, with keys and values of the document projected and nothing shared.

    Source: ``l (layer(q) + layer(n)) + k (layer(q) + 4 q w^2 + 4 n w^2 + 4 q n w)``; ``l layer(n)`` falls away where the
    document's states are stored.
    """
    width = shape.width
    cross = 4 * query * width**2 + 4 * document * width**2 + 4 * query * document * width
    contextualised = layer(shape, query) + (0 if stored else layer(shape, document))
    return below * contextualised + above * (layer(shape, query) + cross)


def contextualisation(shape: Shape, layers: int, lengths: Sequence[int]) -> int:
    """Operations of encoding texts of these lengths, in tokens, without padding."""
    return sum(layers * layer(shape, length) for length in lengths)


# Fields of MiceConfig that change what interaction layers compute, at the one value that is counted here.
COUNTED = {
    "interaction_attention": "split",
    "query_self_attention": True,
    "mask3_frame": False,
}


@dataclass(frozen=True)
class Interaction:
    """The choices of the interaction layers that change what is computed.

    Attributes:
        shape: Of the interaction layers.
        layers: k.
        cross_first: ``interaction_order == "cross_first"``.
        blind_rows: 1 where [CLS] may not read the document, else 0.
        pooler: Whether a pooler stands before the classifier.
    """

    shape: Shape
    layers: int
    cross_first: bool
    blind_rows: int
    pooler: bool = True

    @classmethod
    def of(cls, config: MiceConfig) -> Interaction:
        """Read from the model's config; exact-match heads are not counted.

        Raises:
            ValueError: If the interaction layers are not of BERT's build, or read more than the count knows: no figure
                is better than a wrong one.
        """
        if config.backbone_config.model_type == "modernbert":
            raise ValueError(
                "flops: counted for layers of BERT's build; 'modernbert' has others (gates, rotary positions)"
            )
        if uncounted := [name for name, value in COUNTED.items() if getattr(config, name) != value]:
            raise ValueError(f"flops: not counted for what {uncounted} of this config add or leave out")
        return cls(
            Shape(config.interaction_width, config.interaction_intermediate_size, config.interaction_heads),
            config.interaction_layers,
            config.interaction_order == "cross_first",
            0 if config.cls_attends_document else 1,
            config.pooler,
        )


def fast_interaction(interaction: Interaction, query: int, lengths: Sequence[int], absorbed: bool) -> int:
    """Operations of the interaction layers in the fast path, for one query and documents of these lengths.

    Source: the statements of ``modeling/interaction_mice.py``. Per document, layer and reading row r: absorbed attention costs
    ``4 H n w`` (logits and means of states) and ``2 w^2`` (values); projected attention ``4 n w``, and ``4 n w^2`` for
    keys and values. The first layer's part that depends on the query alone counts once.

    Args:
        interaction: The interaction layers.
        query: Tokens of the query, q.
        lengths: Tokens of each document.
        absorbed: Whether projections are absorbed into the query.
    """
    shape = interaction.shape
    w, heads = shape.width, shape.heads
    projection = (4 if absorbed else 2) * w * w  # per row: W_Q, and W_K where absorbed
    count, tokens = len(lengths), sum(lengths)
    total = 0
    for index in range(interaction.layers):
        first, last = index == 0, index == interaction.layers - 1
        kept = 1 if last else query
        rows = query if interaction.cross_first else kept  # that pass through the cross-attention
        readers = rows - interaction.blind_rows
        total += (1 if first and not interaction.cross_first else count) * _self_attention(shape, query, kept)
        total += (1 if first else count) * readers * projection
        if absorbed:
            total += readers * (4 * heads * tokens * w + count * 2 * w * w)
        elif readers:
            total += readers * 4 * tokens * w + 4 * tokens * w * w
        # [CLS] that reads no document goes through the first layer once for all of them.
        shared = interaction.blind_rows if first and not interaction.cross_first else 0
        total += (count * (rows - shared) + shared) * 2 * w * w  # output projection
        total += (count * (kept - shared) + shared) * 4 * w * shape.inner
    return total + count * (2 * w + (2 * w * w if interaction.pooler else 0))


def _self_attention(shape: Shape, query: int, kept: int) -> int:
    """Query self-attention; where only [CLS] is kept its row alone reads, absorbed."""
    w = shape.width
    if kept == 1:
        return 8 * w * w + 4 * shape.heads * query * w
    return 8 * query * w * w + 4 * query * query * w


def bytes_per_document(codec: str, width: int, tokens: float) -> float:
    """Bytes of one document's states, token ids excluded.

    Source: the table of ``mice_st.states.codecs``.

    Args:
        codec: Name of the codec.
        width: Values per token.
        tokens: Of the document.
    """
    return get_codec(codec).bytes_per_token(width) * tokens


def shares_of_the_paper() -> list[dict[str, Any]]:
    """MICE's share of the cross-encoder's operations at the paper's lengths: MiniLM-L12, l4+3, by each count."""
    lengths = (PAPER_QUERY, PAPER_DOCUMENT)
    full = cross_encoder(MINILM, 12, PAPER_SEQUENCE)
    return [
        {"name": "the paper's convention", "share": paper_mice(MINILM, 4, 3, *lengths) / full},
        {"name": "exact", "share": exact_mice(MINILM, 4, 3, *lengths) / full},
        {"name": "exact, states stored", "share": exact_mice(MINILM, 4, 3, *lengths, stored=True) / full},
    ]
