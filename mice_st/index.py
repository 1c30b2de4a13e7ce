"""``MiceIndex``: documents that are encoded once, kept, searched and ranked; what a user of stores needs and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, Self, TypeVar

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Document
from mice_st.data.inputs import as_documents
from mice_st.loading import lasting_name, load_model, resolve_model
from mice_st.states.encoding import EncodeReport, encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.errors import StoreMovedError, StoreNotFoundError, UnknownDocumentError
from mice_st.states.fingerprint import fingerprint_of, model_name
from mice_st.states.identity import StoreSettings, Tokenizer
from mice_st.states.info import StoreInfo, store_info
from mice_st.states.migrate import migrate_store
from mice_st.states.passages import check_overlap
from mice_st.states.ranking import Ranking, rank_store
from mice_st.states.repair import repair_store
from mice_st.states.reports import CompactReport, RepairReport, VerifyReport
from mice_st.states.store import Store

Answer = TypeVar("Answer")

DEFAULT_CODEC = "int8"


class MiceIndex:
    """A store of documents with the model that made it. ``MiceIndex.open`` makes or opens one.

    Every call sees what any process has committed; what a call of this object has changed is committed when it returns.
    Threads may share an index. It is a context manager, which closes it.

    Args:
        store: An open store.
        model: The model that made it; None loads the one that the store names, once it is needed.
    """

    def __init__(self, store: Store, path: str, model: MiceCrossEncoder | None, reopen: Callable[[], Store]) -> None:
        self._store = store
        self._path = path
        self._model = model
        self._own_model = model is None  # may be exchanged when the store moves to another one
        self._reopen = reopen
        self._exchange = threading.RLock()  # store and model belong together
        self._left: list[Store] = []  # stores that threads may still be using

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        model: MiceCrossEncoder | str | PathLike[str] | None = None,
        *,
        codec: str | None = None,
        read_only: bool = False,
        passages: bool | None = None,
        overlap: int | None = None,
        tokenizer: Tokenizer | None = None,
        prompt: str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> MiceIndex:
        """Open an index, or make one where there is none.

        What an index was made with it keeps: codec, passages, tokenizer and prompt are to be given only to a new one.
        Given to an existing one, they must be what it has.

        Args:
            path: ``corpus.sqlite`` or any other file: SQLite. A folder ending in ``.lance``, ``s3://...`` or
                ``gs://...``: Lance, with the extra ``lance``.
            model: A model, or its folder, Hub id or released name. None takes the one that the index names, and follows
                it when the index is migrated to another one.
            codec: How states are kept: ``fp32``, ``fp16``, ``int8`` (of a new index where nothing is given) or ``int4``.
            read_only: Whether only to read; nothing is made then.
            passages: Whether long documents are kept in overlapping passages instead of cut; False for a new index.
            overlap: Tokens that neighbouring passages share; a quarter of a passage for a new index.
            tokenizer: How words are told apart; ``unicode61`` for a new index. See ``StoreSettings``.
            prompt: Put before each document; empty for a new index.
            storage_options: Credentials and endpoints for object stores, as Lance names them.

        Raises:
            StoreNotFoundError: If there is none, and it is opened for reading or without a model.
            StoreMismatchError: If another model, or other settings of it, made the index; names both models.
            ValueError: If a setting is not the one that the index has, or is impossible.
        """
        location = fspath(path)
        _check_settings(passages, overlap, prompt)

        def existing() -> Store:
            return open_store(location, None, read_only=read_only, storage_options=storage_options)

        try:
            store = existing()
        except StoreNotFoundError:
            if read_only or model is None:
                raise
            model = _model_of(model)
            if overlap is not None and not passages:
                raise ValueError("overlap: needs passages=True") from None
            shared = check_overlap(model.module, overlap) if passages else None
            settings = StoreSettings(lasting_name(model_name(model)), shared, tokenizer or "unicode61")
            made_by = fingerprint_of(model, codec or DEFAULT_CODEC, prompt or "")
            store = open_store(location, made_by, read_only=False, settings=settings, storage_options=storage_options)
        try:
            made_by, settings = store.fingerprint, store.settings
            model = None if model is None else _model_of(model)
            if model is not None:
                wanted = fingerprint_of(model, made_by.codec, made_by.prompt)
                made_by.check(wanted, settings.model, model_name(model))
            for name, given, kept in (
                ("codec", codec, made_by.codec),
                ("prompt", prompt, made_by.prompt),
                ("tokenizer", tokenizer, settings.tokenizer),
                ("passages", passages, settings.overlap is not None),
                ("overlap", overlap, settings.overlap),
            ):
                if given is not None and given != kept:
                    raise ValueError(
                        f"{name}: {location} was made with {kept!r}, not {given!r}; leave it out, or make another index"
                    )
        except BaseException:
            store.close()
            raise
        return cls(store, location, model, existing)

    # What it is

    @property
    def store(self) -> Store:
        """The store itself, with all that its engine can do."""
        return self._store

    @property
    def model(self) -> MiceCrossEncoder:
        """The model; loaded by the name that the index gives, where none was given.

        Raises:
            ValueError: If the index names no model, or one of that name does not fit.
        """
        return self._pair()[1]

    def _pair(self) -> tuple[Store, MiceCrossEncoder]:
        """The store and the model that made it."""
        with self._exchange:
            if self._model is None:
                name = self._store.settings.model
                if not name:
                    raise ValueError(
                        f"{self._path}: the index does not say which model made it; open it with that model"
                    )
                model = _load(name)
                made_by = self._store.fingerprint
                made_by.check(fingerprint_of(model, made_by.codec, made_by.prompt), name, name)
                self._model = model
            return self._store, self._model

    def __len__(self) -> int:
        """Number of documents."""
        return self._current(lambda: len(self._store))

    def __contains__(self, id_: str) -> bool:
        """Whether there is a document with this id."""
        return not self._current(lambda: self._store.missing([id_]))

    @property
    def info(self) -> StoreInfo:
        """Documents, tokens, bytes, codec, model; every document's light row is read and checked for it."""
        return self._current(lambda: store_info(self._store, self._path))

    # Documents

    def add(self, documents: Any, *, show_progress_bar: bool | None = None) -> EncodeReport:
        """Add documents; only what is new or has changed is encoded.

        Documents are committed some hundred at a time: after an error, or a kill, those before it are stored.

        Args:
            documents: Dictionaries with ``id`` (or ``_id``), ``text`` and perhaps ``title`` and ``metadata``;
                ``(id, text)`` or ``(id, text, metadata)``; a mapping id -> text; a DataFrame or Dataset with such
                columns; LangChain ``Document``s; an iterator of these. See ``mice_st.data.inputs.as_documents``.
            show_progress_bar: None shows one where the work takes over two seconds.

        Returns:
            Counts of documents by what became of them.

        Raises:
            ValueError: If a document is bad; names its row or id.
        """
        return self._encode(as_documents(documents), "ignore", show_progress_bar)

    def sync(self, documents: Any, *, show_progress_bar: bool | None = None) -> EncodeReport:
        """Make the index hold these documents and no others; takes what ``add`` takes.

        Others are removed at the end, and only if all documents could be read.
        """
        return self._encode(as_documents(documents), "remove", show_progress_bar)

    def _encode(
        self, documents: Iterable[Document], others: Literal["ignore", "remove"], show: bool | None
    ) -> EncodeReport:
        len(self)  # follows a migration, which cannot be followed once the documents have begun to be read
        store, model = self._pair()
        return encode_corpus(model, documents, store, others=others, show_progress_bar=show)

    def delete(self, ids: str | Sequence[str], *, missing: Literal["raise", "ignore"] = "raise") -> int:
        """Remove documents.

        Args:
            ids: One id or several.
            missing: Whether ids that there are none of are refused or passed over.

        Returns:
            How many were removed.

        Raises:
            UnknownDocumentError: If there is no such document; nothing is removed.
        """
        _check_missing(missing)
        wanted = list(dict.fromkeys(as_ids(ids)))

        def remove() -> int:
            known = wanted
            if missing == "ignore":
                unknown = set(self._store.missing(wanted))
                known = [id_ for id_ in wanted if id_ not in unknown]
            store = self._store
            try:
                with store.writing():
                    store.delete(known)
                    store.commit()
            except UnknownDocumentError:
                if missing == "raise":
                    raise
                return remove()  # somebody else was faster
            return len(known)

        return self._current(remove)

    def get(self, id_: str) -> Document:
        """One document: its text and metadata.

        Raises:
            UnknownDocumentError: If there is no such document.
        """
        return self.get_many([id_])[0]

    def get_many(self, ids: Sequence[str]) -> list[Document]:
        """Documents by id, in their order.

        Raises:
            UnknownDocumentError: If there is no such document; names all of them.
        """
        wanted = as_ids(ids)
        rows = self._current(lambda: list(self._store.checked_documents(wanted)))
        return [
            Document(row.id, row.text or "", None if row.metadata is None else json.loads(row.metadata)) for row in rows
        ]

    # Questions

    def search(
        self,
        query: str,
        top_k: int = 10,
        *,
        first_stage: str | Sequence[str] | None = None,
        candidates: int = 100,
        where: Mapping[str, Any] | None = None,
        return_documents: bool = False,
        prompt: str = "",
    ) -> Ranking:
        """Find documents and rank them.

        Args:
            query: The query.
            top_k: How many to return.
            first_stage: ``"bm25"``, ``"vectors"`` or a list of them, fused by reciprocal rank; None takes both for a
                model with the pooled residual, else BM25.
            candidates: Documents that the first stage finds and the model ranks; at least ``top_k``.
            where: Conditions on metadata, which hold before the first stage: ``{"lang": "de", "year": {">=": 2020}}``.
                See ``mice_st.states.where.Where``.
            return_documents: Put the text under ``text``, and metadata, where there is some, under ``metadata``.
            prompt: Put before the query for the model.

        Returns:
            Dictionaries with ``corpus_id`` (the document's id) and ``score`` (a Python float), best first; its ``notes``
            say which first stage found nothing, and why.

        Raises:
            ValueError: If an argument is impossible; names it.
        """
        return self._rank(
            query,
            first_stage=first_stage,
            candidates=candidates,
            where=where,
            top_k=top_k,
            return_documents=return_documents,
            prompt=prompt,
        )

    def rank(
        self,
        query: str,
        ids: Sequence[str],
        top_k: int | None = None,
        *,
        missing: Literal["raise", "ignore"] = "raise",
        return_documents: bool = False,
        prompt: str = "",
    ) -> Ranking:
        """Rank documents that another search engine has found.

        Args:
            query: The query.
            ids: Of the documents.
            top_k: How many to return; None returns all.
            missing: Whether ids that the index does not have are refused, or left out and counted in ``dropped``.
            return_documents: As for ``search``.
            prompt: As for ``search``.

        Raises:
            UnknownDocumentError: If there is no such document; names all of them.
        """
        _check_missing(missing)
        unknown: Literal["raise", "drop"] = "raise" if missing == "raise" else "drop"
        return self._rank(
            query, ids=as_ids(ids), unknown=unknown, top_k=top_k, return_documents=return_documents, prompt=prompt
        )

    def rank_many(
        self,
        queries: Sequence[str],
        ids: Sequence[str] | Sequence[Sequence[str]] | None = None,
        top_k: int | None = None,
        **how: Any,
    ) -> list[Ranking]:
        """Rank for several queries, as ``rank`` does, or as ``search`` where no ids are given.

        Args:
            queries: The queries.
            ids: Of the documents for all of them, or a list of ids for each.
            top_k: How many to return for each; None returns all of the ids, or ten of a search.
            **how: As for ``rank`` or ``search``.

        Raises:
            ValueError: If there are not as many lists of ids as queries.
        """
        if isinstance(queries, str):
            raise ValueError("queries: expected a list of queries, got one string.")
        queries = list(queries)
        if ids is None:
            return [self.search(query, 10 if top_k is None else top_k, **how) for query in queries]
        lists: list[Any] = list(ids)
        if all(isinstance(id_, str) for id_ in lists):
            lists = [lists] * len(queries)
        if len(lists) != len(queries):
            raise ValueError(f"ids: {len(lists)} lists of ids for {len(queries)} queries.")
        return [self.rank(query, each, top_k, **how) for query, each in zip(queries, lists, strict=True)]

    def _rank(self, query: str, *, prompt: str, **how: Any) -> Ranking:
        def ranked() -> Ranking:
            store, model = self._pair()
            return rank_store(model.module, store, query, prompt=prompt, activation_fn=model.activation_fn, **how)

        return self._current(ranked)

    # Life

    def verify(self) -> VerifyReport:
        """Read and check everything; faults are listed, not raised."""
        return self._current(self._store.verify)

    def repair(self, show_progress_bar: bool | None = None) -> RepairReport:
        """Encode damaged documents anew from their texts, and make words and vectors anew; see ``repair_store``."""
        return self._apart(lambda store: repair_store(store, self.model, show_progress_bar))

    def compact(self) -> CompactReport:
        """Give the space of deleted and replaced documents back."""
        return self._apart(lambda store: store.compact())

    def build_ann(self) -> int:
        """Make an approximate index of the vectors, for over about a million documents; see ``Store.build_ann``.

        Returns:
            How many vectors it covers.

        Raises:
            ImportError: If the extra ``ann`` is not installed.
            StoreError: If there are no vectors, or this is no SQLite store.
        """
        return self._apart(lambda store: store.build_ann())

    def drop_ann(self) -> bool:
        """Remove the approximate index: the search by vectors is exact again.

        Returns:
            Whether there was one.
        """
        return self._apart(lambda store: store.drop_ann())

    def refresh(self) -> None:
        """Open the store anew, with the model that it names by now where none was given.

        There is no need to: every call sees the latest commit, and follows a migration.
        """
        with self._exchange:
            store = self._reopen()
            self._left.append(self._store)
            self._store = store
            if self._own_model:
                self._model = None

    def backup(self, path: str | PathLike[str]) -> None:
        """Write a copy of the index, which may be in use; nothing may lie at ``path``."""
        self._current(lambda: self._store.backup(fspath(path)))

    def migrate(
        self,
        model: MiceCrossEncoder | str | PathLike[str],
        *,
        codec: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> int:
        """Move the index to another model while it is in use: it answers from the old states until that is done.

        Args:
            model: The new model, or its folder, Hub id or released name.
            codec: Another codec; None keeps the one there is.
            show_progress_bar: None shows one where the work takes over two seconds.

        Returns:
            How many documents were encoded by this call; a broken-off migration goes on where it was.
        """
        new = _model_of(model)
        name = lasting_name(model_name(new))
        encoded = self._apart(
            lambda store: migrate_store(store, new, name, codec=codec, show_progress_bar=show_progress_bar)
        )
        with self._exchange:
            self.refresh()
            self._model = new
        return encoded

    def close(self) -> None:
        """Release files and locks. Closing twice is allowed."""
        for store in (*self._left, self._store):
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _current(self, answer: Callable[[], Answer]) -> Answer:
        """Answer, after a migration from the store as it is now.

        Raises:
            StoreMovedError: If the index was opened with a model, and somebody else has moved it to another one.
        """
        before = self._store
        try:
            return answer()
        except StoreMovedError:
            with self._exchange:
                if self._store is before:  # no other thread was faster
                    if not self._own_model:
                        raise
                    self.refresh()
            return answer()

    def _apart(self, work: Callable[[Store], Answer]) -> Answer:
        """Work on the whole store, by an object of its own: it waits for its turn as another process would."""
        with self._reopen() as store:
            return work(store)


def as_ids(ids: str | Iterable[str]) -> list[str]:
    """One id or several as a list.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(ids, str):
        return [ids]
    if not isinstance(ids, Iterable):
        raise ValueError(f"ids: expected ids, got {ids!r}.")
    return list(ids)


def _check_missing(missing: str) -> None:
    if missing not in ("raise", "ignore"):
        raise ValueError(f"missing: must be 'raise' or 'ignore', got {missing!r}.")


def _check_settings(passages: Any, overlap: Any, prompt: Any) -> None:
    """Refuse settings of another type before a store is made with them."""
    for name, value, kind in (("passages", passages, bool), ("overlap", overlap, int), ("prompt", prompt, str)):
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}.")


def _model_of(model: Any) -> MiceCrossEncoder:
    """A model, or the one of a name.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(model, str | PathLike):
        return _load(fspath(model))
    if not isinstance(model, MiceCrossEncoder):
        raise ValueError(f"model: expected a MiceCrossEncoder, or the name of one, got {model!r}.")
    return model


def _load(name: str) -> MiceCrossEncoder:
    """A MICE model by its folder, Hub id or released name."""
    model = load_model(resolve_model(name))
    if not isinstance(model, MiceCrossEncoder):
        raise ValueError(f"model: {name} is not MICE; turn it into MICE with mice_st.convert")
    return model
