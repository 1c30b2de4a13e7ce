"""The systems of an evaluation: each re-ranks the same candidates, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mice_st.loading import load_model, model_hash, model_kind, short_name
from mice_st.states.codecs import get_codec

BM25_NAME = "bm25"


@dataclass(frozen=True)
class System:
    """One column of a table.

    Attributes:
        name: Of the column.
        source: Folder or Hub id of the model, or ``"bm25"``.
        kind: ``"mice"``, ``"cross_encoder"``, ``"bi_encoder"``, ``"colbert"`` or ``"bm25"``.
        codec: How MICE keeps document states; None for any other kind.
        identity: Equal for systems with the same figures: hash of the model's files, longest text, and codec.
        load: Loads the model; gives None for ``"bm25"``, which has none.
    """

    name: str
    source: str
    kind: str
    codec: str | None
    identity: str
    load: Callable[[], Any]


def list_systems(
    models: list[str],
    codecs: list[str],
    device: str | None = None,
    max_length: int | None = None,
    trust_remote_code: bool = False,
) -> list[System]:
    """The systems of a list of models; MICE appears once for each codec.

    Args:
        models: Folders or Hub ids, or ``"bm25"`` for the first stage itself.
        codecs: How MICE's document states are kept.
        device: Where models compute; None takes the best there is.
        max_length: Longest document or pair, in tokens.
        trust_remote_code: Whether code beside the weights of models is run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a model is of no known kind, a codec is unknown, or two systems would have one name.
    """
    systems: list[System] = []
    for codec in codecs:
        get_codec(codec)
    for model in models:
        if model == BM25_NAME:
            systems.append(System(BM25_NAME, BM25_NAME, BM25_NAME, None, BM25_NAME, lambda: None))
            continue
        name = short_name(model)
        if any(system.name.split("@")[0] == name for system in systems):
            name = model  # two folders of one name are told apart by their paths
        identity = f"{model_hash(model)}/{max_length}"
        load = partial(load_model, model, device, max_length, trust_remote_code)
        kind = model_kind(model)
        if kind != "mice":
            systems.append(System(name, model, kind, None, identity, load))
            continue
        for codec in codecs:
            suffix = f"@{codec}" if len(codecs) > 1 else ""
            systems.append(System(name + suffix, model, kind, codec, f"{identity}/{codec}", load))
    names = [system.name for system in systems]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"model: {twice[0]!r} is given twice")
    return systems
