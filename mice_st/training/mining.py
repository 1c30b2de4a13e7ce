"""Hard negatives of a collection: documents that a first stage finds for a query and that are not relevant to it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm

from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.data.own_documents import OwnDocuments, find_own_documents, search_without_own
from mice_st.data.runs import Run, check_finite
from mice_st.modeling.st_mice import check_text
from mice_st.training.row_format import TrainingRow, check_query

logger = logging.getLogger(__name__)

# Corpus, queries, number of documents -> the best documents of each query.
Search = Callable[[Mapping[str, str], Mapping[str, str], int], Run]
# Query, its relevant documents, candidates -> whether each candidate may be a negative.
Keep = Callable[[str, Sequence[str], Sequence[str]], Sequence[bool]]

QUERIES_AT_ONCE = 256
TEXTS_AT_ONCE = 1024


class MiningChoices(Protocol):
    """The fields that mining reads; a ``TrainingRecipe`` and the options of ``mice-st mine`` both have them.

    Attributes:
        limit: Queries, drawn with the seed; None takes all.
        negatives: Negatives of each positive.
        negatives_top_k: They are drawn from so many best documents of each first stage.
        found_positives: Whether a relevant document must be among these best documents to make a row.
        seed: Of the drawing.
    """

    limit: int | None
    negatives: int
    negatives_top_k: int
    found_positives: bool
    seed: int


def search_bm25(corpus: Mapping[str, str], queries: Mapping[str, str], top_k: int) -> Run:
    """BM25's best documents of each query."""
    return BM25(corpus).search(queries, top_k)


def search_vectors(model: Any, batch_size: int = 64) -> Search:
    """The best documents by a bi-encoder's own similarity.

    Args:
        model: A ``SentenceTransformer``.
        batch_size: Texts encoded at a time.

    Returns:
        The search. It raises a ValueError if a score is not finite; names query and document.
    """

    @torch.inference_mode()
    def search(corpus: Mapping[str, str], queries: Mapping[str, str], top_k: int) -> Run:
        document_ids, query_ids = sorted(corpus), list(queries)
        encode = {"batch_size": batch_size, "convert_to_tensor": True}
        documents = _encode_in_chunks(model.encode_document, [corpus[item] for item in document_ids], encode)
        encoded = model.encode_query([queries[item] for item in query_ids], **encode)
        run: Run = {}
        starts = range(0, len(query_ids), QUERIES_AT_ONCE)
        for start in tqdm(starts, "Vectors: search", unit=f"{QUERIES_AT_ONCE} queries", delay=2, leave=False):
            scores = model.similarity(encoded[start : start + QUERIES_AT_ONCE], documents)
            best, places = scores.topk(min(top_k, len(document_ids)))
            for offset, (row, at) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
                names = [document_ids[place] for place in at]
                run[query_ids[start + offset]] = dict(zip(names, row, strict=True))
                check_finite(query_ids[start + offset], run[query_ids[start + offset]])
        return run

    return search


