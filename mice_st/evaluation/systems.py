"""What an evaluation compares: each system re-ranks the same candidates, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mice_st.collection import Collection
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.first_stage import Run
from mice_st.model_loading import load_model, model_hash, model_kind
from mice_st.states.codecs import get_codec

BM25_NAME = "bm25"


@dataclass(frozen=True)
class System:
    """One column of a table.

    Attributes:
        name: Of the column.
        source: Folder or Hub id of the model, or ``"bm25"``.
        codec: How MICE keeps document states; None for any other kind.
        identity: What two systems with the same figures have in common: hash of the model's files, and the codec.
        load: Loads the model and gives the function that re-ranks.
    """

    name: str
    source: str
    codec: str | None
    identity: str
    load: Callable[[], Callable[[Collection, Run], Run]]


def list_systems(
    models: list[str], codecs: list[str], batch_size: int, device: str | None = None, max_length: int | None = None
) -> list[System]:
    """The systems of a list of models; MICE appears once for each codec.

    Args:
        models: Folders or Hub ids, or ``"bm25"`` for the first stage itself.
        codecs: How MICE's document states are kept.
        batch_size: Pairs or texts computed at a time.
        device: Where models compute; None takes the best there is.
        max_length: Longest document or pair, in tokens.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a model is of no known kind, a codec is unknown, or two systems would have one name.
    """
    systems: list[System] = []
    for codec in codecs:
        get_codec(codec)
    for model in models:
        if model == BM25_NAME:
            systems.append(System(BM25_NAME, BM25_NAME, None, BM25_NAME, lambda: lambda _, candidates: candidates))
            continue
        name = Path(model).name or model
        if any(system.name.split("@")[0] == name for system in systems):
            name = model  # two folders of one name are told apart by their paths
        identity = f"{model_hash(model)}/{max_length}"
        load = partial(_load, model, device, max_length, batch_size)
        if model_kind(model) != "mice":
            systems.append(System(name, model, None, identity, partial(load, codecs[0])))
            continue
        for codec in codecs:
            suffix = f"@{codec}" if len(codecs) > 1 else ""
            systems.append(System(name + suffix, model, codec, f"{identity}/{codec}", partial(load, codec)))
    names = [system.name for system in systems]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"model: {twice[0]!r} is given twice")
    return systems


def _load(
    model: str, device: str | None, max_length: int | None, batch_size: int, codec: str
) -> Callable[[Collection, Run], Run]:
    loaded = load_model(model, device, max_length)

    def rerank(collection: Collection, candidates: Run) -> Run:
        return RerankingEvaluator(collection, candidates, batch_size=batch_size, codec=codec).rerank(loaded)

    return rerank
