"""Figures of a store: documents, tokens, passages, bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from .codecs import get_codec
from .identity import Fingerprint
from .store import Store


@dataclass(frozen=True)
class StoreInfo:
    """Figures of a store.

    Attributes:
        documents: Documents.
        tokens: Tokens whose states are stored.
        long: Documents in more than one passage.
        passages: Passages of these.
        texts: Documents stored with their text.
        pooled: Documents stored with their pooled vector.
        state_bytes: Bytes of states and scales.
        file_bytes: Bytes of the store's files, or None for a store that is not on a local disk.
        fingerprint: The model and settings that made the states.
    """

    documents: int
    tokens: int
    long: int
    passages: int
    texts: int
    pooled: int
    state_bytes: int
    file_bytes: int | None
    fingerprint: Fingerprint

    def __str__(self) -> str:
        per_document = self.state_bytes / max(self.documents, 1)
        size = "" if self.file_bytes is None else f"; {self.file_bytes:,} bytes on disk"
        made_by = "\n".join(f"  {name}: {value}" for name, value in asdict(self.fingerprint).items())
        return (
            f"documents: {self.documents:,}, {self.tokens:,} tokens\n"
            f"long documents: {self.long:,}, in {self.passages:,} passages\n"
            f"texts: {self.texts:,}; pooled vectors: {self.pooled:,}\n"
            f"states: {self.state_bytes:,} bytes, {per_document:,.0f} a document{size}\n"
            f"made by:\n{made_by}"
        )


def store_info(store: Store, path: str) -> StoreInfo:
    """Count what a store holds, without reading its states.

    Args:
        store: Open.
        path: Where it is, for the bytes of its files.

    Raises:
        StoreCorruptError: If a text or pooled vector is damaged.
    """
    made_by = store.fingerprint
    documents = tokens = long = passages = texts = pooled = 0
    for row in store.checked_documents():
        documents += 1
        tokens += row.n_tokens
        texts += row.text is not None
        pooled += row.pooled is not None
        if row.n_tokens > made_by.max_length:
            long += 1
            passages += -(-row.n_tokens // made_by.max_length)  # all passages but the last have the maximum length
    state_bytes = tokens * get_codec(made_by.codec).bytes_per_token(made_by.width)
    return StoreInfo(documents, tokens, long, passages, texts, pooled, state_bytes, _file_bytes(path), made_by)


def _file_bytes(path: str) -> int | None:
    if "://" in path:
        return None
    if Path(path).is_dir():
        return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    files = [Path(path), Path(f"{path}-wal")]
    return sum(file.stat().st_size for file in files if file.exists())
