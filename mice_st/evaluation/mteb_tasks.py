"""The tasks of the suites that are measured through mteb: its own by name, and any collection as a task.

A suite is an entry in ``MTEB_SUITES``. mteb's own tasks are read from the Hub; ``python-docs`` and ``folder:PATH`` need
no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from mice_st.data.collection import Collection
from mice_st.data.sources import PYTHON_DOCS, load_collection
from mice_st.evaluation.mteb_model import import_mteb
from mice_st.evaluation.suites import IN_DOMAIN, OUT_OF_DOMAIN, draw_queries

FOLDER = "folder:"

_PAPER_ID = dict.fromkeys(("MSMARCO", "TRECDL2019", "TRECDL2020"), IN_DOMAIN)
# The 13 sets of arXiv 2602.16299; its Touche is the second version, which mteb calls Touche2020.
_PAPER_OOD = dict.fromkeys(
    (
        "ArguAna",
        "ClimateFEVER",
        "DBPedia",
        "FEVER",
        "FiQA2018",
        "HotpotQA",
        "NFCorpus",
        "NQ",
        "QuoraRetrieval",
        "SCIDOCS",
        "SciFact",
        "Touche2020",
        "TRECCOVID",
    ),
    OUT_OF_DOMAIN,
)
_NANO = dict.fromkeys(
    (
        "NanoArguAnaRetrieval",
        "NanoClimateFeverRetrieval",
        "NanoDBPediaRetrieval",
        "NanoFEVERRetrieval",
        "NanoFiQA2018Retrieval",
        "NanoHotpotQARetrieval",
        "NanoMSMARCORetrieval",
        "NanoNFCorpusRetrieval",
        "NanoNQRetrieval",
        "NanoQuoraRetrieval",
        "NanoSCIDOCSRetrieval",
        "NanoSciFactRetrieval",
        "NanoTouche2020Retrieval",
    ),
    "NanoBEIR",
)
# Suite -> task of mteb -> group that it is averaged with.
MTEB_SUITES: dict[str, dict[str, str]] = {
    "paper": _PAPER_ID | _PAPER_OOD,
    "paper-id": _PAPER_ID,
    "paper-ood": _PAPER_OOD,
    "nanobeir": _NANO,
    "mteb-eng-v2-rerank": dict.fromkeys(("AskUbuntuDupQuestions", "MindSmallReranking"), "reranking"),
    PYTHON_DOCS: {PYTHON_DOCS: PYTHON_DOCS},
}


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite.

    Attributes:
        task: mteb's task, its data loaded.
        group: What its figures are averaged with.
        collection: The same texts and judgements; of judged queries only, as mteb counts them.
        candidates: Query id -> document ids that the task itself brings along, or None.
        is_mtebs: Whether it is one of mteb's own, where mteb's rules say which documents count.
    """

    task: Any
    group: str
    collection: Collection
    candidates: dict[str, list[str]] | None
    is_mtebs: bool = False

    @property
    def split(self) -> str:
        """The split that is evaluated."""
        return self.task.eval_splits[0]


def load_tasks(suite: str, queries: int | None = None, seed: int = 0, strict: bool = False) -> Iterator[SuiteTask]:
    """Load the tasks of a suite, one after the other.

    Args:
        suite: Key of ``MTEB_SUITES``, ``folder:PATH`` or ``folder:PATH:SPLITS`` (a BEIR folder or its archive; split
            ``test`` by default), or the name of one task of mteb.
        queries: Queries that are drawn with ``seed``, of a collection that is not mteb's own; None takes all.
        seed: Of the drawing.
        strict: As for ``read_beir``, of a collection that is not mteb's own.

    Raises:
        ImportError: If mteb is not installed; the message names the extra.
        OSError: If the data of a task is neither in the Hub's cache nor to be reached, or there is no such folder;
            names it.
        ValueError: If there is no such suite or task, listing those there are, or a task cannot be re-ranked.
    """
    if suite == PYTHON_DOCS or suite.startswith(FOLDER):
        collection = draw_queries(load_collection(suite.removeprefix(FOLDER), "test", strict), queries, seed)
        yield SuiteTask(make_task(collection), collection.name, collection, None)
        return
    if queries is not None:
        raise ValueError(f"queries: a part of the queries of {suite} would no longer be the task that mteb knows")
    groups = MTEB_SUITES.get(suite) or {suite: suite}
    tasks = [(_find_task(name), group) for name, group in groups.items()]  # all of them, before any is downloaded
    for task, group in tasks:
        _load_data(task)
        yield from _suite_tasks(task, group)


