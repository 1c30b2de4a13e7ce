"""What adds to the head's score directly: weights of exactly matched tokens, and late interaction.

A conversion from an embedding model starts with these and the pooled residual; the interaction layers learn what is
missing. The shape letters are those of ``modeling_mice.py``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.configuration_utils import PretrainedConfig

from .states import EncodedTexts


class MiceMatchResidual(nn.Module):
    """What exact matches add to the score directly: the sum over matched query tokens of a learned term weight.

    A token's weight is ``softplus(u(query state)) * softplus(v(matched document states))``, as in uniCOIL
    (arXiv 2106.14807) but from both sides. The gate starts at zero, so that a conversion starts where its source was.
    """

    GATE_SCALE = (
        20.0  # the pooled residual's first scale: at the learning rates that suit the weights, the gate moves too
    )

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.query_weight = nn.Linear(config.interaction_width, 1)
        self.document_weight = nn.Linear(config.interaction_width, 1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, query_states: Tensor, matched_states: Tensor, is_matched: Tensor) -> Tensor:
        """``(B, Q, h)`` twice and ``(B, Q)`` from ``average_matches`` to ``(B, 1)``, float32."""
        with torch.autocast(query_states.device.type, enabled=False):
            query = F.softplus(_linear32(self.query_weight, query_states))
            document = F.softplus(_linear32(self.document_weight, matched_states))
            weights = (query * document).squeeze(-1) * is_matched  # (B, Q)
            return self.GATE_SCALE * self.gate.float() * weights.sum(-1, keepdim=True)


class MiceMaxSimResidual(nn.Module):
    """Late interaction beside the head: how alike the tokens of query and document are, at best, seen from both sides.

    ``exp(s) * (sum_i w_i max_j (c_ij + b m_ij) / sum_i w_i + g mean_j max_i c_ij)`` with the cosines ``c_ij`` of query token i
    and document token j, over the states that the interaction layers read. The first part is MaxSim as in ColBERT (arXiv
    2004.12832) with a weight for the token id of each query token, and a bonus ``b`` where both ids are the same (``m_ij``): what
    a word is in its context must not outweigh that it is that very word. The second asks how much of the document is
    about the query. A conversion starts with equal weights, or with inverse document frequencies; special tokens of the
    query do not count. A query without others gets 0.
    """

    MATCH_BONUS = 0.1  # measured on development sets, see docs/training.md
    DOCUMENT_SHARE = 0.3  # likewise

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.special_ids = (config.cls_token_id, config.sep_token_id)
        self.log_scale = nn.Parameter(torch.full((1,), math.log(20.0)))  # as the pooled residual's
        self.log_weights = nn.Parameter(torch.zeros(config.vocab_size))
        self.match_bonus = nn.Parameter(torch.full((1,), self.MATCH_BONUS))
        self.document_share = nn.Parameter(torch.full((1,), self.DOCUMENT_SHARE))

    def weigh(self, queries: EncodedTexts) -> Tensor:
        """What each query token counts, ``(B, Q)``, float32, with sum 1, or 0 without a token that counts."""
        special = torch.tensor(self.special_ids, device=queries.input_ids.device)
        counts = queries.attention_mask & ~torch.isin(queries.input_ids, special)
        weights = self.log_weights.float()[queries.input_ids].exp() * counts
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)

    def find_best(self, cosines: Tensor, is_match: Tensor) -> Tensor:
        """Cosines ``(..., Q, D)`` and where ids are the same to what each query token finds at best, ``(..., Q)``."""
        return (cosines + self.match_bonus.float() * is_match).amax(-1)

    def combine(self, weights: Tensor, best: Tensor, document_mean: Tensor) -> Tensor:
        """Weights and ``find_best`` ``(B, Q)``, mean over document tokens of their greatest cosine ``(B,)`` to ``(B, 1)``."""
        total = (weights * best).sum(-1) + self.document_share.float() * document_mean
        return (self.log_scale.float().exp() * total).unsqueeze(-1)

    def forward(self, queries: EncodedTexts, documents: EncodedTexts) -> Tensor:
        """States ``(B, Q, h)`` and ``(B, D, h)`` to ``(B, 1)``, float32."""
        with torch.autocast(queries.states.device.type, enabled=False):
            asks, tokens = (F.normalize(states.float(), dim=-1) for states in (queries.states, documents.states))
            cosines = asks @ tokens.transpose(-1, -2)  # (B, Q, D)
            weights, lowest = self.weigh(queries), torch.finfo(cosines.dtype).min
            counts, is_token = weights > 0, documents.attention_mask
            is_match = queries.input_ids.unsqueeze(2) == documents.input_ids.unsqueeze(1)
            best = self.find_best(cosines.masked_fill(~is_token.unsqueeze(1), lowest), is_match)
            found = cosines.masked_fill(~counts.unsqueeze(2), lowest).amax(1)  # (B, D)
            found = found.masked_fill(~(is_token & counts.any(-1, keepdim=True)), 0.0)
            return self.combine(weights, best, found.sum(-1) / is_token.sum(-1))


def _linear32(layer: nn.Linear, rows: Tensor) -> Tensor:
    return F.linear(rows.float(), layer.weight.float(), layer.bias.float())


def exact_matches(queries: EncodedTexts, documents: EncodedTexts, special_ids: Sequence[int]) -> Tensor:
    """Where a query token and a document token have the same id, ``(B, Q, D)``, bool; never at special tokens."""
    special = torch.tensor(special_ids, device=queries.input_ids.device)
    matches = queries.input_ids.unsqueeze(2) == documents.input_ids.unsqueeze(1)
    matches &= documents.attention_mask.unsqueeze(1) & queries.attention_mask.unsqueeze(2)
    return matches & ~torch.isin(queries.input_ids, special).unsqueeze(2)


def average_matches(matches: Tensor, document_states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the document states ``(B, D, s)`` whose token id equals the query token's, from ``exact_matches``.

    Returns:
        ``(B, Q, s)``, zero for tokens without a match; and ``(B, Q)``, bool, where a match is.
    """
    weights = matches.to(document_states.dtype)
    averages = (weights / weights.sum(-1, keepdim=True).clamp(min=1.0)) @ document_states
    return averages, matches.any(-1)
