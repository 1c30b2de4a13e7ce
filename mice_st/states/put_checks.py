"""Checks of the arguments of ``Store.put`` that no codec looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mice_st.modeling.layers_mice import DocumentStates


def check_put(
    ids: Sequence[str],
    documents: Sequence[DocumentStates],
    hashes: Sequence[str],
    texts: Sequence[str] | None,
    pooled: Tensor | None,
) -> None:
    """Check the arguments of ``put`` that no codec looks at.

    Raises:
        ValueError: If lengths differ, an id is unusable or given twice, a hash is empty, or ``pooled`` is no finite
            matrix.
    """
    check_ids(ids)
    sizes = {"documents": len(documents), "hashes": len(hashes)}
    sizes |= {} if texts is None else {"texts": len(texts)}
    sizes |= {} if pooled is None else {"pooled": len(pooled)}
    for name, size in sizes.items():
        if size != len(ids):
            raise ValueError(f"{len(ids)} ids but {size} {name}")
    seen: set[str] = set()
    for id_, hash_ in zip(ids, hashes, strict=True):
        if not id_ or id_ in seen:
            raise ValueError(f"id {id_!r} is given twice in one put" if id_ else "an id is empty")
        if not hash_:
            raise ValueError(f"document {id_!r} has no content hash")
        seen.add(id_)
    if pooled is not None:
        if pooled.ndim != 2 or pooled.dtype not in (torch.float16, torch.float32):
            raise ValueError(f"pooled must be a float16 or float32 matrix, not {pooled.dtype} {tuple(pooled.shape)}")
        bad = ~torch.isfinite(pooled).all(dim=1)
        if bool(bad.any()):
            raise ValueError(f"document {ids[int(bad.nonzero()[0])]!r}: pooled vector is not finite")


def check_ids(ids: Sequence[str]) -> None:
    """Refuse ids that no engine could keep.

    Raises:
        TypeError: If ``ids`` is one string instead of a sequence of them.
        ValueError: If one is no string, holds NUL or cannot be written as UTF-8.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a sequence of strings, not the string {ids!r}")
    for id_ in ids:
        if not isinstance(id_, str) or "\0" in id_:
            raise ValueError(f"id {id_!r} must be a string without NUL")
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"an id cannot be written as UTF-8: {error}") from error
