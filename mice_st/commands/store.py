"""The command ``mice-st store``: look after a store of document states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from mice_st.commands.columns import ID_COLUMN, TEXT_COLUMNS
from mice_st.commands.encode import refuse_empty
from mice_st.loading import resolve_model

Action = Literal[
    "info", "verify", "compact", "repair", "delete", "sync", "migrate", "upgrade", "backup", "restore", "index"
]

# What an action needs beside the store, and what it may have.
NEEDS: dict[str, tuple[str, ...]] = {
    "delete": ("ids",),
    "sync": ("documents",),
    "migrate": ("model",),
    "backup": ("output",),
    "restore": ("copy",),
}
TAKES: dict[str, tuple[str, ...]] = {
    "repair": ("model",),
    "sync": ("model", "id_column", "text_columns"),
    "migrate": ("codec",),
    "index": ("tokenizer", "ann"),
}


@dataclass
class StoreOptions:
    """Look after a store.

    Raises:
        ValueError: If an action lacks what it needs, or is given what it does not take.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("action", "store")

    action: Action = field(
        metadata={
            "metavar": "ACTION",
            "help": "What to do: info counts what it holds; verify checks every row; compact gives back the space of what was deleted; "
            "repair encodes damaged documents anew; delete removes documents; sync makes it hold these documents and no others; "
            "migrate moves it to another model while it is in use; upgrade turns a store of an older version into one of this; "
            "backup copies it while it is in use; restore puts a copy in its place; index makes words and vectors anew, or an approximate index of the vectors.",
        }
    )
    store: str = field(metadata={"help": "The store.", "metavar": "STORE"})
    ids: list[str] | None = field(default=None, metadata={"help": "Documents to delete.", "metavar": "ID"})
    documents: str | None = field(
        default=None, metadata={"help": "Documents that sync leaves, and no others.", "metavar": "FILE"}
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Model to migrate to; for repair and sync, the one that made the store (default: the one that it names).",
            "metavar": "MODEL",
        },
    )
    codec: Literal["fp32", "fp16", "int8", "int4"] | None = field(
        default=None, metadata={"help": "Type of the states after migrate (default: as before)."}
    )
    id_column: str | None = field(default=None, metadata=ID_COLUMN)
    text_columns: list[str] | None = field(default=None, metadata=TEXT_COLUMNS)
    output: str | None = field(default=None, metadata={"help": "Where backup writes the copy.", "metavar": "FILE"})
    copy: str | None = field(
        default=None, metadata={"help": "Copy that restore puts in the store's place.", "metavar": "FILE"}
    )
    tokenizer: Literal["unicode61", "trigram"] | None = field(
        default=None, metadata={"help": "How index tells words apart from now on (default: as before)."}
    )
    ann: bool | None = field(
        default=None,
        metadata={
            "help": "Whether index makes an approximate index of the vectors, for over a million documents, or removes it, "
            "instead of making words and vectors anew (default: neither)."
        },
    )

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"action: there is no {self.action!r}; choose from {', '.join(get_args(Action))}")
        needed = NEEDS.get(self.action, ())
        for name in (
            "ids",
            "documents",
            "id_column",
            "text_columns",
            "model",
            "codec",
            "output",
            "copy",
            "tokenizer",
            "ann",
        ):
            given, option = getattr(self, name) is not None, name.replace("_", "-")
            if name in needed and not given:
                raise ValueError(f"{self.action}: needs --{option}")
            if given and name not in (*needed, *TAKES.get(self.action, ())):
                raise ValueError(f"{self.action}: takes no --{option}")
        if self.model is not None:
            self.model = resolve_model(self.model)
        if self.ann is not None and self.tokenizer is not None:
            raise ValueError("index: makes words anew by --tokenizer, or sees to the approximate index; run it twice")


def run_store(options: StoreOptions) -> int:
    """Do it and print what came out.

    Returns:
        The exit status: 1 if ``verify`` found a problem, or ``repair`` lost a document.
    """
    actions: dict[str, Callable[[StoreOptions], int]] = {
        "info": _info,
        "verify": _verify,
        "compact": _compact,
        "repair": _repair,
        "delete": _delete,
        "sync": _sync,
        "migrate": _migrate,
        "upgrade": _upgrade,
        "backup": _backup,
        "restore": _restore,
        "index": _index,
    }
    return actions[options.action](options)


