"""Python's documentation as a collection: content, halves, determinism and its known difficulty."""

import hashlib
import inspect
import json
import logging
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import bm25s
import pytest

from mice_st.data.collection import Collection
from mice_st.data.python_docs import LEFT_OUT, PROGRAMS, load_python_docs

PRINT_DIGEST = """
import hashlib, json, sys, types, warnings
# The package without its __init__: nothing but the standard library is imported, unlike in the process of the tests.
package = types.ModuleType("mice_st")
package.__path__ = [sys.argv.pop(1)]
sys.modules["mice_st"] = package
from mice_st.data.python_docs import load_python_docs
before = set(sys.modules)
warnings.simplefilter("error")
collection = load_python_docs("all")
loaded = [name for name in sys.argv[1:] if name in sys.modules.keys() - before]
text = json.dumps([collection.corpus, collection.queries, collection.qrels])
sys.stdout.write(json.dumps([hashlib.sha256(text.encode()).hexdigest(), loaded]))
"""


@pytest.fixture(scope="module")
def everything() -> Collection:
    return load_python_docs("all")


def reference_ndcg(collection: Collection) -> float:
    """nDCG@10 with one relevant document each, by bm25s' own retrieval and the formula 1 / log2(rank + 1)."""
    names = list(collection.corpus)
    tokenize = partial(bm25s.tokenize, stopwords="en", show_progress=False)
    index = bm25s.BM25()
    index.index(tokenize([collection.corpus[name] for name in names]), show_progress=False)
    found, _ = index.retrieve(tokenize(list(collection.queries.values())), k=10, show_progress=False)
    gains = 0.0
    for query_id, row in zip(collection.queries, found, strict=True):
        ranked = [names[position] for position in row]
        gains += 1 / math.log2(ranked.index(query_id) + 2) if query_id in ranked else 0.0
    return gains / len(collection.queries)


def test_size_and_difficulty(everything: Collection) -> None:
    assert 1000 < len(everything.queries) < 1800
    assert 0.45 < reference_ndcg(everything) < 0.62
    without_names = {name: text.removeprefix(name + " ") for name, text in everything.corpus.items()}
    nameless = Collection("nameless", without_names, everything.queries, everything.qrels)
    assert 0.40 < reference_ndcg(nameless) < 0.54


def test_an_entry_by_hand(everything: Collection) -> None:
    documentation = inspect.getdoc(json.load)
    assert documentation is not None
    summary, rest = documentation.split("\n\n", 1)
    assert everything.queries["json.load"] == " ".join(summary.split())
    assert everything.corpus["json.load"] == "json.load " + " ".join(rest.split())


@pytest.mark.parametrize(
    "name",
    ["asyncio.run", "os.makedirs", "os.path.splitext", "bytearray.hex", "collections.Counter.elements", "str.format"],
)
def test_objects_carry_the_name_one_would_import(everything: Collection, name: str) -> None:
    assert name in everything.corpus


def test_entries(everything: Collection) -> None:
    assert list(everything.corpus) == list(everything.queries) == sorted(everything.corpus)
    assert everything.qrels == {name: {name: 1} for name in everything.corpus}
    assert len(set(everything.queries.values())) == len(everything.queries)
    rests = [text.removeprefix(name + " ") for name, text in everything.corpus.items()]
    assert len(set(rests)) == len(rests)
    assert min(len(rest.split()) for rest in rests) == 15
    assert all(everything.queries.values())
    assert not [name for name in everything.corpus if any(part.startswith("_") for part in name.split("."))]
    assert not {name.split(".")[0] for name in everything.corpus} & LEFT_OUT


def test_inherited_methods_are_entered_once(everything: Collection) -> None:
    # OrderedDict and defaultdict inherit from dict, Thread subclasses from Thread.
    assert "threading.Thread.join" in everything.corpus
    assert "threading.Timer.join" not in everything.corpus


def test_halves(everything: Collection) -> None:
    train, test = load_python_docs("train"), load_python_docs("test")
    assert not train.queries.keys() & test.queries.keys()
    assert train.queries | test.queries == everything.queries
    assert train.corpus.keys() == train.queries.keys()
    assert test.corpus == everything.corpus
    assert 0.45 < len(test.queries) / len(everything.queries) < 0.55
    for name in everything.queries:
        assert (name in test.queries) == bool(hashlib.sha256(name.encode()).digest()[0] & 1)


def test_what_other_libraries_patch_in_is_left_out(everything: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(self: logging.Logger) -> None:
        """Log once.

        One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen.
        """

    monkeypatch.setattr(logging.Logger, "once", once, raising=False)
    assert load_python_docs("all") == everything


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="'dev'"):
        load_python_docs("dev")  # type: ignore[arg-type]


def test_same_in_every_process_and_silent(everything: Collection) -> None:
    text = json.dumps([everything.corpus, everything.queries, everything.qrels])
    digest = hashlib.sha256(text.encode()).hexdigest()
    package = str(Path(inspect.getfile(load_python_docs)).parent)
    for seed in ("1", "2"):
        completed = subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST, package, *sorted(PROGRAMS), "tkinter", "turtle"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        # Whatever an import printed would make this invalid JSON, or be in stderr.
        assert json.loads(completed.stdout) == [digest, []]
        assert completed.stderr == ""
