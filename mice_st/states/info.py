"""Figures of a store: documents, tokens, passages, bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from .codecs import get_codec
from .identity import Fingerprint, StoreSettings
from .store import Store

WORDS_SHARE = 0.5  # bytes of the full-text index for a byte of text: .47 for English (measured)


@dataclass(frozen=True)
class StoreInfo:
    """Figures of a store.

    Attributes:
        documents: Documents.
        tokens: Tokens whose states are stored.
        long: Documents in more than one passage.
        passages: Passages of these.
        texts: Documents stored with their text.
        metadata: Documents stored with metadata.
        pooled: Documents stored with their pooled vector.
        state_bytes: Bytes of states and scales.
        documented_bytes: What docs/store.md says that such documents take on the disk.
        file_bytes: Bytes of the store's files, or None for a store that is not on a local disk.
        fingerprint: The model and settings that made the states.
        settings: What the store keeps beside it.
    """

    documents: int
    tokens: int
    long: int
    passages: int
    texts: int
    metadata: int
    pooled: int
    state_bytes: int
    documented_bytes: int
    file_bytes: int | None
    fingerprint: Fingerprint
    settings: StoreSettings

    @property
    def model(self) -> str:
        """Name of the model that made the states; empty where the store does not know it."""
        return self.settings.model

    @property
    def codec(self) -> str:
        """How the states are stored."""
        return self.fingerprint.codec

    def __str__(self) -> str:
        per_document = self.state_bytes / max(self.documents, 1)
        size = "" if self.file_bytes is None else f"; {self.file_bytes:,} bytes on disk"
        made_by = {
            name: value[:12] if name.endswith("sha256") else value
            for name, value in asdict(self.fingerprint).items()
            if name != "format_version"
        }
        passages = "cut" if self.settings.overlap is None else f"in passages that share {self.settings.overlap} tokens"
        lines = "\n".join(f"  {name}: {value}" for name, value in made_by.items())
        return (
            f"documents: {self.documents:,}, {self.tokens:,} tokens\n"
            f"long documents: {self.long:,}, in {self.passages:,} passages; long texts are {passages}\n"
            f"texts: {self.texts:,} (words by {self.settings.tokenizer}); metadata: {self.metadata:,}; "
            f"pooled vectors: {self.pooled:,}\n"
            f"states: {self.state_bytes:,} bytes, {per_document:,.0f} a document{size}\n"
            f"model: {self.model or 'not named'}\n"
            f"made by:\n{lines}"
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
    documents = tokens = long = passages = texts = metadata = pooled = id_bytes = text_bytes = vector_bytes = 0
    for row in tqdm(store.checked_documents(), "Counting", len(store), unit="document", delay=2, leave=False):
        documents += 1
        tokens += row.n_tokens
        texts += row.text is not None
        metadata += row.metadata is not None
        pooled += row.pooled is not None
        id_bytes += len(row.id.encode())
        text_bytes += len((row.text or "").encode()) + len((row.metadata or "").encode())
        vector_bytes += len(row.pooled or b"")
        if row.n_tokens > made_by.max_length:
            long += 1
            passages += -(-row.n_tokens // made_by.max_length)  # all passages but the last have the maximum length
    per_token = get_codec(made_by.codec).bytes_per_token(made_by.width)
    return StoreInfo(
        documents=documents,
        tokens=tokens,
        long=long,
        passages=passages,
        texts=texts,
        metadata=metadata,
        pooled=pooled,
        state_bytes=tokens * per_token,
        documented_bytes=documented_bytes(documents, tokens, per_token, id_bytes, text_bytes, vector_bytes),
        file_bytes=_file_bytes(path),
        fingerprint=made_by,
        settings=store.settings,
    )


def documented_bytes(
    documents: int, tokens: int, per_token: int, id_bytes: int, text_bytes: int, vector_bytes: int
) -> int:
    """What docs/store.md says that documents take in a SQLite store, by what they consist of.

    Args:
        documents: How many.
        tokens: Their tokens.
        per_token: Bytes of a token's states and scale, as the codec says.
        id_bytes: Bytes of their ids.
        text_bytes: Bytes of their texts and metadata.
        vector_bytes: Bytes of their pooled vectors.
    """
    states = tokens * (per_token + 4)  # 4: its id
    rows = documents * (2 * 64 + 60) + 3 * id_bytes + text_bytes  # 64: a hash; ids stand in two tables and an index
    return states + rows + round(WORDS_SHARE * text_bytes) + 2 * vector_bytes  # vectors: in the row, and in the file


def _file_bytes(path: str) -> int | None:
    if "://" in path:
        return None
    if Path(path).is_dir():
        return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    folder, name = Path(path).parent, Path(path).name
    files = [Path(path), Path(f"{path}-wal"), *folder.glob(f"{name}-vectors-*"), *folder.glob(f"{name}-ann-*")]
    return sum(file.stat().st_size for file in files if file.exists())
