"""The command ``mice-st encode``: fill a store of document states."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    id_column: str | None = field(
        default=None,
        metadata={"help": "Column or field of the id (default: _id, or id).", "metavar": "NAME"},
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns or fields of the text, joined with a space (default: title, if there is one, and text).",
            "metavar": "NAME",
        },
    )
    model: str = field(
        default=DEFAULT_MODEL,
        metadata={"help": "Folder or Hub id of a MICE model, or a released model's name.", "metavar": "MODEL"},
    )
    codec: Literal["fp32", "fp16", "int8", "int4"] = field(
        default="fp16", metadata={"help": "Type of the stored states."}
    )
    long_documents: Literal["cut", "passages"] = field(
        default="cut",
        metadata={"help": "Cut texts beyond the maximum length, or keep overlapping passages and score by the best."},
    )
    overlap: int | None = field(
        default=None, metadata={"help": "Tokens that neighbouring passages share (default: a quarter of a passage)."}
    )
    prompt: str = field(default="", metadata={"help": "Text to put before each document."})
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
        if self.overlap is not None and self.long_documents == "cut":
            raise ValueError("overlap: needs --long-documents passages")
        self.model = resolve_model(self.model)


def run_encode(options: EncodeOptions) -> None:
    """Encode and print the counts."""
    import transformers

    from mice_st.cross_encoder import MiceCrossEncoder
    from mice_st.data.reader import read_corpus
    from mice_st.states.encoding import encode_corpus
    from mice_st.states.engines import open_store
    from mice_st.states.fingerprint import fingerprint_of

    transformers.utils.logging.disable_progress_bar()
    documents = read_corpus(
        options.documents, options.on_error, id_column=options.id_column, text_columns=options.text_columns
    )
    model = MiceCrossEncoder(options.model)
    made_by = fingerprint_of(model, options.codec, options.prompt)
    with open_store(options.store, made_by, read_only=False) as store:
        report = encode_corpus(
            model,
            documents,
            store,
            passages=options.long_documents == "passages",
            overlap=options.overlap,
            processes=options.processes,
            shard_documents=options.shard_documents,
        )
    print(report)


def saved_documents(options: EncodeOptions) -> str | None:
    """Say that what was committed stays."""
    if "://" not in options.store and not Path(options.store).exists():
        return None
    return f"the shards that were finished are in {options.store}, the same command encodes the rest"
