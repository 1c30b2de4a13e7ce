"""Attention that reads a mask of its own in every layer, for any model that uses transformers' attention interface.

The model's code stays as it is. Each forward pass gets one mask per layer as a keyword argument, which every layer hands
down to the attention function; ours narrows the model's own mask (padding, ModernBERT's window) by it. Nothing is kept
between calls, so gradient checkpointing recomputes with the same masks.

A row with nothing left to read gets exactly zero. (Softmax over a row of equal, very negative logits would give it the
mean of everything that it must not read.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mice_st.modeling.layers_mice import eager_attention
from mice_st.research.masking.pair_layout import PADDING, PairLayout, restarted_positions

# Names under which transformers knows our two attention functions, by what computes them.
IMPLEMENTATIONS = {"sdpa": "segment_masked_sdpa", "eager": "segment_masked_eager"}
MASKS = "segment_masks"


def _eager(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """``eager_attention`` with the signature of transformers' attention functions."""
    scaled = query * (kwargs["scaling"] * math.sqrt(query.shape[-1]))  # the function below divides by the root
    return eager_attention(scaled, key, value, mask, kwargs["dropout"])[0].transpose(1, 2), None


def _narrow(attend: Callable[..., Any]) -> Callable[..., Any]:
    """An attention function that reads only what its layer's segment mask permits."""

    def narrowed(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        masks: Sequence[Tensor] | None = kwargs.pop(MASKS, None)
        if masks is None:
            raise ValueError("The model was called without its segment masks; call it through MaskedCrossEncoder.")
        mask = masks[module.layer_idx]  # (B, 1, L, L)
        if attention_mask is not None:
            mask = mask & attention_mask
        reads = mask.any(-1, keepdim=True)  # (B, 1, L, 1)
        output, weights = attend(module, query, key, value, mask | ~reads, **kwargs)  # (B, L, H, d)
        return output * reads.transpose(1, 2), weights

    return narrowed


for _name, _attend in (("sdpa", sdpa_attention_forward), ("eager", _eager)):
    AttentionInterface.register(IMPLEMENTATIONS[_name], _narrow(_attend))
    # Bool masks, True where a row may read; transformers makes additive ones for its own eager attention.
    AttentionMaskInterface.register(IMPLEMENTATIONS[_name], sdpa_mask)


class SegmentMasks:
    """Makes the arguments that mask a forward pass.

    Args:
        layout: Of the model's tokenizer.
        readable: ``(layers, 5, 5)``, bool, from ``readable_segments``.
        first_position: Position of a document's first token where positions restart; None lets them run on.
    """

    def __init__(self, layout: PairLayout, readable: Tensor, first_position: int | None) -> None:
        self.layout = layout
        self.first_position = first_position
        # Padding reads and is read as if nothing were masked: the model's own mask keeps everybody from reading it.
        table = torch.ones(len(readable), PADDING + 1, PADDING + 1, dtype=torch.bool)
        table[:, :PADDING, :PADDING] = readable
        self.tables, places = torch.unique(table, dim=0, return_inverse=True)
        self.places: list[int] = places.tolist()  # layer -> its table: many layers share one

    def make_arguments(self, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Any]:
        """Further inputs of a forward pass over ``(B, L)`` ids and their mask.

        Returns:
            ``segment_masks``, for each layer ``(B, 1, L, L)``, bool; and ``position_ids`` ``(B, L)`` where they restart.

        Raises:
            ValueError: If a row is no pair; names the row.
        """
        segments = self.layout.find_segments(input_ids, attention_mask)
        tables = self.tables.to(segments.device)
        masks = tables[:, segments.unsqueeze(2), segments.unsqueeze(1)].unsqueeze(2)  # (tables, B, 1, L, L)
        arguments: dict[str, Any] = {MASKS: tuple(masks[place] for place in self.places)}
        if self.first_position is not None:
            arguments["position_ids"] = restarted_positions(segments, self.first_position)
        return arguments


def check_model(model: PreTrainedModel) -> None:
    """Refuse what cannot be masked.

    Raises:
        ValueError: If the model is a decoder, or computes its attention otherwise than through transformers' interface.
    """
    name = type(model).__name__
    if any(getattr(module, "is_causal", False) is True for module in model.modules()):
        raise ValueError(
            f"{name} is a decoder: its tokens read only what stands before them. Masking needs an encoder."
        )
    layers = [module.layer_idx for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    if not model.config.num_hidden_layers or set(layers) != set(range(model.config.num_hidden_layers)):
        raise ValueError(
            f"{name} does not number its attention layers, so their masks cannot be told apart; "
            "known to work are BERT, RoBERTa, XLM-RoBERTa, ELECTRA and ModernBERT."
        )


class _WatchedMasks:
    """Masks that notice which layers read them."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self.masks = masks
        self.read: set[int] = set()

    def __getitem__(self, layer: int) -> Tensor:
        self.read.add(layer)
        return self.masks[layer]


@torch.no_grad()
def check_masks_are_read(model: PreTrainedModel, input_ids: Tensor, arguments: dict[str, Any]) -> None:
    """Compute one pair and see whether every layer asks for its mask: one that does not would silently read everything.

    Args:
        model: The model, with one of our attention implementations.
        input_ids: ``(1, L)``, int64, one pair.
        arguments: What ``SegmentMasks.make_arguments`` makes of it.

    Raises:
        ValueError: If a layer computes its attention otherwise than through transformers' interface; names the layers.
    """
    watched = _WatchedMasks(arguments[MASKS])
    was_training = model.training
    model.eval()
    model(input_ids=input_ids, **arguments | {MASKS: watched})
    model.train(was_training)
    if unread := sorted(set(range(len(watched.masks))) - watched.read):
        raise ValueError(
            f"{type(model).__name__} does not compute attention through transformers' attention interface in layers "
            f"{unread}, so they cannot be masked; a later version of transformers may"
        )


def attention_implementation(model: PreTrainedModel) -> str:
    """Our name for what the model computes its attention with; ``sdpa`` where we have no twin of it.

    Returns:
        A value of ``IMPLEMENTATIONS``.
    """
    current = model.config._attn_implementation
    return current if current in IMPLEMENTATIONS.values() else IMPLEMENTATIONS.get(current, IMPLEMENTATIONS["sdpa"])
