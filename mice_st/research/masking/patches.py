"""Which segment of a pair may read which, layer by layer: patches, the presets made of them, and the table they give.

A pair encoding has five segments, ``[CLS] query [SEP] document [SEP]``. A patch takes interactions away: in some layers,
the rows of some segments may not attend to the columns of others. Everything that no patch takes away is permitted.

References:
    - The presets are the steps from a cross-encoder to MICE, and two baselines: https://arxiv.org/abs/2602.16299
    - PreTTR: https://arxiv.org/abs/2004.14255
    - Sparse cross-encoders: https://arxiv.org/abs/2312.17649
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SEGMENTS = ("CLS", "Q", "SEP1", "D", "SEP2")
PRESETS = ("full", "mask0", "mask1", "mask2", "mask3-lN", "prettr-lN", "sparse-ce")


@dataclass(frozen=True)
class Patch:
    """Rows of some segments may not attend to columns of others.

    Attributes:
        rows: Segments that lose something to read, of ``SEGMENTS``.
        columns: Segments that they can no longer read.
        first_layer: First layer that the patch applies to, counted from 0.
        last_layer: Last layer that it applies to, itself included; None is the model's last.

    Raises:
        ValueError: If a segment is unknown, there is none, or the layers are in the wrong order.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    first_layer: int = 0
    last_layer: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            segments = getattr(self, name)
            if isinstance(segments, str) or not segments:
                raise ValueError(f"patch {name}: expected a list of segments of {SEGMENTS}, got {segments!r}")
            if unknown := [segment for segment in segments if segment not in SEGMENTS]:
                raise ValueError(f"patch {name}: there is no segment {unknown[0]!r}; there are {', '.join(SEGMENTS)}")
            object.__setattr__(self, name, tuple(segments))
        for name in ("first_layer", "last_layer"):
            layer = getattr(self, name)
            if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
                raise ValueError(f"patch {name}: expected a number of a layer, got {layer!r}")
        if self.first_layer < 0 or (self.last_layer is not None and self.last_layer < self.first_layer):
            raise ValueError(f"patch: layers {self.first_layer} to {self.last_layer} are none")


def as_patches(patches: Iterable[Patch | Sequence], layers: int) -> list[Patch]:
    """Patches as ``Patch``, checked against a model of ``layers`` layers.

    Args:
        patches: Each a ``Patch``, or its four fields in their order, as they come out of a JSON file.
        layers: Layers of the model.

    Raises:
        ValueError: If a patch is faulty or names a layer that the model does not have; gives its position.
    """
    checked = []
    for position, patch in enumerate(patches):
        try:
            made = patch if isinstance(patch, Patch) else Patch(*patch)
        except (TypeError, ValueError) as error:
            raise ValueError(f"patch {position}: {error}") from error
        for name in ("first_layer", "last_layer"):
            layer = getattr(made, name)
            if layer is not None and layer >= layers:
                raise ValueError(f"patch {position}: {name} {layer}, but the model's last layer is {layers - 1}")
        checked.append(made)
    return checked


def make_preset(name: str, layers: int) -> list[Patch]:
    """The patches of a preset.

    ``full`` removes nothing. ``mask0`` removes what hardly matters: nobody reads [CLS], the separators read themselves
    alone, and the document does not read the first [SEP], nor the query the second. ``mask1`` also keeps [CLS] from the
    document, ``mask2`` the document from the query, ``mask3-l4`` the query from the document in the first four layers.
    ``prettr-l4`` keeps both sides apart in the first four layers and removes nothing after. ``sparse-ce`` keeps the
    query from [CLS] and the document.

    Args:
        name: One of ``PRESETS``, with a number of layers for ``N``.
        layers: Layers of the model.

    Raises:
        ValueError: If there is no such preset, or it separates query and document in more layers than there are.
    """
    match = re.fullmatch(r"(full|mask[012]|sparse-ce)|(mask3|prettr)-l(\d+)", name)
    if match is None:
        raise ValueError(f"masking: there is no preset {name!r}; there are {', '.join(PRESETS)}")
    kind, apart = match[1] or match[2], int(match[3] or 0)
    if match[2] and not 0 < apart <= layers:
        raise ValueError(f"masking: {name} separates {apart} layers, of a model that has {layers}")
    if kind == "full":
        return []
    if kind == "sparse-ce":
        return [Patch(("Q", "SEP1"), ("CLS", "D", "SEP2"))]
    if kind == "prettr":
        query, document = ("CLS", "Q", "SEP1"), ("D", "SEP2")
        return [Patch(query, document, 0, apart - 1), Patch(document, query, 0, apart - 1)]
    steps = [
        [
            Patch(("Q", "SEP1", "D", "SEP2"), ("CLS",)),
            Patch(("D",), ("SEP1",)),
            Patch(("Q",), ("SEP2",)),
            Patch(("SEP1",), ("CLS", "Q", "D", "SEP2")),
            Patch(("SEP2",), ("CLS", "Q", "SEP1", "D")),
        ],
        [Patch(("CLS",), ("D", "SEP2"))],
        [Patch(("D",), ("Q",))],
        [Patch(("Q",), ("D",), 0, apart - 1)] if apart else [],
    ]
    return [patch for step in steps[: int(kind[-1]) + 1] for patch in step]


def readable_segments(patches: Iterable[Patch], layers: int) -> Tensor:
    """The segments that are left to read.

    Args:
        patches: Checked by ``as_patches``.
        layers: Layers of the model.

    Returns:
        ``(layers, 5, 5)``, bool: whether, in a layer, the rows of a segment may read the columns of another, both in the
        order of ``SEGMENTS``.
    """
    readable = torch.ones(layers, len(SEGMENTS), len(SEGMENTS), dtype=torch.bool)
    for patch in patches:
        stop = layers if patch.last_layer is None else patch.last_layer + 1
        for row in patch.rows:
            for column in patch.columns:
                readable[patch.first_layer : stop, SEGMENTS.index(row), SEGMENTS.index(column)] = False
    return readable
