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
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from mice_st.data.collection import Document, OnError, read_corpus
from mice_st.data.reader import CorpusReader

from .errors import StoreMovedError
from .fingerprint import fingerprint_of, model_name, module_of
from .identity import content_hash
from .passages import check_overlap
from .shards import EncodedShard, ShardWorkers, encode_shard
from .store import Store

SHARD_DOCUMENTS = 128
SYNC_DOCUMENTS = 1000  # removed in one commit
SHARD_CHARACTERS = 250_000  # about 55,000 tokens, 80 MB of float32 states at a width of 384


@dataclass
class EncodeReport:
    """Counts of one run of ``encode_corpus``.

    Attributes:
        documents: Documents read from the corpus.
        added: Documents that the store did not have.
        changed: Documents whose text, or the way of cutting it, had changed.
        unchanged: Documents that were not encoded again.
        metadata: Of these, documents whose metadata was replaced.
        removed: Documents that the corpus does not have and that were removed.
        left: Documents that the corpus does not have and that stay in the store.
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
    metadata: int = 0
    removed: int = 0
    left: int = 0
    cut: int = 0
    long: int = 0
    passages: int = 0
    skipped_lines: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        encoded = self.added + self.changed
        others = f", {self.removed} removed" if self.removed else ""
        others += f" ({self.metadata} with other metadata)" if self.metadata else ""
        others += f"; {self.left} stored that the corpus does not have" if self.left else ""
        return (
            f"{self.documents} documents: {self.added} added, {self.changed} changed, {self.unchanged} unchanged{others}; "
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
    passages: bool | None = None,
    overlap: int | None = None,
    processes: int = 1,
    shard_documents: int = SHARD_DOCUMENTS,
    on_error: OnError = "raise",
    others: Literal["ignore", "count", "remove"] = "count",
    show_progress_bar: bool | None = None,
) -> EncodeReport:
    """Encode the documents of a corpus that a store lacks or holds in another version.

    Documents are streamed. Each shard is committed before the next is put, so that a killed run loses what it was at
    and nothing else; the same call again goes on from there. Texts are stored too, and so are the pooled vectors of a
    model with the pooled residual. Documents that the corpus does not have stay in the store, and are counted. Metadata
    that differs is replaced without encoding; a document without any (None) keeps what is stored, unless ``others`` are
    removed. An empty dictionary removes it.

    Args:
        model: A ``MiceCrossEncoder``, or its ``MiceTransformer``.
        corpus: What ``read_corpus`` takes or returns, or documents, each id once.
        store: Open for writing, made with ``fingerprint_of(model, codec, prompt)``; its prompt is put before each
            document.
        passages: Cut a document beyond the maximum length into overlapping passages, instead of leaving its rest out;
            None does as the store's settings say.
        overlap: Tokens that neighbouring passages share; None for the store's, or a quarter of a passage. Another overlap
            is another version.
        processes: Processes that encode; with several, a script must guard its start with ``if __name__ ==
            "__main__"``.
        shard_documents: Documents in a transaction; fewer where they have many characters.
        on_error: What to do about bad lines: ``"raise"``, or ``"skip"`` and count them. A reader has its own.
        others: What to do about stored documents that the corpus does not have, once all of it has been read without an
            error. Where bad lines were skipped, none is removed.
        show_progress_bar: None shows one where the work takes over two seconds.

    Returns:
        Counts of documents by what became of them.

    Raises:
        StoreMismatchError: If another model, or other settings of it, made the store; names the field.
        StoreMovedError: If the store is moved to another model meanwhile.
        ValueError: If a line or a document is bad, naming it (what came before it is stored); if an argument is
            impossible.
        FileNotFoundError: If there is no such corpus.
        ChildProcessError: If a process that encodes was killed.
    """
    for name, value in (("processes", processes), ("shard_documents", shard_documents)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}.")
    module = module_of(model)
    made_by = store.fingerprint
    made_by.check(fingerprint_of(module, made_by.codec, made_by.prompt), store.settings.model, model_name(module))
    if passages is None:
        passages = store.settings.overlap is not None
        overlap = store.settings.overlap if overlap is None else overlap
    shared = check_overlap(module, overlap) if passages else None
    report = EncodeReport()
    seen: set[str] = set()
    started = monotonic()
    documents: Iterable[Document] = read_corpus(corpus, on_error) if isinstance(corpus, str | Path) else corpus
    reader = documents if isinstance(documents, CorpusReader) else None
    if reader is not None and reader.path == "-":
        raise ValueError("corpus: standard input cannot be read again to go on after a kill; give a file or a folder.")
    errors: list[Exception] = []
    shards = cut_into_shards(_until_error(documents, errors), shard_documents)
    stale_shards = (_Shard(shard, _stale(store, shard, shared)) for shard in shards if _remember(shard, seen))
    with tqdm(
        desc="Documents",
        unit="document",
        smoothing=0,
        disable=show_progress_bar is False,
        delay=0 if show_progress_bar else 2,
    ) as progress:
        for shard, encoded in _encoded(module, stale_shards, made_by.prompt, shared, processes):
            if store.fingerprint != made_by:
                raise StoreMovedError("the store was moved to another model while documents were added: add them again")
            if encoded is not None:
                _put(store, shard.stale, encoded, shared, report)
            unchanged = len(shard.documents) - len(shard.stale)
            report.documents += len(shard.documents)
            report.unchanged += unchanged
            _update_metadata(store, shard, report, others == "remove")
            if not progress.disable:
                progress.total = None if reader is None else reader.total
                progress.initial += unchanged  # counts as done, but not as this run's speed
            progress.update(len(shard.documents))
    report.seconds = monotonic() - started
    if errors:
        raise errors[0]
    if reader is not None:
        report.skipped_lines = reader.skipped
    if others != "ignore":  # a document whose line was skipped has not left the corpus
        _count_or_remove_others(store, seen, others == "remove" and not report.skipped_lines, report)
    return report


def _until_error(documents: Iterable[Document], errors: list[Exception]) -> Iterator[Document]:
    """Documents up to an error of the corpus, which waits in ``errors`` until what was read has been stored."""
    try:
        yield from documents
    except Exception as error:  # a user's generator may raise anything; it is raised again at the end
        errors.append(error)


def cut_into_shards(documents: Iterable[Document], shard_documents: int) -> Iterator[list[Document]]:
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


def _remember(shard: list[Document], seen: set[str]) -> bool:
    """Refuse an id that was there before, wherever that was; True otherwise.

    Raises:
        ValueError: If one was; names it.
    """
    for document in shard:
        if document.id in seen:
            raise ValueError(f"document {document.id!r} is there twice")
        seen.add(document.id)
    return True


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
    with store.writing():
        put = store.put(
            [document.id for document in documents],
            encoded.documents(),
            [document_hash(document.text, overlap) for document in documents],
            texts=[document.text for document in documents],
            pooled=None if encoded.pooled is None else torch.from_numpy(encoded.pooled),
            metadata=[document.metadata for document in documents],
        )
        store.commit()
    report.added += len(put.added)
    report.changed += len(put.changed)
    report.cut += encoded.cut
    report.long += sum(count > 1 for count in encoded.passages)
    report.passages += sum(count for count in encoded.passages if count > 1)


def _update_metadata(store: Store, shard: _Shard, report: EncodeReport, remove: bool) -> None:
    """Replace metadata of documents that were not encoded again; none is none where the corpus is all there is."""
    stale = {document.id for document in shard.stale}
    kept = [d for d in shard.documents if d.id not in stale and (remove or d.metadata is not None)]
    if kept:
        with store.writing():
            report.metadata += store.set_metadata([d.id for d in kept], [d.metadata for d in kept])
            store.commit()


def _count_or_remove_others(store: Store, seen: set[str], remove: bool, report: EncodeReport) -> None:
    """Documents of the store that the corpus does not have."""
    if not remove and len(store) == len(seen):  # what was read is stored, so there are no others
        return
    others = [id_ for id_ in store.ids() if id_ not in seen]
    if not remove:
        report.left = len(others)
        return
    for start in range(0, len(others), SYNC_DOCUMENTS):
        part = others[start : start + SYNC_DOCUMENTS]
        with store.writing():
            gone = set(store.missing(part))  # somebody else may delete too
            store.delete([id_ for id_ in part if id_ not in gone])
            store.commit()
        report.removed += len(part) - len(gone)
