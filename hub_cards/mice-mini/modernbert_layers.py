"""What a pre-norm backbone like ModernBERT puts in the place of BERT's blocks: attention, feed-forward, prediction head.

Rows stay what they are between the blocks; each block normalises what it reads and adds what it computes. One norm per
layer serves the query's self-attention, the rows that ask of the document, and the document. A document's states come
normalised already (zero mean, unit variance), the same for all layers: a layer's norm only scales and shifts them. Rotary
positions turn queries and keys of self-attention, from position 0; the document is read without positions.

The shape letters are those of ``modeling_mice.py``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .attention import LayerSettings, MiceAttention
from .layers import MiceFeedForward


def scale_normalised(norm: nn.LayerNorm, states: Tensor) -> Tensor:
    """What ``norm`` makes of states ``(..., h)`` that are normalised already: its scale and shift alone."""
    states = states * norm.weight
    return states if norm.bias is None else states + norm.bias


def in_window(length: int, half_width: int, device: torch.device) -> Tensor:
    """Which tokens of a text lie within ``half_width`` tokens of each other, ``(S, S)``, bool."""
    places = torch.arange(length, device=device)
    return (places.unsqueeze(1) - places).abs() <= half_width


def rotate(rows: Tensor, base: float) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of ``(B, H, S, d)`` at positions 0 to S - 1.

    Dimensions ``i`` and ``i + d / 2`` are turned by ``position * base ** (-2 i / d)``, computed in float32.
    """
    width = rows.shape[-1]
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, device=rows.device, dtype=torch.float32) / width)
    angles = torch.arange(rows.shape[-2], device=rows.device, dtype=torch.float32).unsqueeze(1) * frequencies
    cos, sin = angles.cos().to(rows.dtype).float(), angles.sin().to(rows.dtype).float()  # (S, d / 2), as rounded there
    first, second = rows.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(rows.dtype)


class PreNormSelfAttention(MiceAttention):
    """A text reads itself: everywhere, or within a window as ModernBERT's local layers do."""

    has_positions = True

    def __init__(self, config: Any, norm: nn.LayerNorm, layer_type: str) -> None:
        super().__init__(config)
        self.shared_norm = (norm,)  # the layer owns it: a module that hangs in two places cannot be saved
        backbone = config.backbone_config
        self.base = backbone.rope_parameters[layer_type]["rope_theta"]
        self.half_width = backbone.sliding_window if layer_type == "sliding_attention" else None

    def build_norm(self, width: int, settings: LayerSettings) -> None:
        """None of its own."""

    def prepare_rows(self, rows: Tensor) -> Tensor:
        """Normalised."""
        return self.shared_norm[0](rows)

    def prepare_states(self, states: Tensor) -> Tensor:
        """The states are rows, or rows and more of them."""
        return self.shared_norm[0](states)

    def turn(self, projected: Tensor) -> Tensor:
        """Rotary positions; the rows that ask are the first of those that are read."""
        return rotate(projected, self.base)

    def narrow_mask(self, mask: Tensor) -> Tensor:
        """The window and the mask: ``(B, 1, R, S)``, bool."""
        if self.half_width is None:
            return mask
        asked, read = mask.shape[-2:]
        return mask & in_window(read, self.half_width, mask.device)[:asked]


class PreNormCrossAttention(MiceAttention):
    """Rows read a document's normalised states, all of them, without positions."""

    def __init__(self, config: Any, norm: nn.LayerNorm) -> None:
        super().__init__(config, config.key_value_heads)
        self.shared_norm = (norm,)

    def build_norm(self, width: int, settings: LayerSettings) -> None:
        """None of its own."""

    def prepare_rows(self, rows: Tensor) -> Tensor:
        """Normalised."""
        return self.shared_norm[0](rows)

    def prepare_states(self, states: Tensor) -> Tensor:
        """Normalised already: scaled and shifted."""
        return scale_normalised(self.shared_norm[0], states)

    def absorb_scale(self, asking: Tensor) -> Tensor:
        """The norm's scale, moved from the states to what meets them; its shift moves all logits of a row alike."""
        return asking * self.shared_norm[0].weight


class PreNormGatedFeedForward(MiceFeedForward):
    """ModernBERT's feed-forward: half of the inner values, activated, gates the other half (GeGLU, arXiv 2002.05202)."""

    has_gate = True

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, R, h)`` to ``(B, R, h)``."""
        inner, gate = self.intermediate(self.norm(rows)).chunk(2, dim=-1)
        return rows + self.output(self.dropout(self.activation(inner) * gate))


class PredictionHead(nn.Module):
    """Dense layer, activation and norm before the classifier."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        backbone, width = config.backbone_config, config.interaction_width
        self.dense = nn.Linear(width, width, bias=backbone.classifier_bias)
        self.activation = ACT2FN[backbone.classifier_activation]
        self.norm = nn.LayerNorm(width, eps=backbone.norm_eps, bias=backbone.norm_bias)

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, h)`` to ``(B, h)``."""
        return self.norm(self.activation(self.dense(rows)))


def normalise(states: Tensor, eps: float) -> Tensor:
    """States ``(..., h)`` with zero mean and unit variance: what a LayerNorm makes of them before it scales."""
    return F.layer_norm(states, states.shape[-1:], eps=eps)