def saved_work(options: StoreOptions) -> str | None:
    """Say that a migration, or an upgrade, goes on."""
    if options.action not in ("migrate", "upgrade", "repair", "sync"):
        return None
    return f"{options.store} is as it was, or further; the same command goes on"


def _info(options: StoreOptions) -> int:
    from mice_st.states.engines import open_store
    from mice_st.states.info import store_info

    with open_store(options.store, None, read_only=True) as store:
        print(store_info(store, options.store))
    return 0


def _verify(options: StoreOptions) -> int:
    from mice_st.states.engines import open_store

    with open_store(options.store, None, read_only=True) as store:
        found = store.verify()
    for problem in found.problems:
        print(f"problem: {problem}")
    print(f"{found.documents:,} sound documents, {found.tokens:,} tokens; {len(found.problems)} problems")
    return 0 if found.ok else 1


def _compact(options: StoreOptions) -> int:
    from mice_st.states.engines import open_store

    with open_store(options.store, None, read_only=False) as store:
        compacted = store.compact()
    print(f"{compacted.bytes_before:,} bytes before, {compacted.bytes_after:,} after")
    return 0


def _repair(options: StoreOptions) -> int:
    from mice_st.index import MiceIndex

    with MiceIndex.open(options.store, options.model) as index:
        report = index.repair()
    copied = "the file was copied to a sound one; " if report.copied else ""
    print(
        f"{copied}{len(report.encoded):,} documents encoded anew; {len(report.lost):,} lost; words and vectors made anew"
    )
    for id_ in report.lost:
        print(f"lost: document {id_!r}, whose text was damaged too or never kept")
    return 1 if report.lost else 0


def _delete(options: StoreOptions) -> int:
    from mice_st.index import MiceIndex

    with MiceIndex.open(options.store) as index:
        print(f"{index.delete(options.ids or []):,} documents removed, {len(index):,} left")
    return 0


def _sync(options: StoreOptions) -> int:
    from mice_st.data.reader import read_corpus
    from mice_st.index import MiceIndex
    from mice_st.states.encoding import encode_corpus

    path, columns = options.documents or "", (options.id_column, options.text_columns)
    refuse_empty(path, "raise", *columns)
    documents = read_corpus(path, id_column=options.id_column, text_columns=options.text_columns)
    with MiceIndex.open(options.store, options.model) as index:
        print(encode_corpus(index.model, documents, index.store, others="remove"))
    return 0


def _migrate(options: StoreOptions) -> int:
    from mice_st.index import MiceIndex

    with MiceIndex.open(options.store) as index:
        encoded = index.migrate(options.model or "", codec=options.codec)
        print(
            f"{encoded:,} documents encoded; the store is now {index.store.settings.model}'s: {len(index):,} documents"
        )
    return 0


def _upgrade(options: StoreOptions) -> int:
    from mice_st.states.engines import upgrade_store

    print(f"{upgrade_store(options.store):,} documents, in this version's format; nothing was encoded")
    return 0


def _restore(options: StoreOptions) -> int:
    from mice_st.states.engines import restore_store

    print(f"{restore_store(options.store, options.copy or ''):,} documents, from {options.copy}")
    return 0


def _backup(options: StoreOptions) -> int:
    from mice_st.states.engines import open_store

    with open_store(options.store, None, read_only=True) as store:
        store.backup(options.output or "")
        print(f"{len(store):,} documents copied to {options.output}")
    return 0


def _index(options: StoreOptions) -> int:
    from mice_st.states.engines import open_store

    with open_store(options.store, None, read_only=False) as store:
        if options.ann is not None:
            if options.ann:
                print(f"approximate index of {store.build_ann():,} vectors made")
            else:
                print("approximate index removed" if store.drop_ann() else "there was no approximate index")
            return 0
        store.rebuild_first_stage(options.tokenizer)
        print(f"words ({store.settings.tokenizer}) and vectors of {len(store):,} documents made anew")
    return 0
