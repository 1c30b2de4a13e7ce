"""The installed Python's own documentation as a retrieval collection: real text that is there without any download.

For every public function, class and method of the standard library, the query is the first paragraph of the docstring and the document
is the qualified name followed by the rest of the docstring. Two halves, train and test, are told apart by a hash of the name.

Measured on CPython 3.11.7, Linux, all queries over the whole corpus with BM25 (bm25s 0.3.16, k1 1.5, b 0.75, English stop words, no
stemmer): 1,247 pairs; nDCG@10 .549, and .469 when the documents do not begin with their names. On the test half (621 queries)
it is .54. Other versions of Python document other things and give other figures.
"""

import hashlib
import importlib
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

from mice_st.data.collection import Collection

logger = logging.getLogger(__name__)

Split = Literal["train", "test", "all"]

# Shorter rests ("See also the tutorial.") are not answers that a reader could recognise.
MINIMUM_WORDS = 15

# Importing these does something (prints, opens a browser, asks the terminal), or they are programs and test suites, not a library.
PROGRAMS = frozenset({"antigravity", "idlelib", "lib2to3", "pydoc_data", "test", "this", "turtledemo"})

# Modules that a build of Python may lack, because they need another library or one platform: with them the collection would depend on
# the machine. Those that mice-st itself cannot run without (bz2, ctypes, lzma, sqlite3, ssl, zlib) are always there and stay.
NEEDS_A_LIBRARY = frozenset({"curses", "dbm", "nis", "ossaudiodev", "readline", "rlcompleter", "tkinter", "turtle"})
UNIX_ONLY = frozenset({"crypt", "fcntl", "grp", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty"})
WINDOWS_ONLY = frozenset({"msilib", "msvcrt", "nturl2path", "winreg", "winsound"})
LEFT_OUT = PROGRAMS | NEEDS_A_LIBRARY | UNIX_ONLY | WINDOWS_ONLY

# Modules of the implementation, and the documented module that offers what they define.
PUBLIC_FACE = {"posix": "os", "nt": "os", "posixpath": "os.path", "ntpath": "os.path", "genericpath": "os.path"}


def load_python_docs(split: Split) -> Collection:
    """Build the collection from the running Python; takes under a second, and writes nothing.

    The modules are imported into this process. The same Python on the same operating system gives the same collection, whatever else
    is imported, unless that replaces a function of the standard library: a replacement is left out.

    Args:
        split: ``"train"`` holds the documents and queries of the train half only, so that no test document is seen in training;
            ``"test"`` holds the queries of the test half and all documents; ``"all"`` holds everything.

    Returns:
        The collection ``"python-docs"``. A document and its query have the same id, the qualified name; the query's only relevant
        document is its own, with grade 1. Ids are sorted.

    Raises:
        ValueError: If ``split`` is none of the three.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f'split must be "train", "test" or "all", not {split!r}')
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    for name, (query, document) in _pairs(_docstrings()).items():
        half = _half(name)
        if split != "train" or half == "train":
            corpus[name] = f"{name} {document}"
        if split in ("all", half):
            queries[name] = query
    return Collection("python-docs", corpus, queries, {name: {name: 1} for name in queries})


def _half(name: str) -> str:
    """The half that a qualified name belongs to, the same in every process and version."""
    return "test" if hashlib.sha256(name.encode()).digest()[0] % 2 else "train"


def _pairs(docstrings: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Cut docstrings into query and document; white space is normalised.

    A query or document that an earlier name (in sorted order) already has is dropped: it would be one text with two right answers.
    """
    pairs: dict[str, tuple[str, str]] = {}
    queries: set[str] = set()
    documents: set[str] = set()
    for name in sorted(docstrings):
        paragraphs = re.split(r"\n\s*\n", docstrings[name].strip(), maxsplit=1)
        query, document = (" ".join(part.split()) for part in (paragraphs[0], "".join(paragraphs[1:])))
        if len(document.split()) < MINIMUM_WORDS or query in queries or document in documents:
            continue
        queries.add(query)
        documents.add(document)
        pairs[name] = (query, document)
    return pairs


def _docstrings() -> dict[str, str]:
    """Qualified name -> docstring, one entry for each object however many names lead to it."""
    candidates = [candidate for module_name, module in _modules() for candidate in _exports(module_name, module)]
    # The best claim on an object comes first: a shared object is named after the module that defines it, under its own name.
    candidates.sort(key=lambda candidate: candidate[:3])
    docstrings: dict[str, str] = {}
    seen: set[int] = set()
    for _, _, name, value in candidates:
        _visit(value, name, docstrings, seen)
    return docstrings


def _modules() -> Iterator[tuple[str, ModuleType]]:
    """Import the public modules of the standard library, in sorted order."""
    names = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    names -= LEFT_OUT | PUBLIC_FACE.keys()
    missing = []
    for name in sorted(names | {"os.path"}):
        with warnings.catch_warnings():
            # Some modules warn on import that they will be removed; that is no news to whoever reads their documentation.
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module(name)
            except ImportError:
                missing.append(name)
                continue
        yield name, module
    if missing:
        logger.warning(
            "this Python lacks modules of its standard library, so their documentation is missing: %s", missing
        )


def _exports(module_name: str, module: ModuleType) -> Iterator[tuple[int, bool, str, Any]]:
    """The functions and classes that a module offers, each with the strength of its claim (smaller is stronger).

    Yields:
        Claim, whether this is an alias of the object's own name, qualified name, object.
    """
    for attribute in sorted(getattr(module, "__all__", None) or vars(module)):
        # Hooks (sys.excepthook, sys.unraisablehook) are there to be replaced, and pytest, for one, replaces them.
        if attribute.startswith("_") or attribute.endswith("hook"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading a deprecated name warns
            value = getattr(module, attribute, None)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        home = getattr(value, "__module__", None) or "_"
        claim = _claim(PUBLIC_FACE.get(home, home), module_name)
        if claim is not None:
            name = attribute if module_name == "builtins" else f"{module_name}.{attribute}"
            yield claim, getattr(value, "__name__", None) != attribute, name, value


def _claim(home: str, module_name: str) -> int | None:
    """How well ``module_name`` speaks for an object defined in ``home``; None where it merely imported it."""
    if home == module_name or home.startswith(f"{module_name}."):
        return 0
    if home.split(".")[0].lstrip("_") == module_name:
        return 1  # _socket for socket
    return 2 if home.startswith("_") else None


def _visit(value: Any, name: str, docstrings: dict[str, str], seen: set[int]) -> None:
    """Enter an object, and what a class itself defines: inherited methods belong to the class that has them."""
    value = getattr(value, "__func__", value)  # the function inside a static, class or bound method
    home = getattr(value, "__module__", None)
    # Other libraries hang their own methods on classes of the standard library (transformers on logging.Logger, for one).
    foreign = isinstance(home, str) and home.split(".")[0] not in sys.stdlib_module_names
    if foreign or id(value) in seen:
        return
    seen.add(id(value))
    docstring = getattr(value, "__doc__", None)
    if isinstance(docstring, str):
        docstrings[name] = inspect.cleandoc(docstring)
    if not inspect.isclass(value):
        return
    for attribute, member in sorted(vars(value).items()):
        if attribute.startswith("_"):
            continue
        nested = inspect.isclass(member) and member.__qualname__ == f"{value.__qualname__}.{attribute}"
        if nested or inspect.isroutine(member) or isinstance(member, staticmethod | classmethod):
            _visit(member, f"{name}.{attribute}", docstrings, seen)
