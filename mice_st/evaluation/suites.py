"""Sets of collections and the candidates that systems re-rank, and the suites that this package reads by itself.

A suite is an entry in ``SUITES``. The sets of ``dev`` are what choices are made on: nothing else may decide how a
released model is made.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.data.own_documents import find_own_documents, search_without_own
from mice_st.data.runs import Run
from mice_st.data.sources import load_collection
from mice_st.evaluation.systems import BM25_NAME
from mice_st.files import read_json, write_json

IN_DOMAIN = "in domain"
OUT_OF_DOMAIN = "out of domain"


@dataclass(frozen=True)
class SuiteSet:
    """One collection of a suite.

    Attributes:
        source: ``FOLDER:SPLITS`` inside the data folder, as ``load_collection`` takes it.
        group: What it is averaged with.
    """

    source: str
    group: str

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.source.split(":")[0]


SUITES: dict[str, tuple[SuiteSet, ...]] = {
    "dev": (
        SuiteSet("squad:dev", IN_DOMAIN),
        SuiteSet("medquad:dev+test", IN_DOMAIN),
        SuiteSet("python-docs:test", IN_DOMAIN),
        SuiteSet("covidqa:test", OUT_OF_DOMAIN),
        SuiteSet("climate_fever_ev:test", OUT_OF_DOMAIN),
        SuiteSet("cosqa:test", OUT_OF_DOMAIN),
        SuiteSet("cranfield:test", OUT_OF_DOMAIN),
    ),
}


@dataclass(frozen=True)
class CandidateSet:
    """A collection with the candidates that are re-ranked.

    Attributes:
        group: What its figures are averaged with.
        collection: Texts, queries and judgements.
        candidates: Query id -> document id -> score of the first stage, best first.
        key: Hash of texts, queries, judgements and candidates. Figures are found again by it, so never for other
            candidates.
        first_stage: Where the candidates come from, for reports.
        counts: What was counted on the way to the candidates, where it is not 0: ``own_documents_left_out`` and
            ``identical_ids_kept`` (queries, see ``find_own_documents``), ``run_queries_passed_over``.
    """

    group: str
    collection: Collection
    candidates: Run
    key: str
    first_stage: str = BM25_NAME
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def queries_without_candidates(self) -> list[str]:
        """Judged queries without any candidate; they score 0 and count in every mean."""
        return [query_id for query_id in self.collection.qrels if not self.candidates.get(query_id)]


def load_suite(
    name: str,
    data: Path,
    cache: Path,
    top_k: int,
    queries: int | None,
    seed: int,
    sets: Sequence[str] | None = None,
    strict: bool = False,
    ignore_identical_ids: bool = False,
) -> Iterator[CandidateSet]:
    """Read the sets of a suite one after the other, each with its candidates.

    Args:
        name: Key of ``SUITES``.
        data: Holds a BEIR folder or its archive for each set.
        cache: Folder for first-stage runs. A run is found again by the hash of corpus, queries and depth, so never for
            other texts.
        top_k: Candidates of a query.
        queries: Queries of each set, drawn with ``seed``; None takes all.
        seed: Of the drawing.
        sets: Names of the sets that are read; None reads all.
        strict: As for ``read_beir``.
        ignore_identical_ids: As for ``find_own_documents``.

    Raises:
        FileNotFoundError: If a set is missing; the message names it.
        ValueError: If there is no such suite, or a file of a set is bad.
    """
    if name not in SUITES:
        raise ValueError(f"suite: there is no {name!r}; there are {', '.join(SUITES)}")
    for entry in SUITES[name]:
        if sets is not None and entry.name not in sets:
            continue
        collection = draw_queries(load_collection(str(data / entry.source), "test", strict), queries, seed)
        own = find_own_documents(collection, ignore_identical_ids)
        candidates, key = cached_candidates(collection, top_k, cache, own.left_out)
        digest = hashlib.sha256((key + json.dumps(collection.qrels, sort_keys=True)).encode()).hexdigest()
        yield CandidateSet(entry.group, collection, candidates, digest, counts=own.counts)


def draw_queries(collection: Collection, count: int | None, seed: int) -> Collection:
    """The collection with some of its queries only, drawn with the seed; None, or more than there are, keeps all."""
    if count is None or count >= len(collection.queries):
        return collection
    # By sorted ids: which queries are drawn does not hang on their order in the file.
    drawn = set(random.Random(seed).sample(sorted(collection.queries), count))
    queries = {query_id: text for query_id, text in collection.queries.items() if query_id in drawn}
    return replace(collection, queries=queries, qrels={query_id: collection.qrels[query_id] for query_id in queries})


def cached_candidates(
    collection: Collection, top_k: int, cache: Path, left_out: frozenset[str] = frozenset()
) -> tuple[Run, str]:
    """BM25's best documents of each query, read from ``cache`` where they were found before.

    Args:
        collection: Corpus and queries.
        top_k: Documents of a query at most.
        cache: Folder for the run.
        left_out: Queries whose own document is no candidate, see ``find_own_documents``.

    Returns:
        The run, and the hash of corpus, queries, depth and queries with a document of their own that it is kept under.
    """
    own = f"/without {json.dumps(sorted(left_out))}" if left_out else ""
    digest = hashlib.sha256(f"bm25/{top_k}{own}".encode())
    for texts in (collection.corpus, collection.queries):
        # Sorted: BM25 orders documents by id, so their order in the file changes nothing. JSON keeps lone surrogates and borders.
        digest.update(json.dumps(sorted(texts.items())).encode())
    key = digest.hexdigest()
    path = cache / "candidates" / f"{collection.name}-{key[:16]}.json"

    def search() -> Run:
        bm25 = BM25(collection.corpus)
        return search_without_own(lambda depth: bm25.search(collection.queries, depth), top_k, left_out)

    return cached_run(path, key, search), key


def cached_run(path: Path, key: str, make: Callable[[], Run]) -> Run:
    """The run that a file holds under this very key; made and written where there is none."""
    if path.is_file():
        kept = read_json(path)
        if kept["key"] == key:
            return kept["run"]
    run = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": key, "run": run})
    return run
