"""Queries that are documents of the corpus themselves, as in ArguAna and Quora: such a document is no answer to itself.

BEIR leaves every document with the query's own id out of its ranking. Where ids are mere numbers, as in Cranfield, that would take away
other texts: here the document must have the query's text too, unless all equal ids are asked to be ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from collections.abc import Collection as Items
from typing import NamedTuple

from mice_st.data.collection import Collection
from mice_st.data.runs import Run

logger = logging.getLogger(__name__)


class OwnDocuments(NamedTuple):
    """The documents of a collection that have the id of a query.

    Attributes:
        left_out: Queries whose document of the same id is no candidate of theirs.
        kept: Queries whose document of the same id has another text, and stays a candidate.
    """

    left_out: frozenset[str]
    kept: frozenset[str]

    @property
    def counts(self) -> dict[str, int]:
        """``own_documents_left_out`` and ``identical_ids_kept``, where they are not 0."""
        named = {"own_documents_left_out": len(self.left_out), "identical_ids_kept": len(self.kept)}
        return {name: number for name, number in named.items() if number}


def find_own_documents(collection: Collection, ignore_identical_ids: bool = False) -> OwnDocuments:
    """Compare queries with the documents of the same id, titles aside, white space at the ends too.

    Args:
        collection: Corpus and queries.
        ignore_identical_ids: Leave the document with the query's id out whatever its text is, as BEIR does.
    """
    same = {item for item in collection.queries if item in collection.corpus}
    own = {
        item
        for item in same
        if collection.untitled.get(item, collection.corpus[item]).strip() == collection.queries[item].strip()
    }
    left_out = same if ignore_identical_ids else own
    found = OwnDocuments(frozenset(left_out), frozenset(same - left_out))
    if found.kept:
        logger.warning(
            "%s: %d queries have the id of a document with another text, the first %r; these documents stay candidates "
            "(--ignore-identical-ids leaves them out)",
            collection.name,
            len(found.kept),
            min(found.kept),
        )
    return found


def without_own(run: Mapping[str, Mapping[str, float]], left_out: Items[str]) -> Run:
    """A run without the documents that are the query itself; the order of all others stays."""
    return {
        query_id: {item: score for item, score in scores.items() if not (item == query_id and query_id in left_out)}
        for query_id, scores in run.items()
    }


def search_without_own(search: Callable[[int], Run], top_k: int, left_out: Items[str]) -> Run:
    """The best documents of each query that are not the query itself.

    Args:
        search: Number of documents -> the best ones of each query, best first.
        top_k: Documents of a query at most.
        left_out: Queries whose own document is no candidate.
    """
    found = without_own(search(top_k + bool(left_out)), left_out)
    return {query_id: dict(list(scores.items())[:top_k]) for query_id, scores in found.items()}
