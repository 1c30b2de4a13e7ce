"""Retrieval collections: documents, queries and relevance judgements, read from and written to plain files.

Everything that trains, evaluates or encodes a corpus reads its input here, so a bad line is reported the same way everywhere: a
``ValueError`` that names the file and the line. Corpora are streamed; only ``read_beir`` holds a whole one in memory.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

QRELS_HEADER = "query-id\tcorpus-id\tscore"


class Document(NamedTuple):
    """One document of a corpus.

    Attributes:
        id: Its id, unique in the corpus.
        text: Its text; a title, where there is one, comes first.
        metadata: What filters can ask about: an object that JSON can hold; None if there is none.
    """

    id: str
    text: str
    metadata: dict[str, Any] | None = None


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


def read_beir(folder: str | Path, split: str) -> Collection:
    """Read one split of a collection in BEIR layout.

    Args:
        folder: Holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.
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
    queries_file = folder / "queries.jsonl"
    if not queries_file.is_file():
        raise FileNotFoundError(f"no queries at {queries_file}")
    corpus = dict(read_corpus(folder))
    queries = dict(_documents_of_file(queries_file, "raise"))
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
