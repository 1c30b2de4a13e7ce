"""Files of documents: which kind a name stands for, how it is unpacked, and the rows of JSON and of plain lines.

Rows are ``(number, row)``: a dictionary, or the error of a row that can be skipped. What ends a file is an ``UnreadableError``.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

Row = tuple[int, "dict[str, Any] | ValueError"]

KINDS = {
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
PACKED = (".gz", ".zst")
IN_FOLDER = (
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".parquet",
)  # of corpus and queries; the first wins, the others must be alone
WHAT_IS_READ = (
    "JSON Lines (.jsonl, .ndjson, .json), a JSON list (.json), CSV and TSV with a header, one text per line (.txt), each of these "
    "packed too (.gz, .zst), Parquet, a BEIR folder"
)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WIDEST_WINDOW = 2**31  # what `zstd --long=31` makes; the default of zstandard refuses it
READ = 2**17  # bytes read from a packed file at a time
PIECE = 256  # ... and unpacked at a time: a block of four bytes may hold 128 KB


class MissingPackageError(ImportError, ValueError):
    """A package of an extra is not installed; the message names the extra."""


class UnreadableError(ValueError):
    """The rest of a file cannot be read.

    Attributes:
        where: Such as ``"line 3"``; None where only the last good row is known.
    """

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class FileFormat:
    """How a file is read.

    Attributes:
        kind: A value of ``KINDS``.
        packing: A suffix of ``PACKED``, or empty.
    """

    kind: str
    packing: str = ""

    @property
    def unit(self) -> str:
        """What rows are called and counted by: lines from 1, the items of a list and the rows of Parquet from 0."""
        return {"json": "item", "parquet": "row"}.get(self.kind, "line")


def file_format(file: Path) -> FileFormat:
    """The format that a file's name stands for, in any letter case.

    Raises:
        ValueError: If files of this name are not read; lists what is.
        MissingPackageError: If the package that reads them is not installed.
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise ValueError(f"{file}: the name says no kind of file that is read: {WHAT_IS_READ}")
    if kind == "parquet" and packing:
        raise ValueError(f"{file}: Parquet is packed inside; unpack the {packing} first")
    if packing == ".zst":
        require_zstandard()
    return FileFormat(kind, packing)


def find_in_folder(folder: Path, name: str) -> Path:
    """The file of a BEIR folder that holds its ``"corpus"`` or its ``"queries"``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several, none of which is plain JSON Lines.
    """
    found = [folder / f"{name}{ending}" for ending in IN_FOLDER if (folder / f"{name}{ending}").is_file()]
    if not found:
        raise FileNotFoundError(f"no {name} at {folder / name}.jsonl, nor as {', '.join(IN_FOLDER[1:])}")
    if len(found) > 1 and found[0].name != f"{name}.jsonl":
        raise ValueError(f"{folder}: which of {', '.join(file.name for file in found)} is meant? Keep one of them")
    return found[0]


def require_zstandard() -> Any:
    """Import zstandard.

    Raises:
        MissingPackageError: If it is not installed; names the extra.
    """
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackageError('.zst needs zstandard: pip install "mice-st[files]"') from error
    return zstandard


class _ZstdFile(io.RawIOBase):
    """Unpacks one frame after the other; zstandard's own reader takes a file that was cut off for a whole one."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._unpacker = require_zstandard().ZstdDecompressor(max_window_size=WIDEST_WINDOW)
        self._frame: Any = None
        self._left = memoryview(b"")  # packed bytes not yet unpacked
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            left = self._left or memoryview(self._packed.read(READ))
            piece, self._left = left[:PIECE], left[PIECE:]
            if not piece:
                if self._frame is not None:
                    raise EOFError("it ends before its end marker")
                return 0
            self._frame = self._frame or self._unpacker.decompressobj()
            self._ready = memoryview(self._frame.decompress(piece))
            if self._frame.eof:
                unused, self._frame = len(self._frame.unused_data), None
                self._left = left[len(piece) - unused :]
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def unpacked_lines(file: IO[bytes], packing: str) -> Iterator[bytes]:
    """The lines of a file, unpacked; one line and one piece in memory at a time.

    Raises:
        UnreadableError: If what is packed is damaged or cut off.
    """
    if not packing:
        yield from file
        return
    if packing == ".zst":
        errors: tuple[type[Exception], ...] = (EOFError, require_zstandard().ZstdError)
        lines: Any = io.BufferedReader(_ZstdFile(file), READ)
    else:
        errors = (EOFError, zlib.error, gzip.BadGzipFile)
        lines = gzip.GzipFile(fileobj=file)
    try:
        yield from lines
    except errors as error:
        raise UnreadableError(f"the {packing} file is damaged: {error}") from error


def numbered_lines(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank with their numbers from 1, without the mark that some editors start a file with."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if line.strip():
            yield number, line


def text_rows(lines: Iterator[tuple[int, bytes]]) -> Iterator[Row]:
    """One text per line; the id is the number of the line, from 0."""
    for number, line in lines:
        try:
            yield number, {"_id": str(number - 1), "text": line.decode("utf-8-sig").strip()}
        except UnicodeDecodeError as error:
            yield number, error


def json_line_rows(lines: Iterator[tuple[int, bytes]]) -> Iterator[Row]:
    """One JSON object per line."""
    for number, line in lines:
        try:
            value = _parse(line)
        except ValueError as error:
            whole = line.rstrip().endswith((b"}", b"]"))
            hint = "" if whole else "; each line must hold one whole JSON object"
            yield number, ValueError(f"{error}{hint}")
            continue
        yield number, _object(value)


def json_rows(lines: Iterator[bytes], unit: list[str]) -> Iterator[Row]:
    """A ``.json`` file: the items of a list where its first character is ``[``, one object per line otherwise.

    Args:
        lines: Of the file.
        unit: Gets ``"item"`` or ``"line"``, what the rows are counted by, with the first row.

    Raises:
        UnreadableError: If a list is no JSON; gives the line.
    """
    numbered = numbered_lines(lines)
    first = next(numbered, None)
    if first is None:
        return
    if not first[1].lstrip().startswith(b"["):
        unit[:] = ["line"]
        yield from json_line_rows(chain([first], numbered))
        return
    unit[:] = ["item"]
    content = b"\n" * (first[0] - 1) + first[1] + b"".join(lines)
    try:
        items = _parse(content)
    except UnicodeDecodeError as error:
        raise UnreadableError(str(error), f"line {content.count(10, 0, error.start) + 1}") from error
    except json.JSONDecodeError as error:
        raise UnreadableError(f"the list is no JSON: {error.msg}", f"line {error.lineno}") from error
    except ValueError as error:
        raise UnreadableError(f"the list is no JSON: {error}") from error
    for place, item in enumerate(items):
        yield place, _object(item)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _object(value: Any) -> dict[str, Any] | ValueError:
    return value if isinstance(value, dict) else ValueError(f"not a JSON object but {type(value).__name__}")