def _encode_in_chunks(encode: Callable[..., torch.Tensor], texts: list[str], settings: dict[str, Any]) -> torch.Tensor:
    """All texts as vectors ``(n, width)``, with a bar where it takes over two seconds."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # like lengths together
    vectors = []
    with tqdm(total=len(texts), desc="Encoding documents", unit="document", delay=2, leave=False) as progress:
        for start in range(0, len(order), TEXTS_AT_ONCE):
            chunk = order[start : start + TEXTS_AT_ONCE]
            vectors.append(encode([texts[place] for place in chunk], **settings))
            progress.update(len(chunk))
    return torch.cat(vectors)[torch.tensor(order).argsort().to(vectors[0].device)]


def search_all(searches: Sequence[Search]) -> Search:
    """The best documents of several first stages, taking turns; scores fall with the rank."""

    def search(corpus: Mapping[str, str], queries: Mapping[str, str], top_k: int) -> Run:
        runs = [one(corpus, queries, top_k) for one in searches]
        merged: Run = {}
        for query_id in queries:
            lists = [list(run[query_id]) for run in runs]
            turns = (items[rank] for rank in range(top_k) for items in lists if rank < len(items))
            merged[query_id] = {item: -float(rank) for rank, item in enumerate(dict.fromkeys(turns))}
        return merged

    return search if len(searches) > 1 else searches[0]


def mine_rows(
    collection: Collection,
    choices: MiningChoices,
    search: Search = search_bm25,
    keep: Keep | None = None,
    relevance_threshold: int = 1,
    own: OwnDocuments | None = None,
) -> list[TrainingRow]:
    """Make one row for each relevant document of each query, with hard negatives from a first stage.

    Negatives are drawn, with the seed, from the query's best documents that are not relevant; where there are too
    few, from the whole corpus. A document with the same text as a relevant one, or as the query, is no negative, and a
    document that is the query itself (see ``find_own_documents``) is neither negative nor positive. A query without a
    relevant document in the corpus makes no row; one warning counts such queries, and documents that would have been
    negatives and have a relevant document's text.

    With ``found_positives`` rows are like the candidates that a re-ranker will meet. Without, relevant documents that
    the first stage misses stand among negatives that it likes best, and what is learned first is to distrust the first
    stage.

    Args:
        collection: Corpus, queries and judgements.
        choices: How many of what.
        search: The first stage.
        keep: Takes false negatives out of what it found; None keeps all.
        relevance_threshold: Lowest grade that is relevant.
        own: Queries that are documents; None finds those with the same id and text.

    Returns:
        The rows, in the order of the queries.

    Raises:
        ImportError: If bm25s is not installed.
        ValueError: If a query is empty or leaves no document to be a negative, the message gives its id; if no query
            has a relevant document, or the first stage finds none of any query.
    """
    queries = dict(sample(list(collection.queries.items()), choices.limit, choices.seed))
    if not queries:
        raise ValueError(f"{collection.name}: no queries to train on")
    own = find_own_documents(collection) if own is None else own
    relevant = {
        query_id: [
            item
            for item, grade in collection.qrels.get(query_id, {}).items()
            if grade >= relevance_threshold
            and item in collection.corpus
            and not (item == query_id and query_id in own.left_out)
        ]
        for query_id in queries
    }
    for query_id, query in queries.items():
        check_query(query, f"{collection.name}, query {query_id!r}")
    passed_over = [query_id for query_id in queries if not relevant[query_id]]
    queries = {query_id: query for query_id, query in queries.items() if relevant[query_id]}
    if not queries:
        raise ValueError(f"{collection.name}: no query has a relevant document in the corpus")
    # As many more as there are relevant ones, so that top_k are left without them.
    most = max(map(len, relevant.values()))
    depth = choices.negatives_top_k + most
    run = search_without_own(lambda top_k: search(collection.corpus, queries, top_k), depth, own.left_out)
    document_ids = sorted(collection.corpus)
    rows = []
    repeated = 0  # documents with the text of a relevant one
    for query_id, query in tqdm(queries.items(), "Negatives", unit="query", delay=2, leave=False):
        positives = [collection.corpus[item] for item in relevant[query_id]]
        taken = {query, *positives}
        if query_id in own.left_out:
            taken.add(collection.corpus[query_id])
        best = set(list(run[query_id])[: choices.negatives_top_k])
        texts_of_others = (collection.corpus[item] for item in run[query_id] if item not in relevant[query_id])
        repeated += sum(text in positives for text in texts_of_others)
        found = [item for item in run[query_id] if collection.corpus[item] not in taken][: choices.negatives_top_k]
        if keep is not None and found:
            texts = [collection.corpus[item] for item in found]
            kept = keep(query, positives, texts)
            taken |= {text for text, keeps in zip(texts, kept, strict=True) if not keeps}
            found = [item for item, keeps in zip(found, kept, strict=True) if keeps]
        # A generator of the query's own: the negatives of one query do not hang on the other queries.
        generator = random.Random(f"{choices.seed}/{query_id}")
        for item, positive in zip(relevant[query_id], positives, strict=True):
            if choices.found_positives and item not in best:
                continue
            drawn = generator.sample(found, min(choices.negatives, len(found)))
            negatives = [collection.corpus[name] for name in drawn]
            negatives += _draw_others(collection.corpus, document_ids, taken, negatives, choices.negatives, generator)
            source = f"{collection.name}, query {query_id!r}"
            if not negatives:
                raise ValueError(f"{source}: no document of the corpus is left to be a negative")
            for text in (positive, *negatives):
                check_text(text, f"{source}: document {text[:40]!r}")
            rows.append(TrainingRow(query, positive, tuple(negatives), None, source))
    _report(collection.name, passed_over, repeated)
    if not rows:
        raise ValueError(f"{collection.name}: the first stage finds none of the relevant documents among its best")
    return rows


def _report(name: str, passed_over: Sequence[str], repeated: int) -> None:
    """One line on what made no row and no negative."""
    told = []
    if passed_over:
        told.append(
            f"{len(passed_over)} queries have no relevant document in the corpus and are passed over, the first "
            f"{passed_over[0]!r}"
        )
    if repeated:
        told.append(f"{repeated} documents that were found have the text of a relevant one and are no negatives")
    if told:
        logger.warning("%s: %s", name, "; ".join(told))


def _draw_others(
    corpus: dict[str, str],
    document_ids: list[str],
    taken: set[str],
    negatives: list[str],
    wanted: int,
    generator: random.Random,
) -> list[str]:
    """Texts from anywhere in the corpus, as many as are still wanted."""
    missing = wanted - len(negatives)
    if missing <= 0:
        return []
    taken = {*taken, *negatives}
    # Drawing more than are missing, since some will be taken; a small corpus is drawn whole.
    drawn = generator.sample(document_ids, min(len(document_ids), missing + 2 * len(taken)))
    others = dict.fromkeys(text for item in drawn if (text := corpus[item]) not in taken)
    return list(others)[:missing]


def sample(items: Sequence[Any], count: int | None, seed: int) -> Sequence[Any]:
    """Draw items without changing their order.

    Args:
        items: What to draw from.
        count: How many; None, or more than there are, gives all.
        seed: Of the drawing.

    Returns:
        The drawn items.
    """
    if count is None or count >= len(items):
        return items
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), count))]
