"""The weighted mean of models that came from one start, and weights in float16 for release.

Training on some domains costs a model part of what it knew of others. The mean of the start and what training made of it keeps
most of both (WiSE-FT, arXiv 2109.01903), and the mean of several seeds is steadier than each (model soups, arXiv 2203.05482).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.modeling.configuration_mice import MiceConfig


def merge_weights(models: Sequence[MiceCrossEncoder], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of each tensor.

    Args:
        models: At least one, all with the same config.
        weights: One for each model; divided by their sum.

    Returns:
        Name -> tensor, float32.

    Raises:
        ValueError: If configs differ (names the model and the field) or a tensor is not finite (names the model and the tensor).
    """
    first = _choices(models[0])
    parts = [model.mice.state_dict() for model in models]
    for place, model in enumerate(models):
        other = _choices(model)
        if different := sorted(name for name in first | other if first.get(name) != other.get(name)):
            raise ValueError(f"model {place}: its config differs from that of model 0 in {different}")
        if broken := [name for name, tensor in parts[place].items() if not bool(tensor.isfinite().all())]:
            raise ValueError(f"model {place}: {broken} hold values that are not finite")
    shares = [weight / sum(weights) for weight in weights]
    return {
        name: sum((share * part[name].float() for share, part in zip(shares, parts, strict=True)), torch.zeros(()))
        for name in parts[0]
    }


def _choices(model: MiceCrossEncoder) -> dict[str, Any]:
    """The config's own fields. transformers has more, and its trainer fills some of them in from the tokenizer."""
    known = inspect.signature(MiceConfig).parameters
    return {
        name: value
        for name, value in model.mice.config.to_dict().items()
        if name in known and name != "score_scale"  # the smallest is taken, see ``merge_score_scales``
    }


def merge_score_scales(models: Sequence[MiceCrossEncoder]) -> float:
    """The scale that keeps the scores of a mean of models as small as those of each."""
    return min(model.mice.config.score_scale for model in models)


def write_half(path: Path) -> None:
    """Write the tensors of a safetensors file again in float16.

    Raises:
        ValueError: If a tensor holds values that float16 cannot; names it.
    """
    tensors = {name: _to_half(name, tensor) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _to_half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not bool(half.isfinite().all()):
        raise ValueError(f"{name}: holds values that float16 cannot")
    return half
