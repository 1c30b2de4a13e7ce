"""Retrieval collections: documents, queries and relevance judgements, read from and written to plain files.

Documents and queries come through ``mice_st.data.reader``, so a bad line is reported the same way everywhere: a ``ValueError`` that names the
file and the line. Corpora are streamed; only ``read_beir`` holds a whole one in memory.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .documents import Document
from .reader import OnError, read_corpus

# What works with collections imports documents and their reader from here too.
__all__ = ["QRELS_HEADER", "Collection", "Document", "OnError", "read_beir", "read_corpus", "write_beir"]

QRELS_HEADER = "query-id\tcorpus-id\tscore"


@dataclass(frozen=True)
class Collection:
    """A corpus with queries and relevance judgements.

    Attributes:
        name: Short name for tables and messages.
        corpus: Document id -> text.
        queries: Query id -> text.
        qrels: Query id -> document id -> grade; a grade of at least 1 is relevant, 0 is judged not relevant.
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_beir(folder: str | Path, split: str) -> Collection:
    """Read one split of a collection in BEIR layout.

    Args:
        folder: Holds ``corpus.jsonl`` and ``queries.jsonl``, as ``read_corpus`` takes them, and ``qrels/<split>.tsv``.
        split: Name of the qrels file, such as ``"test"``.

    Returns:
        The whole corpus, but only the queries that the split judges, in the order of ``queries.jsonl``; its name is the folder's.

    Raises:
        FileNotFoundError: If one of the files is missing; for the split, the message lists those that exist.
        ValueError: If a line of any of the three files is bad, or a judgement names an unknown query or document, is there twice, or
            has a score that is not an integer; the message gives file and line.
    """
    folder = Path(folder)
    qrels_file = folder / "qrels" / f"{split}.tsv"
    if not qrels_file.is_file():
        available = ", ".join(sorted(file.stem for file in folder.glob("qrels/*.tsv"))) or "none"
        raise FileNotFoundError(f"no split {split!r} in {folder}; available: {available}")
    queries = {query.id: query.text for query in read_corpus(folder, name="queries")}
    corpus = {document.id: document.text for document in read_corpus(folder)}
    qrels = _read_qrels(qrels_file, queries, corpus)
    judged = {query_id: text for query_id, text in queries.items() if query_id in qrels}
    return Collection(folder.resolve().name, corpus, judged, qrels)


def write_beir(collection: Collection, folder: str | Path, split: str) -> None:
    """Write a collection in BEIR layout, so that ``read_beir(folder, split)`` gives it back.

    Args:
        collection: What to write. Titles are already part of the texts, so the title fields stay empty.
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
                file.write(json.dumps({"_id": item_id, "title": "", "text": text}) + "\n")
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def _read_qrels(file: Path, queries: dict[str, str], corpus: dict[str, str]) -> dict[str, dict[str, int]]:
    """Read judgements and check that what they name exists."""
    qrels: dict[str, dict[str, int]] = {}
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split("\t")
            where = f"{file}, line {number}"
            if number == 1:
                if fields != QRELS_HEADER.split("\t"):
                    raise ValueError(
                        f"{where}: the header must be query-id, corpus-id, score, separated by tabs, not {line!r}"
                    )
                continue
            if not line.strip():
                continue
            if len(fields) != 3:
                raise ValueError(f"{where}: expected 3 fields separated by tabs, found {len(fields)}")
            query_id, document_id, grade = fields
            if query_id not in queries:
                raise ValueError(f"{where}: query {query_id!r} is not in queries.jsonl")
            if document_id not in corpus:
                raise ValueError(f"{where}: document {document_id!r} is not in corpus.jsonl")
            if document_id in qrels.get(query_id, {}):
                raise ValueError(f"{where}: query {query_id!r} with document {document_id!r} is judged twice")
            try:
                qrels.setdefault(query_id, {})[document_id] = int(grade)
            except ValueError as error:
                raise ValueError(f"{where}: the score must be an integer, not {grade!r}") from error
    return qrels
