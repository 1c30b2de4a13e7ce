"""Documents that follow from an id and a version, so that every byte a test reads can be checked against what was put."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from mice_st.states.errors import UnknownDocumentError
from mice_st.states.identity import Fingerprint
from mice_st.states.packed import PackedStates
from mice_st.states.sqlite_store import SqliteStore
from mice_st.states.store import Store

WIDTH = 16
FINGERPRINT = Fingerprint(
    "w" * 64, "t" * 64, layer=4, max_length=64, prompt="", dtype="float32", codec="fp32", width=WIDTH
)


@dataclass
class Document:
    """Has what a store reads of ``DocumentStates``, without importing transformers into each child process."""

    states: torch.Tensor
    input_ids: torch.Tensor


def made(id_: str, version: int, mean_tokens: int = 60) -> Document:
    """The only right document for this id and version; its first token id is the version."""
    seed = zlib.crc32(f"{id_}/{version}".encode())
    rng = np.random.default_rng(seed)
    n_tokens = int(rng.integers(1, 2 * mean_tokens))
    ids = rng.integers(0, 30522, n_tokens)
    ids[0] = version
    states = rng.standard_normal((n_tokens, WIDTH), dtype=np.float32)
    return Document(torch.from_numpy(states), torch.from_numpy(ids))


def put(store: Store, versions: dict[str, int], mean_tokens: int = 60) -> None:
    """Put documents with text and pooled vector; no commit."""
    documents = [made(id_, version, mean_tokens) for id_, version in versions.items()]
    store.put(
        list(versions),
        documents,  # type: ignore[arg-type]  # stand-ins
        [str(version) for version in versions.values()],
        texts=[f"text of {id_} {version}" for id_, version in versions.items()],
        pooled=torch.stack([document.states.mean(0) for document in documents]),
    )


def versions_of(packed: PackedStates, ids: Sequence[str], mean_tokens: int = 60) -> dict[str, int]:
    """The version of each document read; AssertionError if any byte of one is wrong."""
    found = {}
    assert len(packed) == len(ids)
    for i, id_ in enumerate(ids):
        start, end = packed.offsets[i], packed.offsets[i + 1]
        version = int(packed.input_ids[start])
        right = made(id_, version, mean_tokens)
        assert torch.equal(packed.input_ids[start:end], right.input_ids), f"wrong token ids of {id_}"
        assert torch.equal(packed.decode(start, end), right.states), f"wrong states of {id_}"
        found[id_] = version
    return found


def contents(store: Store) -> dict[str, int]:
    """Ids and versions of all documents of a store, everything checked."""
    ids = list(store.ids())
    found = versions_of(store.get(ids), ids)
    assert dict(store.texts()) == {id_: f"text of {id_} {version}" for id_, version in found.items()}
    return found


Operation = tuple[str, dict[str, int]]


def operations(seed: int, start: dict[str, int]) -> Iterator[tuple[Operation, dict[str, int]]]:
    """An endless, repeatable series of operations, each with the contents that it leaves behind."""
    random = Random(seed)
    now = dict(start)
    while True:
        kind = random.choices(["put", "delete", "compact"], [6, 2, 2])[0]
        versions: dict[str, int] = {}
        if kind == "put":
            chosen = random.sample([f"doc{i}" for i in range(60)], random.randint(1, 12))
            versions = {id_: random.randint(1, 30000) for id_ in chosen}
            now = now | versions
        elif kind == "delete" and now:
            versions = {id_: now[id_] for id_ in random.sample(sorted(now), min(len(now), random.randint(1, 4)))}
            now = {id_: version for id_, version in now.items() if id_ not in versions}
        yield (kind, versions), now


def apply(store: SqliteStore, operation: Operation) -> None:
    """Carry out one operation and commit it."""
    kind, versions = operation
    if kind == "put":
        put(store, versions)
    elif kind == "delete":
        store.delete(list(versions))
    else:
        store.compact()
    store.commit()


def read_or_unknown(store: Store, ids: Sequence[str]) -> dict[str, int]:
    """Versions of a batch; empty if one of it is unknown."""
    try:
        return versions_of(store.get(ids), ids)
    except UnknownDocumentError:
        return {}
