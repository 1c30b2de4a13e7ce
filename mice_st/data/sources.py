"""Collections by name: a BEIR folder or its archive with the splits that are wanted, or the documentation of Python.

``FOLDER:SPLIT`` is what commands and recipes write. Several splits are joined by ``+``; ``python-docs`` stands for the installed Python's
own documentation; where there is no folder, ``FOLDER.tar.gz`` beside it is read in its place.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mice_st.data.collection import Collection, read_beir
from mice_st.data.formats import IN_FOLDER
from mice_st.data.python_docs import load_python_docs

PYTHON_DOCS = "python-docs"
ARCHIVE = ".tar.gz"


def is_collection(source: str) -> bool:
    """Whether ``source`` names a collection that exists: a folder, an archive or ``python-docs``, with or without splits."""
    path, _ = split_source(source, "")
    return Path(path).name == PYTHON_DOCS or Path(path).is_dir() or _archive(Path(path)).is_file()


def split_source(source: str, default_split: str) -> tuple[str, str]:
    """``"FOLDER:SPLIT"`` as folder and split; ``default_split`` where none is given."""
    path, colon, split = source.rpartition(":")
    # "C:\\data" is a path of Windows, not a folder with a split.
    return (path, split) if colon and "/" not in split and "\\" not in split else (source, default_split)


def load_collection(source: str, default_split: str, strict: bool = False) -> Collection:
    """Read a collection by its name.

    Args:
        source: ``FOLDER``, ``FOLDER:SPLIT``, ``FOLDER:SPLIT+SPLIT``, an archive in place of the folder, or ``python-docs`` in any of these
            forms, whatever folder is written before it.
        default_split: Split where ``source`` gives none.
        strict: As for ``read_beir``.

    Returns:
        The collection with the queries of all these splits; its name is the folder's.

    Raises:
        FileNotFoundError: If there is neither folder nor archive, or a split is missing; lists those that exist.
        ValueError: If a line of a file is bad, or two splits judge the same query.
    """
    path, splits = split_source(source, default_split)
    names = splits.split("+")
    if Path(path).name == PYTHON_DOCS:
        parts = [load_python_docs(name) for name in names]  # type: ignore[arg-type]
    else:
        with _unpacked(Path(path)) as folder:
            parts = [read_beir(folder, name, strict) for name in names]
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for name, part in zip(names, parts, strict=True):
        if twice := queries.keys() & part.queries.keys():
            raise ValueError(f"{source}: query {min(twice)!r} of split {name!r} is in an earlier split too")
        queries |= part.queries
        qrels |= part.qrels
    corpus = {document_id: text for part in parts for document_id, text in part.corpus.items()}
    untitled = {document_id: text for part in parts for document_id, text in part.untitled.items()}
    return Collection(parts[0].name, corpus, queries, qrels, untitled)


@contextmanager
def unpacked_folder(source: str) -> Iterator[Path]:
    """The BEIR folder of a name for as long as the context lasts; splits in the name do not count."""
    with _unpacked(Path(split_source(source, "")[0])) as folder:
        yield folder


def _archive(path: Path) -> Path:
    return path if path.name.endswith(ARCHIVE) else path.with_name(path.name + ARCHIVE)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path
        return
    archive = _archive(path)
    if not archive.is_file():
        raise FileNotFoundError(f"{path}: there is no such folder, and no {archive.name} beside it")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with tarfile.open(archive) as files:
                files.extractall(scratch, filter="data")  # refuses what would be written elsewhere
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{archive}: cannot be unpacked: {error}") from error
        folders = {found.parent for ending in IN_FOLDER for found in Path(scratch).glob(f"**/corpus{ending}")}
        if len(folders) != 1:
            raise ValueError(f"{archive}: expected one folder with a corpus.jsonl, found {len(folders)}")
        yield folders.pop()
