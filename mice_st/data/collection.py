"""Retrieval collections: documents, queries and relevance judgements, read from and written to plain files.

Documents and queries come through ``mice_st.data.reader``, so a bad line is reported the same way everywhere: a ``ValueError`` that names the
file and the line. Corpora are streamed; only ``read_beir`` holds a whole one in memory.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from .documents import Document
from .judgements import QRELS_HEADER, find_judgements, read_judgements
from .reader import OnError, read_corpus

# What works with collections imports documents and their reader from here too.
__all__ = ["QRELS_HEADER", "Collection", "Document", "OnError", "read_beir", "read_corpus", "write_beir"]


@dataclass(frozen=True)
class Collection:
    """A corpus with queries and relevance judgements.

    Attributes:
        name: Short name for tables and messages.
        corpus: Document id -> text.
        queries: Query id -> text.
        qrels: Query id -> document id -> grade; a grade of at least 1 is relevant, 0 is judged not relevant. A document that the corpus
            lacks may be judged.
        untitled: Document id -> its text without its title, of titled documents that have the id of a query and whose text ends with the
            query: what tells whether the document is the query itself.
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    untitled: dict[str, str] = field(default_factory=dict)


def read_beir(folder: str | Path, split: str, strict: bool = False) -> Collection:
    """Read one split of a collection in BEIR layout.

    Args:
        folder: Holds ``corpus.jsonl`` and ``queries.jsonl``, as ``read_corpus`` takes them, and ``qrels/<split>.tsv``, or TREC's
            judgements in ``qrels/<split>.qrels`` or ``.txt``.
        split: Name of the qrels file, such as ``"test"``.
        strict: Refuse judgements that name an unknown query or document, are there twice or have a grade such as ``1.0``; otherwise one
            warning counts them.

    Returns:
        The whole corpus, but only the queries that the split judges, in the order of ``queries.jsonl``; its name is the folder's.

    Raises:
        FileNotFoundError: If one of the files is missing; for the split, the message lists those that exist.
        ValueError: If a line of any of the three files is bad, see ``read_judgements`` for that of the split; the message gives file and
            line.
    """
    folder = Path(folder)
    qrels_file = find_judgements(folder, split)
    queries = {query.id: query.text for query in read_corpus(folder, name="queries")}
    documents = tqdm(read_corpus(folder), f"Reading {folder.resolve().name}", unit="document", delay=2, leave=False)
    corpus = {document.id: document.text for document in documents}
    qrels = read_judgements(qrels_file, queries, corpus, strict)
    judged = {query_id: text for query_id, text in queries.items() if query_id in qrels}
    return Collection(folder.resolve().name, corpus, judged, qrels, _read_untitled(folder, judged, corpus))


def write_beir(collection: Collection, folder: str | Path, split: str) -> None:
    """Write a collection in BEIR layout, so that ``read_beir(folder, split)`` gives it back.

    Args:
        collection: What to write. Titles are already part of the texts, so the title fields stay empty but for ``untitled`` documents.
        folder: Created where it is missing. ``corpus.jsonl`` and ``queries.jsonl`` are replaced; the qrels of other splits stay.
        split: Name of the qrels file.

    Raises:
        ValueError: If a judgement names a query or document that the collection lacks, or an id holds a tab or a line break, which the
            format cannot hold. Nothing is written then.
    """
    rows = [QRELS_HEADER]
    for query_id, grades in collection.qrels.items():
        for document_id, grade in grades.items():
            if query_id not in collection.queries or document_id not in collection.corpus:
                raise ValueError(
                    f"qrels name query {query_id!r} with document {document_id!r}, one of which is not in the collection"
                )
            if any(character in "\t\n\r" for character in query_id + document_id):
                raise ValueError(f"query {query_id!r} or document {document_id!r} holds a tab or a line break")
            rows.append(f"{query_id}\t{document_id}\t{grade}")
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for file_name, texts in (("corpus.jsonl", collection.corpus), ("queries.jsonl", collection.queries)):
        with (folder / file_name).open("w", encoding="utf-8", newline="\n") as file:
            for item_id, text in texts.items():
                # ASCII escapes: a lone surrogate, which UTF-8 cannot hold, survives the round trip.
                body = collection.untitled.get(item_id, text) if texts is collection.corpus else text
                title = text[: -len(body) - 1] if body != text else ""
                file.write(json.dumps({"_id": item_id, "title": title, "text": body}) + "\n")
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def _read_untitled(folder: Path, queries: dict[str, str], corpus: dict[str, str]) -> dict[str, str]:
    """The texts without their titles of documents that may be a query with a title before it.

    The corpus is read again only where there are such documents, as in ArguAna: elsewhere equal ids stand for texts with nothing in common.
    """
    wanted = {
        item: query
        for item, query in queries.items()
        if query.strip() and (text := corpus.get(item, query)) != query and text.rstrip().endswith(query.strip())
    }
    if not wanted:
        return {}
    return {entry.id: entry.text for entry in read_corpus(folder).entries() if entry.id in wanted and entry.title}
