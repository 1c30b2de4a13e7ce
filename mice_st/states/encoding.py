"""Corpus encoding: a corpus goes into a store, shard by shard, and only what the store lacks is encoded.

The store itself is the list of finished work: a shard is one transaction, and each document is kept with the hash of
its content. Encoding a corpus again after a kill, or after some documents have changed, therefore encodes the missing
shards and the changed documents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from tqdm.auto import tqdm

from mice_st.data.collection import Document, OnError, read_corpus
from mice_st.data.reader import CorpusReader

from .fingerprint import fingerprint_of, module_of
from .identity import content_hash
from .passages import check_overlap
from .shards import EncodedShard, ShardWorkers, encode_shard
from .store import Store

SHARD_DOCUMENTS = 128
SHARD_CHARACTERS = 250_000  # about 55,000 tokens, 80 MB of float32 states at a width of 384


@dataclass
class EncodeReport:
    """Counts of one run of ``encode_corpus``.

    Attributes:
        documents: Documents read from the corpus.
        added: Documents that the store did not have.
        changed: Documents whose text, or the way of cutting it, had changed.
        unchanged: Documents that were not encoded again.
        cut: Encoded documents that lost what lies beyond the maximum length.
        long: Encoded documents that were cut into passages.
        passages: Passages of these.
        skipped_lines: Bad lines of the corpus that were left out.
        seconds: Time taken.
    """

    documents: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    cut: int = 0
    long: int = 0
    passages: int = 0
    skipped_lines: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        encoded = self.added + self.changed
        return (
            f"{self.documents} documents: {self.added} added, {self.changed} changed, {self.unchanged} unchanged; "
            f"{self.cut} cut, {self.long} in {self.passages} passages; {self.skipped_lines} bad lines skipped; "
            f"{self.seconds:.1f} s, {encoded / max(self.seconds, 1e-9):.1f} documents/s"
        )


@dataclass
class _Shard:
    """Consecutive documents of the corpus; ``stale`` are those to be encoded."""

    documents: list[Document]
    stale: list[Document]


def encode_corpus(
    model: Any,
    corpus: str | Path | Iterable[Document],
    store: Store,
    *,
    passages: bool = False,
    overlap: int | None = None,
    processes: int = 1,
    shard_documents: int = SHARD_DOCUMENTS,
    on_error: OnError = "raise",
    show_progress_bar: bool | None = None,
) -> EncodeReport:
    """Encode the documents of a corpus that a store lacks or holds in another version.

    Documents are streamed. Each shard is committed before the next is put, so that a killed run loses what it was at
    and nothing else; the same call again goes on from there. Texts are stored too, and so are the pooled vectors of a
    model with the pooled residual. Documents that the corpus no longer has stay in the store.

    Args:
        model: A ``MiceCrossEncoder``, or its ``MiceTransformer``.
        corpus: What ``read_corpus`` takes or returns, or documents, each id once.
        store: Open for writing, made with ``fingerprint_of(model, codec, prompt)``; its prompt is put before each
            document.
        passages: Cut a document beyond the maximum length into overlapping passages, instead of leaving its rest out.
        overlap: Tokens that neighbouring passages share; None for a quarter of a passage. Another overlap is another
            version.
        processes: Processes that encode; with several, a script must guard its start with ``if __name__ ==
            "__main__"``.
        shard_documents: Documents in a transaction; fewer where they have many characters.
        on_error: What to do about bad lines: ``"raise"``, or ``"skip"`` and count them. A reader has its own.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        Counts of documents by what became of them.

    Raises:
        StoreMismatchError: If another model, or other settings of it, made the store; names the field.
        ValueError: If a line or a document is bad, naming it (the full shards before it are stored); if an argument is
            impossible.
        FileNotFoundError: If there is no such corpus.
        ChildProcessError: If a process that encodes was killed.
    """
    for name, value in (("processes", processes), ("shard_documents", shard_documents)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}.")
    module = module_of(model)
    made_by = store.fingerprint
    made_by.check(fingerprint_of(module, made_by.codec, made_by.prompt))
    shared = check_overlap(module, overlap) if passages else None
    report = EncodeReport()
    started = monotonic()
    documents: Iterable[Document] = read_corpus(corpus, on_error) if isinstance(corpus, str | Path) else corpus
    reader = documents if isinstance(documents, CorpusReader) else None
    if reader is not None and reader.path == "-":
        raise ValueError("corpus: standard input cannot be read again to go on after a kill; give a file or a folder.")
    errors: list[Exception] = []
    shards = _until_error(_cut_into_shards(documents, shard_documents), errors)
    stale_shards = (_Shard(shard, _stale(store, shard, shared)) for shard in shards)
    with tqdm(
        desc="Documents",
        unit="document",
        smoothing=0,
        disable=show_progress_bar is False,
        delay=0 if show_progress_bar else 2,
    ) as progress:
        for shard, encoded in _encoded(module, stale_shards, made_by.prompt, shared, processes):
            if encoded is not None:
                _put(store, shard.stale, encoded, shared, report)
            unchanged = len(shard.documents) - len(shard.stale)
            report.documents += len(shard.documents)
            report.unchanged += unchanged
            progress.total = None if reader is None else reader.total
            progress.initial += unchanged  # counts as done, but not as this run's speed
            progress.update(len(shard.documents))
    report.seconds = monotonic() - started
    if errors:
        raise errors[0]
    if reader is not None:
        report.skipped_lines = reader.skipped
    return report


def _until_error(shards: Iterator[list[Document]], errors: list[Exception]) -> Iterator[list[Document]]:
    """Shards up to an error of the corpus, which waits in ``errors`` until what was read has been stored."""
    try:
        yield from shards
    except (ValueError, OSError) as error:
        errors.append(error)


def _cut_into_shards(documents: Iterable[Document], shard_documents: int) -> Iterator[list[Document]]:
    """Consecutive documents; where a shard ends depends on the documents before it alone."""
    shard: list[Document] = []
    characters = 0
    for document in documents:
        if shard and characters + len(document.text) > SHARD_CHARACTERS:
            yield shard
            shard, characters = [], 0
        shard.append(document)
        characters += len(document.text)
        if len(shard) == shard_documents:  # not only with the next document, which may be a bad line
            yield shard
            shard, characters = [], 0
    if shard:
        yield shard


def document_hash(text: str, overlap: int | None) -> str:
    """Hash that a stored document is compared by: of its text, and of the overlap where it may have passages."""
    return content_hash(text) + ("" if overlap is None else f"+{overlap}")


def _stale(store: Store, shard: list[Document], overlap: int | None) -> list[Document]:
    ids = [document.id for document in shard]
    stale = set(store.stale(ids, [document_hash(document.text, overlap) for document in shard]))
    return [document for document in shard if document.id in stale]


def _encoded(
    module: Any, shards: Iterator[_Shard], prompt: str, overlap: int | None, processes: int
) -> Iterator[tuple[_Shard, EncodedShard | None]]:
    """Shards in their order, encoded; None for one with nothing to encode."""

    def arguments(shard: _Shard) -> tuple[list[str], list[str]]:
        return [prompt + d.text for d in shard.stale], [f"document {d.id!r}" for d in shard.stale]

    if processes == 1:
        for shard in shards:
            yield shard, encode_shard(module, *arguments(shard), overlap) if shard.stale else None
        return
    waiting: deque[tuple[_Shard, Callable[[], EncodedShard] | None]] = deque()  # without one: nothing to encode
    with ExitStack() as stack:
        workers: ShardWorkers | None = None
        for shard in shards:
            if shard.stale and workers is None:  # not before there is something to encode
                workers = stack.enter_context(ShardWorkers(module, processes, overlap))
            waiting.append((shard, workers.submit(*arguments(shard)) if shard.stale and workers else None))
            if len(waiting) > processes + 1:  # one each, and one ready for whoever is done first
                done, result = waiting.popleft()
                yield done, result() if result else None
        for done, result in waiting:
            yield done, result() if result else None


def _put(
    store: Store, documents: list[Document], encoded: EncodedShard, overlap: int | None, report: EncodeReport
) -> None:
    """Put one encoded shard in one transaction, and count."""
    put = store.put(
        [document.id for document in documents],
        encoded.documents(),
        [document_hash(document.text, overlap) for document in documents],
        texts=[document.text for document in documents],
        pooled=None if encoded.pooled is None else torch.from_numpy(encoded.pooled),
    )
    store.commit()
    report.added += len(put.added)
    report.changed += len(put.changed)
    report.cut += encoded.cut
    report.long += sum(count > 1 for count in encoded.passages)
    report.passages += sum(count for count in encoded.passages if count > 1)
