"""``mice-st rank``: rank the texts of a file, or the documents of a store, for one query."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mice_st.commands.columns import ID_COLUMN, TEXT_COLUMNS
from mice_st.loading import DEFAULT_MODEL, load_cross_encoder, model_kind, resolve_model

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


@dataclass
class RankOptions:
    """Rank documents for one query.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a number is below 1, there are both documents and a store or neither, or flags contradict each other.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("query",)

    query: str = field(metadata={"help": "The query."})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder, Hub id or released model's name of MICE; with --documents also of another cross-encoder "
            f"(default: {DEFAULT_MODEL}; with --store the one that made it).",
            "metavar": "MODEL",
        },
    )
    documents: str | None = field(
        default=None,
        metadata={
            "help": "BEIR folder, JSON Lines, a JSON list, CSV, TSV, Parquet, or .txt of one text per line; all but Parquet also as .gz or .zst; - reads standard input.",
            "metavar": "FILE",
        },
    )
    id_column: str | None = field(default=None, metadata=ID_COLUMN)
    text_columns: list[str] | None = field(default=None, metadata=TEXT_COLUMNS)
    store: str | None = field(
        default=None, metadata={"help": "Store of document states, in place of documents.", "metavar": "STORE"}
    )
    ids: list[str] | None = field(
        default=None,
        metadata={"help": "Documents of the store to rank (default: what the first stage finds).", "metavar": "ID"},
    )
    first_stage: Literal["bm25", "vectors", "pooled", "both"] | None = field(
        default=None,
        metadata={
            "help": "How to search the store: BM25 over its texts, its pooled vectors (pooled is an earlier name), or both fused by reciprocal rank "
            "(default: both for a model with the pooled residual, otherwise bm25)."
        },
    )
    candidates: int = field(default=100, metadata={"help": "Documents of the store that the first stage finds."})
    where: str | None = field(
        default=None,
        metadata={
            "help": 'Conditions on metadata of the store\'s documents, as JSON: \'{"lang": "de", "year": {">=": 2020}}\'.',
            "metavar": "JSON",
        },
    )
    long_documents: Literal["cut", "passages"] = field(
        default="cut", metadata={"help": "Cut long texts, or score overlapping passages and take the best."}
    )
    top_k: int = field(default=10, metadata={"help": "Documents to print, best first."})
    json: bool = field(default=False, metadata={"help": "Print one JSON object per document instead of a table."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code that lies beside the weights of another cross-encoder; MICE never needs it."},
    )

    def __post_init__(self) -> None:
        for name in ("top_k", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if (self.documents is None) == (self.store is None):
            raise ValueError("give either --documents or --store, and not both")
        if self.store is None and (self.ids is not None or self.first_stage is not None):
            raise ValueError("ids and first_stage: need --store")
        if self.store is not None and (self.id_column is not None or self.text_columns is not None):
            raise ValueError("id_column and text_columns: need --documents")
        if self.ids is not None and self.first_stage is not None:
            raise ValueError("first_stage: with --ids there is nothing to search for")
        if self.store is not None and self.long_documents != "cut":
            raise ValueError("long_documents: the passages of a store are those that `mice-st encode` made")
        if self.where is not None:
            self.conditions()
        if self.model is not None or self.store is None:
            self.model = resolve_model(self.model or DEFAULT_MODEL)

    def conditions(self) -> dict[str, Any] | None:
        """The conditions on metadata."""
        if self.where is None:
            return None
        try:
            conditions = json.loads(self.where)
        except ValueError as error:
            raise ValueError(f"where: is no JSON: {error}") from error
        if not isinstance(conditions, dict):
            raise ValueError(f"where: must be a JSON object, got {self.where}")
        return conditions


def run_rank(options: RankOptions) -> None:
    """Rank and print, best first."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    ranking = _rank_texts(options) if options.store is None else _rank_store(options, options.store)
    for place, entry in enumerate(ranking, start=1):
        if options.json:
            line = {"rank": place, "score": entry["score"], "id": entry["id"], "text": entry["text"]}
            print(json.dumps(line, ensure_ascii=False))
        else:
            text = " ".join(entry["text"].split())
            shown = text if len(text) <= 80 else text[:79] + "…"
            print(f"{place:>4}  {entry['score']:>9.4f}  {entry['id']}  {shown}")


def _rank_texts(options: RankOptions) -> list[dict[str, Any]]:
    """Rank the texts of a file."""
    from tqdm import tqdm

    from mice_st.data.reader import read_corpus

    reader = read_corpus(options.documents or "", id_column=options.id_column, text_columns=options.text_columns)
    documents = list(tqdm(reader, "Reading", unit="document", delay=2))
    if not documents:
        raise ValueError(f"{options.documents}: there are no documents")
    model = _load(options)
    passages = {"passages": True} if options.long_documents == "passages" else {}
    ranking = model.rank(options.query, [document.text for document in documents], top_k=options.top_k, **passages)
    for entry in ranking:  # MICE refuses them itself
        if not math.isfinite(entry["score"]):
            raise ValueError(
                f"{options.model}: document {documents[entry['corpus_id']].id!r}: the score is {entry['score']}"
            )
    found = [(entry["score"], documents[entry["corpus_id"]]) for entry in ranking]
    return [{"score": score, "id": document.id, "text": document.text} for score, document in found]


def _load(options: RankOptions) -> CrossEncoder:
    """MICE, or another cross-encoder where documents are cut as it cuts them.

    Raises:
        ValueError: If it is neither, or another cross-encoder is asked for passages.
    """
    name = options.model or ""
    kind = model_kind(name)
    if kind not in ("mice", "cross_encoder"):
        raise ValueError(f"model: {name} is of the kind {kind}; rank takes MICE or another cross-encoder")
    if kind != "mice" and options.long_documents != "cut":
        raise ValueError(f"long_documents: {name} is not MICE, and only MICE scores passages")
    return load_cross_encoder(name, trust_remote_code=options.trust_remote_code)


def _rank_store(options: RankOptions, path: str) -> list[dict[str, Any]]:
    """Rank the documents of a store."""
    from mice_st.index import MiceIndex

    with MiceIndex.open(path, options.model, read_only=True) as index:
        if options.ids is not None:
            ranking = index.rank(options.query, options.ids, options.top_k, return_documents=True)
        else:
            ranking = index.search(
                options.query,
                options.top_k,
                first_stage=options.first_stage,
                candidates=options.candidates,
                where=options.conditions(),
                return_documents=True,
            )
    for note in ranking.notes:
        print(f"note: {note}", file=sys.stderr)
    return [{**entry, "id": entry["corpus_id"]} for entry in ranking]
