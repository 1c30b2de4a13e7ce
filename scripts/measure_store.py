"""What a store costs: the first search of a process, bytes on the disk, memory.

    python scripts/measure_store.py --data FOLDER [--documents 200000] [--work FOLDER] [--output FILE.json]

Texts are cut from the collections in FOLDER (`*.tar.gz` in BEIR layout), 40 words each for the search, and as many as make 75
and 200 tokens for the disk. Only some of them are encoded: the states of the others are those of an encoded text, cut or
repeated to their own length, and their vectors have noise added, so that no two documents tie; what is measured depends on
neither. The first search is timed in a fresh process, with the model loaded, the store open and one `predict` done.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from mice_st import MiceIndex
from mice_st.modeling.layers_mice import DocumentStates
from mice_st.states.encoding import document_hash

MODEL = str(Path(__file__).parents[1] / "hub_cards" / "mice-mini")
ENCODED = 100  # texts that are really encoded
BATCH = 500


def words_of(data: Path) -> Iterator[str]:
    """All words of all collections, again and again."""
    while True:
        for archive in sorted(data.glob("*.tar.gz")):
            with tarfile.open(archive) as files:
                for member in files:
                    if member.name.endswith("corpus.jsonl"):
                        for line in files.extractfile(member) or ():
                            yield from json.loads(line)["text"].split()


def texts_of(data: Path, words: int) -> Iterator[str]:
    """Texts of so many words."""
    source = words_of(data)
    while True:
        yield " ".join(islice(source, words))


def fill(index: MiceIndex, texts: list[str], tokens: int | None, first: int = 0) -> None:
    """Put texts under ``d<number>``, some at a time.

    Args:
        index: To put them into.
        texts: What to put.
        tokens: Tokens of each; None for as many as the tokenizer makes of it.
        first: Number of the first.
    """
    model = index.model
    encoded = model.encode_documents(texts[:ENCODED], show_progress_bar=False)
    pool = torch.cat([document.states for document in encoded])
    pool_ids = torch.cat([document.input_ids for document in encoded])
    generator = torch.Generator().manual_seed(first)
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        lengths = [tokens] * len(part) if tokens else [len(ids) for ids in model.module.tokenize_side(part, "document")]
        places = torch.randint(0, len(pool) - 512, (len(part),), generator=generator).tolist()
        documents = [
            DocumentStates(pool[place : place + length], pool_ids[place : place + length])
            for place, length in zip(places, lengths, strict=True)
        ]
        means = torch.stack([document.states.mean(0) for document in documents])
        index.store.put(
            [f"d{first + start + number}" for number in range(len(part))],
            documents,
            [document_hash(text, None) for text in part],
            texts=part,
            pooled=(means + 0.1 * torch.randn(means.shape, generator=generator)).half(),
        )
        index.store.commit()


def measure_disk(data: Path, work: Path, tokens: int, documents: int, updates: int) -> dict[str, float]:
    """Bytes on the disk over those that docs/store.md gives, after filling, and after updates and ``compact``."""
    texts = list(islice(texts_of(data, round(tokens / 1.35)), documents + updates))
    path = work / f"disk{tokens}.sqlite"
    figures: dict[str, float] = {"tokens": tokens, "documents": documents}
    with MiceIndex.open(path, MODEL, codec="int8") as index:
        fill(index, texts[:documents], tokens)
    with MiceIndex.open(path, MODEL) as index:
        for when in ("filled", "compacted"):
            if when == "compacted":
                for start in range(0, updates, documents):
                    fill(index, texts[documents + start : documents + min(start + documents, updates)], tokens)
                index.compact()
            info = index.info
            assert info.file_bytes is not None
            figures[f"{when}_whole"] = info.file_bytes / info.documented_bytes
            figures[f"{when}_states"] = state_bytes(path) / (info.tokens * (386 + 4))
        figures["bytes_per_document"] = info.file_bytes / info.documents
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    return figures


def state_bytes(path: Path) -> int:
    """Bytes of the pages that hold states, by SQLite's own ``dbstat`` where it has that, else by the number of pages of a copy."""
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT sum(pgsize) FROM dbstat WHERE name = 'states'").fetchone()[0])
    except sqlite3.OperationalError:
        connection.execute("ATTACH ':memory:' AS copy")
        connection.execute("PRAGMA copy.page_size = 2048")
        connection.execute("CREATE TABLE copy.states (key INTEGER PRIMARY KEY, a, b, c, d, e, f, g)")
        connection.execute("INSERT INTO copy.states SELECT * FROM states")
        return int(connection.execute("PRAGMA copy.page_count").fetchone()[0]) * 2048
    finally:
        connection.close()


SEARCH = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from mice_st import MiceCrossEncoder, MiceIndex
import torch
torch.set_num_threads(1)
index = MiceIndex.open(sys.argv[2], read_only=True)
index.model.predict([("a query", "a document")])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
queries = json.loads(sys.argv[3])
times = []
for query in queries:
    begun = time.perf_counter()
    assert index.search(query)
    times.append(time.perf_counter() - begun)
print(json.dumps({"times": times, "before": before, "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure_search(data: Path, work: Path, documents: int) -> dict[str, float]:
    """The first search of a process over the median of the next nine."""
    path = work / "search.sqlite"
    texts = list(islice(texts_of(data, 40), documents))
    if not path.exists():
        begun = time.perf_counter()
        with MiceIndex.open(path, MODEL, codec="int8") as index:
            fill(index, texts, None)
        print(f"filled in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    queries = [
        "how many people live in " + " ".join(texts[number * 997 % documents].split()[3:7]) for number in range(10)
    ]
    rounds = []
    for _ in range(3):
        root = str(Path(__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", SEARCH, root, str(path), json.dumps(queries)],
            capture_output=True,
            text=True,
            check=True,
        )
        rounds.append(json.loads(done.stdout))
    ratios = [r["times"][0] / statistics.median(r["times"][1:]) for r in rounds]
    with MiceIndex.open(path, read_only=True) as index:
        info = index.info
    assert info.file_bytes is not None
    return {
        "documents": documents,
        "first_over_median_best": min(ratios),
        "first_over_median_worst": max(ratios),
        "first_ms": 1000 * statistics.median(r["times"][0] for r in rounds),
        "median_ms": 1000 * statistics.median(statistics.median(r["times"][1:]) for r in rounds),
        "memory_of_searching_mb": max(r["after"] - r["before"] for r in rounds),
        "whole": info.file_bytes / info.documented_bytes,
        "gigabytes_per_million": info.file_bytes / info.documents / 1000,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--work", type=Path, help="Where stores are made; that of the search stays there.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures: dict[str, dict[str, float]] = {}
        for tokens in (75, 200):
            folder = Path(scratch) / str(tokens)
            folder.mkdir()
            figures[f"disk_{tokens}"] = measure_disk(options.data, folder, tokens, 4000, options.updates)
        work = options.work or Path(scratch)
        work.mkdir(exist_ok=True)
        figures["search"] = measure_search(options.data, work, options.documents)
    for name, values in figures.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
