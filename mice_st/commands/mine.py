"""``mice-st mine``: training rows from collections, with hard negatives, and queries made up where there are none."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mice_st.data.collection import Collection, read_corpus
from mice_st.data.sources import load_collection, unpacked_folder
from mice_st.loading import resolve_model
from mice_st.training.mining import Keep, Search, mine_rows, search_all, search_bm25, search_vectors
from mice_st.training.pseudo_queries import pseudo_query_collection
from mice_st.training.teachers import Teachers


@dataclass
class MineOptions:
    """Make training rows from collections.

    Raises:
        FileNotFoundError: If the teacher is a released model, and its weights are not on this machine.
        ValueError: If a number is out of range, or flags contradict each other.
    """

    data: list[str] = field(
        metadata={"help": "Collections: FOLDER or FOLDER:SPLIT+SPLIT (BEIR layout), or python-docs."}
    )
    output: str = field(metadata={"help": "JSON Lines file for the rows."})
    train_split: str = field(default="train", metadata={"help": "Split where a collection's name gives none."})
    limit: int | None = field(
        default=None, metadata={"help": "Queries in all, as many from each collection, drawn with the seed."}
    )
    negatives: int = field(default=7, metadata={"help": "Negatives of each positive."})
    negatives_top_k: int = field(
        default=50, metadata={"help": "They are drawn from so many best documents of each first stage."}
    )
    found_positives: bool = field(
        default=False,
        metadata={"help": "Rows only of relevant documents that are among these best, as where they are re-ranked."},
    )
    bi_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a bi-encoder (or all-MiniLM-L6-v2 in its wheel), a first stage beside BM25."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Model (folder, Hub id or a released model's name) that finds false negatives: documents it scores nearly as high as a relevant one."
        },
    )
    margin: float = field(
        default=0.0,
        metadata={"help": "A negative must score lower by more than this than the lowest relevant document."},
    )
    queries: Literal["judged", "pseudo"] = field(
        default="judged",
        metadata={
            "help": "judged: the collection's own, with their relevant documents. pseudo: titles and first sentences of its documents; "
            "the rows hold documents that nobody has judged, for mice-st label."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of every drawing."})
    batch_size: int = field(default=64, metadata={"help": "Pairs or texts computed at a time."})
    device: str | None = field(default=None, metadata={"help": "Where models compute; by default the best there is."})

    def __post_init__(self) -> None:
        for name in ("negatives", "negatives_top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, got {self.limit}")
        if self.bi_encoder is not None:
            self.bi_encoder = resolve_model(self.bi_encoder)
        if self.teacher is not None:
            self.teacher = resolve_model(self.teacher)
        if self.queries == "pseudo" and self.teacher is not None:
            raise ValueError(
                "teacher: rows of pseudo queries are judged by mice-st label; there are no negatives to filter"
            )


def run_mine(options: MineOptions) -> None:
    """Mine, and print how many rows there are."""
    rows = mine(options)
    print(f"{options.output}: {rows} rows from {', '.join(options.data)}")


def mine(options: MineOptions) -> int:
    """Write rows of all collections to ``options.output``.

    What is done of a collection lies in ``<output>.parts`` until all are, so that the same call again goes on with the next.

    Returns:
        Number of rows written.

    Raises:
        FileNotFoundError: If a collection or a model is missing.
        ValueError: If a collection cannot be mined; names the query.
    """
    parts = Path(f"{options.output}.parts")
    if options.limit is not None:
        options = replace(options, limit=math.ceil(options.limit / len(options.data)))
    chosen = {
        name: value for name, value in asdict(options).items() if name not in ("data", "output", "device", "batch_size")
    }
    written = []
    models: dict[str, Any] = {}
    for source in tqdm(options.data, "Mining", unit="collection", delay=2):
        key = hashlib.sha256(json.dumps([source, chosen], sort_keys=True).encode()).hexdigest()
        part = parts / f"{key[:16]}.jsonl"
        if not part.is_file():
            models = models or _load_models(options)
            parts.mkdir(parents=True, exist_ok=True)
            temporary = part.with_suffix(".tmp")
            with temporary.open("w", encoding="utf-8") as lines:
                for row in _rows(source, options, models):
                    lines.write(json.dumps(row) + "\n")
            temporary.replace(part)
        written.append(part)
    rows = 0
    temporary = Path(f"{options.output}.tmp")
    with temporary.open("wb") as output:
        for part in written:
            content = part.read_bytes()
            rows += content.count(b"\n")
            output.write(content)
    temporary.replace(options.output)
    shutil.rmtree(parts)
    return rows


def _load_models(options: MineOptions) -> dict[str, Any]:
    models: dict[str, Any] = {"searches": [search_bm25]}
    if options.bi_encoder is not None:
        model = SentenceTransformer(options.bi_encoder, device=options.device)
        models["searches"].append(search_vectors(model, options.batch_size))
    if options.teacher is not None:
        models["teachers"] = Teachers([options.teacher], options.device, None, options.batch_size)
    return models


def _rows(source: str, options: MineOptions, models: dict[str, Any]) -> Iterator[dict[str, Any]]:
    search: Search = search_all(models["searches"])
    if options.queries == "pseudo":
        collection = _pseudo(source)
        for row in mine_rows(collection, options, search):
            yield {"query": row.query, "documents": list(row.documents), "source": row.source}
        return
    collection = load_collection(source, options.train_split)
    keep = _without_false_negatives(models["teachers"], options.margin) if "teachers" in models else None
    for row in mine_rows(collection, options, search, keep):
        yield {"query": row.query, "positive": row.positive, "negatives": list(row.negatives), "source": row.source}


def _pseudo(source: str) -> Collection:
    with unpacked_folder(source) as folder:
        for _ in read_corpus(folder):  # names a bad line before anything is made of it
            pass
        return pseudo_query_collection(folder, folder.resolve().name)


def _without_false_negatives(teachers: Teachers, margin: float) -> Keep:
    def keep(query: str, positives: Sequence[str], candidates: Sequence[str]) -> list[bool]:
        scores = teachers.score([query], [[*positives, *candidates]])[0]
        lowest = min(scores[: len(positives)])
        return [score < lowest - margin for score in scores[len(positives) :]]

    return keep