def make_task(collection: Collection, split: str = "test") -> Any:
    """A collection as a retrieval task of mteb.

    Args:
        collection: Texts and judgements.
        split: What mteb is to call the split.

    Returns:
        A task with its data loaded. Its name is the collection's with the beginning of a hash of the content, and its
        dataset's revision that hash: mteb finds earlier results by the name of a task alone, whatever the revision, and
        results of other texts or judgements must never be taken for these.

    Raises:
        ImportError: If mteb or datasets is not installed.
        ValueError: If the collection has no judged query.
    """
    mteb = import_mteb()
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    if not any(collection.qrels.values()):
        raise ValueError(f"{collection.name}: no query is judged, so there is nothing to measure")
    content = hash_collection(collection)
    metadata = mteb.TaskMetadata(
        name=f"{collection.name}-{content[:8]}",
        description=f"The collection {collection.name} in BEIR layout.",
        dataset={"path": f"local/{collection.name}", "revision": content},
        type="Retrieval",
        category="t2t",
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        is_public=False,
    )
    task = type("CollectionTask", (AbsTaskRetrieval,), {"metadata": metadata})()
    queries = {query_id: text for query_id, text in collection.queries.items() if collection.qrels.get(query_id)}
    corpus = {"id": list(collection.corpus), "text": list(collection.corpus.values())}
    task.dataset = {
        "default": {
            split: {
                "corpus": Dataset.from_dict(corpus),
                "queries": Dataset.from_dict({"id": list(queries), "text": list(queries.values())}),
                "relevant_docs": {query_id: dict(collection.qrels[query_id]) for query_id in queries},
                "top_ranked": None,
            }
        }
    }
    task.data_loaded = True
    return task


def hash_collection(collection: Collection) -> str:
    """The first 40 hexadecimal digits of a SHA-256 over texts and judgements, whatever their order in files."""
    digest = hashlib.sha256()
    for part in (collection.corpus, collection.queries, collection.qrels):
        for item in sorted(part.items()):
            digest.update(json.dumps(item, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:40]


def _find_task(name: str) -> Any:
    mteb = import_mteb()
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        known = ", ".join([*MTEB_SUITES, f"{FOLDER}PATH"])
        raise ValueError(f"suite: there is no {name!r}; there are dev, {known}, and the tasks of mteb") from error
    from mteb.abstasks import AbsTaskRetrieval

    if not isinstance(task, AbsTaskRetrieval) or task.metadata.modalities != ["text"] or task.skip_first_result:
        raise ValueError(f"suite: {name} is a task of type {task.metadata.type}, which is not re-ranking of texts")
    return task


def _load_data(task: Any) -> None:
    """Load a task of mteb from the Hub or its cache."""
    try:
        task.load_data()
    except (OSError, ValueError) as error:  # datasets raises either where it may not or cannot connect
        source = task.metadata.dataset["path"]
        raise OSError(
            f"task {task.metadata.name}: its dataset {source} is not in the Hub's cache and cannot be read from the "
            f"Hub ({type(error).__name__}: {error})"
        ) from error
    task.convert_v1_dataset_format_to_v2(None)


def _suite_tasks(task: Any, group: str) -> Iterator[SuiteTask]:
    """A task of mteb with its texts as a collection."""
    name = task.metadata.name
    if len(task.dataset) != 1 or len(task.eval_splits) != 1:
        raise ValueError(f"task {name}: has several languages or splits; only tasks with one of each are supported")
    (subset,) = task.dataset
    data = task.dataset[subset][task.eval_splits[0]]
    known = set(data["queries"]["id"])
    qrels = {query_id: grades for query_id, grades in data["relevant_docs"].items() if grades and query_id in known}
    corpus: dict[str, str] = {}
    rows = tqdm(data["corpus"], f"Reading {name}", unit="document", delay=2, leave=False)
    for number, row in enumerate(rows):
        if row["id"] in corpus:
            raise ValueError(f"task {name}: document {row['id']!r} is in the corpus twice, again in row {number}")
        title = row.get("title") or ""
        corpus[row["id"]] = f"{title} {row['text']}".strip()
    queries = {row["id"]: row["text"] for row in data["queries"] if row["id"] in qrels}
    yield SuiteTask(task, group, Collection(name, corpus, queries, qrels), data["top_ranked"], is_mtebs=True)
