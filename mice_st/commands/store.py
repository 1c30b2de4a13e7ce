"""``mice-st encode`` and ``mice-st store``: fill a store of document states, and look after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import transformers

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.loading import DEFAULT_MODEL, resolve_model
from mice_st.states.codecs import get_codec
from mice_st.states.encoding import SHARD_DOCUMENTS, encode_corpus
from mice_st.states.engines import open_store
from mice_st.states.fingerprint import fingerprint_of
from mice_st.states.info import store_info


@dataclass
class EncodeOptions:
    """Encode a corpus into a store; once more, and only what is missing or has changed is encoded.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a number is out of range, the codec is unknown, or flags contradict each other.
    """

    corpus: str = field(metadata={"help": "BEIR folder, JSON Lines file, or file of one text per line."})
    store: str = field(metadata={"help": "Where the states go: a file, a folder ending in .lance, s3:// or gs://."})
    model: str = field(
        default=DEFAULT_MODEL, metadata={"help": "Folder or Hub id of a MICE model, or a released model's name."}
    )
    codec: str = field(default="fp16", metadata={"help": "How states are stored: fp32, fp16, int8 or int4."})
    long_documents: Literal["cut", "passages"] = field(
        default="cut",
        metadata={"help": "Beyond the maximum length: cut, or keep overlapping passages and score by the best."},
    )
    overlap: int | None = field(
        default=None, metadata={"help": "Tokens that neighbouring passages share (default: a quarter of a passage)."}
    )
    prompt: str = field(default="", metadata={"help": "Text to put before each document."})
    processes: int = field(default=1, metadata={"help": "Processes that encode."})
    shard_documents: int = field(default=SHARD_DOCUMENTS, metadata={"help": "Documents in one transaction."})
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "At a bad line of the corpus: stop, or skip and count it."}
    )

    def __post_init__(self) -> None:
        get_codec(self.codec)
        for name in ("processes", "shard_documents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.overlap is not None and self.long_documents == "cut":
            raise ValueError("overlap: needs --long_documents passages")
        self.model = resolve_model(self.model)


def run_encode(options: EncodeOptions) -> None:
    """Encode and print the counts."""
    transformers.utils.logging.disable_progress_bar()
    model = MiceCrossEncoder(options.model)
    made_by = fingerprint_of(model, options.codec, options.prompt)
    with open_store(options.store, made_by, read_only=False) as store:
        report = encode_corpus(
            model,
            options.corpus,
            store,
            passages=options.long_documents == "passages",
            overlap=options.overlap,
            processes=options.processes,
            shard_documents=options.shard_documents,
            on_error=options.on_error,
        )
    print(report)


@dataclass
class StoreOptions:
    """Look after a store."""

    POSITIONAL: ClassVar = ("action", "path")

    action: Literal["info", "verify", "compact"] = field(
        metadata={"help": "Count what it holds, check every row, or give back the space of what was deleted."}
    )
    path: str = field(metadata={"help": "The store."})


def run_store(options: StoreOptions) -> int:
    """Do it and print what came out.

    Returns:
        The exit status: 1 if ``verify`` found a problem.
    """
    with open_store(options.path, None, read_only=options.action != "compact") as store:
        if options.action == "info":
            print(store_info(store, options.path))
            return 0
        if options.action == "compact":
            compacted = store.compact()
            print(f"{compacted.bytes_before:,} bytes before, {compacted.bytes_after:,} after")
            return 0
        found = store.verify()
    for problem in found.problems:
        print(f"problem: {problem}")
    print(f"{found.documents:,} sound documents, {found.tokens:,} tokens; {len(found.problems)} problems")
    return 0 if found.ok else 1
