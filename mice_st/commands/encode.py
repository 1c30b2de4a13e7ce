"""The command ``mice-st encode``: fill a store of document states."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mice_st.commands.columns import ID_COLUMN, TEXT_COLUMNS
from mice_st.loading import DEFAULT_MODEL, resolve_model


@dataclass
class EncodeOptions:
    """Encode a corpus into a store; once more, and only what is missing or has changed is encoded.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a number is out of range, or flags contradict each other.
    """

    documents: str = field(
        metadata={
            "help": "BEIR folder, JSON Lines, a JSON list, CSV, TSV, Parquet, or .txt of one text per line; all but Parquet also as .gz or .zst.",
            "metavar": "FILE",
            "aliases": ("corpus",),  # of cards of released models
        }
    )
    store: str = field(
        metadata={"help": "Store to fill: a file, a folder ending in .lance, s3:// or gs://.", "metavar": "STORE"}
    )
    id_column: str | None = field(default=None, metadata=ID_COLUMN)
    text_columns: list[str] | None = field(default=None, metadata=TEXT_COLUMNS)
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a MICE model, or a released model's name (default: the one that made the store, "
            f"{DEFAULT_MODEL} for a new one).",
            "metavar": "MODEL",
        },
    )
    codec: Literal["fp32", "fp16", "int8", "int4"] | None = field(
        default=None, metadata={"help": "Type of the stored states (default: the store's own, int8 for a new one)."}
    )
    long_documents: Literal["cut", "passages"] | None = field(
        default=None,
        metadata={
            "help": "Cut texts beyond the maximum length, or keep overlapping passages and score by the best "
            "(default: the store's own, cut for a new one)."
        },
    )
    overlap: int | None = field(
        default=None, metadata={"help": "Tokens that neighbouring passages share (default: a quarter of a passage)."}
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Text to put before each document (default: the store's own)."}
    )
    tokenizer: Literal["unicode61", "trigram"] | None = field(
        default=None,
        metadata={
            "help": "How words are told apart for BM25: by letters and digits, or by three characters each, for scripts "
            "without spaces (default: the store's own, unicode61 for a new one)."
        },
    )
    sync: bool = field(default=False, metadata={"help": "Remove stored documents that are not among these."})
    processes: int = field(default=1, metadata={"help": "Processes that encode."})
    shard_documents: int = field(
        default=128, metadata={"help": "Documents in one transaction; an interrupted run loses those."}
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Stop at a bad line or row, or skip and count it."}
    )

    def __post_init__(self) -> None:
        for name in ("processes", "shard_documents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.overlap is not None and self.long_documents != "passages":
            raise ValueError("overlap: needs --long-documents passages")
        if self.model is not None:
            self.model = resolve_model(self.model)


def run_encode(options: EncodeOptions) -> None:
    """Encode and print the counts."""
    import transformers

    from mice_st.data.reader import read_corpus
    from mice_st.index import MiceIndex
    from mice_st.states.encoding import encode_corpus
    from mice_st.states.engines import store_exists

    transformers.utils.logging.disable_progress_bar()
    documents = read_corpus(
        options.documents, options.on_error, id_column=options.id_column, text_columns=options.text_columns
    )
    refuse_empty(options.documents, options.on_error, options.id_column, options.text_columns)
    passages = None if options.long_documents is None else options.long_documents == "passages"
    model = options.model or (None if store_exists(options.store) else resolve_model(DEFAULT_MODEL))
    with MiceIndex.open(
        options.store,
        model,
        codec=options.codec,
        passages=passages,
        overlap=options.overlap,
        tokenizer=options.tokenizer,
        prompt=options.prompt,
    ) as index:
        report = encode_corpus(
            index.model,
            documents,
            index.store,
            processes=options.processes,
            shard_documents=options.shard_documents,
            others="remove" if options.sync else "count",
        )
    print(report)
    if report.left:
        print("documents that the corpus does not have are still found; encode with --sync removes them")


def refuse_empty(
    documents: str, on_error: Literal["raise", "skip"], id_column: str | None, text_columns: list[str] | None
) -> None:
    """Refuse a corpus that cannot be read, or is empty, before a store is made that nothing would be put into.

    Raises:
        FileNotFoundError: If there is no such corpus.
        ValueError: If it is standard input, its first document is bad, or it has none.
    """
    from mice_st.data.reader import read_corpus

    if documents == "-":
        raise ValueError(
            "documents: standard input cannot be read again to go on after a kill; give a file or a folder."
        )
    first = next(read_corpus(documents, on_error, id_column=id_column, text_columns=text_columns), None)
    if first is None:
        raise ValueError(f"{documents}: there are no documents")


def saved_documents(options: EncodeOptions) -> str | None:
    """Say that what was committed stays."""
    if "://" not in options.store and not Path(options.store).exists():
        return None
    return f"the shards that were finished are in {options.store}, the same command encodes the rest"
