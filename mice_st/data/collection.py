"""Retrieval collections: documents, queries and relevance judgements, read from and written to plain files.

Everything that trains, evaluates or encodes a corpus reads its input here, so a bad line is reported the same way everywhere: a
``ValueError`` that names the file and the line. Corpora are streamed; only ``read_beir`` holds a whole one in memory.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm.auto import tqdm

from mice_st.data.judgements import QRELS_HEADER, find_judgements, read_judgements

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


class Document(NamedTuple):
    """One document of a corpus.

    Attributes:
        id: Its id, unique in the corpus.
        text: Its text; a title, where there is one, comes first.
    """

    id: str
    text: str


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


def read_corpus(path: str | Path, on_error: OnError = "raise") -> Iterator[Document]:
    """Stream the documents of a corpus, one line in memory at a time.

    The input is a BEIR folder (its ``corpus.jsonl``), a ``.jsonl`` file with ``_id`` or ``id``, ``text`` and perhaps ``title`` in each
    line, any other file with one text per line (the id is the line's number, from 0), or ``-`` for standard input, which is JSON Lines
    when its first line that is not blank starts with ``{`` and one text per line otherwise. Blank lines are no documents, but they are
    counted in the line numbers.

    Args:
        path: Folder, file or ``-``.
        on_error: ``"raise"`` stops at the first bad line; ``"skip"`` leaves bad lines out and logs one warning at the end, with their
            number and the first of them.

    Returns:
        An iterator over the documents in the order of the file. A missing file is reported by the call itself, a bad line when the
        iterator reaches it.

    Raises:
        FileNotFoundError: If there is no such file, or no ``corpus.jsonl`` in the folder.
        ValueError: If ``on_error`` is neither value; with ``"raise"``, for a line that is not UTF-8, not a JSON object, without an id
            that is a string or an integer, without a text that is a string, with a title that is no string, or with an id seen before.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
    if str(path) == "-":
        return _documents(sys.stdin.buffer, "<stdin>", None, on_error)
    file = Path(path)
    if file.is_dir():
        file = file / "corpus.jsonl"
    if not file.is_file():
        raise FileNotFoundError(
            f"no corpus at {file}: give a BEIR folder, a .jsonl file, a file with one text per line, or -"
        )
    return _documents_of_file(file, on_error)


def read_beir(folder: str | Path, split: str, strict: bool = False) -> Collection:
    """Read one split of a collection in BEIR layout.

    Args:
        folder: Holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``, or TREC's judgements in ``qrels/<split>.qrels`` or
            ``.txt``.
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
    queries_file = folder / "queries.jsonl"
    if not queries_file.is_file():
        raise FileNotFoundError(f"no queries at {queries_file}")
    documents = tqdm(read_corpus(folder), f"Reading {folder.resolve().name}", unit="document", delay=2, leave=False)
    corpus = {document.id: document.text for document in documents}
    queries = {query.id: query.text for query in _documents_of_file(queries_file, "raise")}
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


def _documents_of_file(file: Path, on_error: OnError) -> Iterator[Document]:
    """Open the file only when the first document is asked for, and close it with the last."""
    with file.open("rb") as lines:
        yield from _documents(lines, str(file), file.suffix == ".jsonl", on_error)


def _documents(lines: Iterable[bytes], source: str, json_lines: bool | None, on_error: OnError) -> Iterator[Document]:
    """Turn raw lines into documents; ``json_lines=None`` decides by the first line that is not blank."""
    numbered: Iterator[tuple[int, bytes]] = ((number, line) for number, line in enumerate(lines) if line.strip())
    if json_lines is None:
        first = next(numbered, None)
        if first is None:
            return
        json_lines = first[1].lstrip(b"\xef\xbb\xbf \t\r").startswith(b"{")
        numbered = chain([first], numbered)
    seen: dict[str, int] = {}
    skipped = 0
    first_error = ""
    for number, line in numbered:
        try:
            # utf-8-sig: some editors start a file with a byte order mark, which is no part of the first text.
            document = _parse_json_line(line) if json_lines else Document(str(number), line.decode("utf-8-sig").strip())
            if document.id in seen:
                raise ValueError(f"the id {document.id!r} is already in line {seen[document.id]}")
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too
            message = f"{source}, line {number + 1}: {error}"
            if on_error == "raise":
                raise ValueError(message) from error
            skipped += 1
            first_error = first_error or message
            continue
        if json_lines:  # line numbers cannot repeat
            seen[document.id] = number + 1
        yield document
    if skipped:
        logger.warning("%d bad lines were skipped; the first: %s", skipped, first_error)


def _parse_json_line(line: bytes) -> Document:
    """One line of JSON Lines as a document; errors do not yet say where."""
    try:
        row: Any = json.loads(line)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    item_id = row["_id"] if "_id" in row else row.get("id")
    if item_id is None:
        raise ValueError('no "_id" and no "id"')
    # bool is an int to Python; floats are refused because 1.0 and 1 would be two ids for one number.
    if isinstance(item_id, bool) or not isinstance(item_id, str | int):
        raise ValueError(f"the id must be a string or an integer, not {item_id!r}")
    if item_id == "":
        raise ValueError("the id is empty")
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str):
        raise ValueError(f'document {item_id!r} has no "text" that is a string')
    if title is not None and not isinstance(title, str):
        raise ValueError(f'the "title" of document {item_id!r} is not a string')
    return Document(str(item_id), f"{title} {text}" if title else text)


def _read_untitled(folder: Path, queries: dict[str, str], corpus: dict[str, str]) -> dict[str, str]:
    """The texts without their titles of documents that may be a query with a title before it.

    The corpus is read again only where there are such documents, as in ArguAna: elsewhere equal ids stand for texts with nothing in common.
    """
    wanted = {
        item: query
        for item, query in queries.items()
        if query.strip() and (text := corpus.get(item, query)) != query and text.rstrip().endswith(query.strip())
    }
    found: dict[str, str] = {}
    if wanted:
        with (folder / "corpus.jsonl").open("rb") as lines:
            for line in lines:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf")) if line.strip() else {}
                item_id = str(row["_id"] if "_id" in row else row.get("id"))
                if item_id in wanted and row.get("title"):
                    found[item_id] = row["text"]
    return found
