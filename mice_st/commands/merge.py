"""The command ``mice-st merge``: the weighted mean of models that came from one start, and weights in float16 for release.

Training on some domains costs a model part of what it knew of others. The mean of the start and what training made of it keeps
most of both (WiSE-FT, arXiv 2109.01903), and the mean of several seeds is steadier than each (model soups, arXiv 2203.05482).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.loading import resolve_model
from mice_st.model_folder import describe_source, write_provenance
from mice_st.modeling.configuration_mice import MiceConfig


@dataclass
class MergeOptions:
    """Average the weights of MICE models of one kind, and write them as a model folder.

    Raises:
        FileNotFoundError: If a model is a released one, and its weights are not on this machine.
        ValueError: If the weights are not one finite number for each model with a sum that is not 0.
    """

    model: list[str] = field(metadata={"help": "Folders or Hub ids of MICE models with the same config."})
    output: str = field(metadata={"help": "Folder for the merged model."})
    weights: list[float] | None = field(
        default=None, metadata={"help": "What each of them counts; divided by their sum (default: all the same)."}
    )
    dtype: Literal["float32", "float16"] = field(
        default="float32",
        metadata={"help": "How the tensors are written; a model computes in float32 from either."},
    )

    def __post_init__(self) -> None:
        self.model = [resolve_model(name) for name in self.model]
        self.weights = [1.0] * len(self.model) if self.weights is None else self.weights
        if len(self.weights) != len(self.model):
            raise ValueError(f"weights: {len(self.weights)} of them for {len(self.model)} models")
        if not all(map(math.isfinite, self.weights)) or not sum(self.weights):
            raise ValueError(f"weights: expected finite numbers whose sum is not 0, got {self.weights}")


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
    return {name: value for name, value in model.mice.config.to_dict().items() if name in known}


def run_merge(options: MergeOptions) -> None:
    """Merge, save, and print the size of the weights."""
    weights = options.weights or []
    models = [MiceCrossEncoder(name, device="cpu") for name in options.model]
    merged = models[0]
    merged.mice.load_state_dict(merge_weights(models, weights))
    merged.save(options.output)
    path = Path(options.output) / SAFE_WEIGHTS_NAME
    if options.dtype == "float16":
        save_file(
            {name: _to_half(name, tensor) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"}
        )
    sources = [describe_source(name) for name in options.model]
    made_of = {"model": sources[-1]} if len(sources) == 1 else {"model": sources[-1], "others": sources[:-1]}
    write_provenance(Path(options.output), "merge", asdict(options), **made_of)
    shares = ", ".join(
        f"{weight / sum(weights):.2f} {name}" for weight, name in zip(weights, options.model, strict=True)
    )
    print(f"{options.output}: {shares}; {path.stat().st_size / 2**20:.1f} MiB in {options.dtype}")


def _to_half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not bool(half.isfinite().all()):
        raise ValueError(f"{name}: holds values that float16 cannot")
    return half
