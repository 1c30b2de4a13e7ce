"""The command ``mice-st merge``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mice_st.loading import resolve_model


@dataclass
class MergeOptions:
    """Average the weights of MICE models of one kind, and write them as a model folder.

    Raises:
        FileNotFoundError: If a model is a released one, and its weights are not on this machine.
        ValueError: If the weights are not one finite number for each model with a sum that is not 0.
    """

    model: list[str] = field(
        metadata={"help": "Folders or Hub ids of MICE models with the same config.", "metavar": "MODEL"}
    )
    output: str = field(metadata={"help": "Folder for the merged model.", "metavar": "FOLDER"})
    weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each of them, divided by their sum (default: all the same)."}
    )
    dtype: Literal["float32", "float16"] = field(
        default="float32",
        metadata={"help": "Type of the tensors on disk; a model computes in float32 from either."},
    )

    def __post_init__(self) -> None:
        self.model = [resolve_model(name) for name in self.model]
        self.weights = [1.0] * len(self.model) if self.weights is None else self.weights
        if len(self.weights) != len(self.model):
            raise ValueError(f"weights: {len(self.weights)} of them for {len(self.model)} models")
        if not all(map(math.isfinite, self.weights)) or not sum(self.weights):
            raise ValueError(f"weights: expected finite numbers whose sum is not 0, got {self.weights}")


def run_merge(options: MergeOptions) -> None:
    """Merge, save, and print the size of the weights."""
    from transformers.utils import SAFE_WEIGHTS_NAME

    from mice_st.conversion.merge import merge_score_scales, merge_weights, write_half
    from mice_st.cross_encoder import MiceCrossEncoder
    from mice_st.model_folder import describe_source, write_provenance

    weights = options.weights or []
    models = [MiceCrossEncoder(name, device="cpu") for name in options.model]
    merged = models[0]
    merged.mice.load_state_dict(merge_weights(models, weights))
    merged.mice.config.score_scale = merge_score_scales(models)
    merged.save(options.output)
    path = Path(options.output) / SAFE_WEIGHTS_NAME
    if options.dtype == "float16":
        write_half(path)
    sources = [describe_source(name) for name in options.model]
    made_of = {"model": sources[-1]} if len(sources) == 1 else {"model": sources[-1], "others": sources[:-1]}
    write_provenance(Path(options.output), "merge", asdict(options), **made_of)
    shares = ", ".join(
        f"{weight / sum(weights):.2f} {name}" for weight, name in zip(weights, options.model, strict=True)
    )
    print(f"{options.output}: {shares}; {path.stat().st_size / 2**20:.1f} MiB in {options.dtype}")
