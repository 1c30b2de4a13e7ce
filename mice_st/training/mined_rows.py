"""Training rows of collections, with hard negatives, and queries made up where there are none."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mice_st.data.collection import Collection
from mice_st.data.own_documents import OwnDocuments, find_own_documents
from mice_st.data.sources import load_collection, unpacked_folder
from mice_st.training.mining import Keep, Search, mine_rows, search_all, search_bm25, search_vectors
from mice_st.training.pseudo_queries import pseudo_query_collection
from mice_st.training.teachers import Teachers

# Fields of a job that do not change the rows of one collection.
UNIMPORTANT = ("data", "output", "device", "batch_size", "strict")
# Further fields and their defaults, at which rows are those of earlier versions: their finished parts are gone on from.
NEW_FIELDS = {"relevance_threshold": 1, "ignore_identical_ids": False}


@dataclass
class MineJob:
    """Which rows are made of which collections.

    Attributes:
        data: Collections, as ``load_collection`` takes them.
        output: JSON Lines file for the rows.
        train_split: Split of a collection whose name gives none.
        limit: Queries in all, as many from each collection, drawn with the seed; None takes all.
        negatives: Negatives of each positive.
        negatives_top_k: Best documents of each first stage that negatives are drawn from.
        found_positives: Whether a relevant document must be among these to make a row.
        bi_encoder: Folder or Hub id of a first stage beside BM25, or None.
        teacher: Folder or Hub id of a model that finds false negatives, or None.
        margin: Difference by which the teacher must score a negative below the lowest relevant document.
        query_source: ``"judged"`` for the collection's own queries, ``"pseudo"`` for titles and first sentences of its
            documents.
        seed: Of every drawing.
        batch_size: Pairs or texts computed at a time.
        device: Where models compute; None takes the best there is.
        trust_remote_code: Whether code beside the weights of models is run.
        relevance_threshold: Lowest grade that is relevant.
        ignore_identical_ids: As for ``find_own_documents``.
        strict: As for ``read_beir``.
    """

    data: list[str]
    output: str
    train_split: str = "train"
    limit: int | None = None
    negatives: int = 7
    negatives_top_k: int = 50
    found_positives: bool = False
    bi_encoder: str | None = None
    teacher: str | None = None
    margin: float = 0.0
    query_source: Literal["judged", "pseudo"] = "judged"
    seed: int = 0
    batch_size: int = 64
    device: str | None = None
    trust_remote_code: bool = False
    relevance_threshold: int = 1
    ignore_identical_ids: bool = False
    strict: bool = False


def mine(job: MineJob) -> int:
    """Write rows of all collections to ``job.output``.

    What is done of a collection lies in ``<output>.parts`` until all are, so that the same call again goes on with the
    next.

    Returns:
        Number of rows written.

    Raises:
        FileNotFoundError: If a collection or a model is missing.
        ValueError: If a collection cannot be mined; names the query.
    """
    parts = Path(f"{job.output}.parts")
    if job.limit is not None:
        job = replace(job, limit=math.ceil(job.limit / len(job.data)))
    chosen = {
        name: value
        for name, value in asdict(job).items()
        if name not in UNIMPORTANT and value != NEW_FIELDS.get(name, MISSING)
    }
    written = []
    models: dict[str, Any] = {}
    for source in tqdm(job.data, "Mining", unit="collection", delay=2):
        key = hashlib.sha256(json.dumps([source, chosen], sort_keys=True).encode()).hexdigest()
        part = parts / f"{key[:16]}.jsonl"
        if not part.is_file():
            models = models or _load_models(job)
            parts.mkdir(parents=True, exist_ok=True)
            temporary = part.with_suffix(".tmp")
            with temporary.open("w", encoding="utf-8") as lines:
                for row in _rows(source, job, models):
                    lines.write(json.dumps(row) + "\n")
            temporary.replace(part)
        written.append(part)
    rows = 0
    temporary = Path(f"{job.output}.tmp")
    with temporary.open("wb") as output:
        for part in written:
            content = part.read_bytes()
            rows += content.count(b"\n")
            output.write(content)
    temporary.replace(job.output)
    shutil.rmtree(parts)
    return rows


def _load_models(job: MineJob) -> dict[str, Any]:
    models: dict[str, Any] = {"searches": [search_bm25]}
    if job.bi_encoder is not None:
        model = SentenceTransformer(job.bi_encoder, device=job.device, trust_remote_code=job.trust_remote_code)
        models["searches"].append(search_vectors(model, job.batch_size))
    if job.teacher is not None:
        models["teachers"] = Teachers(
            [job.teacher], job.device, None, job.batch_size, trust_remote_code=job.trust_remote_code
        )
    return models


def _rows(source: str, job: MineJob, models: dict[str, Any]) -> Iterator[dict[str, Any]]:
    search: Search = search_all(models["searches"])
    if job.query_source == "pseudo":
        collection = _pseudo(source)
        # The query is a document's title or first sentence, which was taken out of it: no document is the query itself.
        for row in mine_rows(collection, job, search, own=OwnDocuments(frozenset(), frozenset())):
            yield {"query": row.query, "documents": list(row.documents), "source": row.source}
        return
    collection = load_collection(source, job.train_split, job.strict)
    own = find_own_documents(collection, job.ignore_identical_ids)
    keep = _without_false_negatives(models["teachers"], job.margin) if "teachers" in models else None
    for row in mine_rows(collection, job, search, keep, job.relevance_threshold, own):
        yield {"query": row.query, "positive": row.positive, "negatives": list(row.negatives), "source": row.source}


def _pseudo(source: str) -> Collection:
    with unpacked_folder(source) as folder:
        return pseudo_query_collection(folder, folder.resolve().name)


def _without_false_negatives(teachers: Teachers, margin: float) -> Keep:
    def keep(query: str, positives: Sequence[str], candidates: Sequence[str]) -> list[bool]:
        scores = teachers.score([query], [[*positives, *candidates]])[0]
        lowest = min(scores[: len(positives)])
        return [score < lowest - margin for score in scores[len(positives) :]]

    return keep
