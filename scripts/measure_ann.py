"""What an approximate index of vectors finds and costs, beside the exact pass over the same vectors.

    python scripts/measure_ann.py [--documents 100000] [--width 64] [--clusters 200] [--queries 50] [--work FOLDER]

Two stores hold the same clustered vectors, one of them with an index. Recall is the share of the exact answer that the index
finds, the mean over queries that lie in clusters; times are medians of one search, with as many threads as torch has here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from mice_st.modeling.layers_mice import DocumentStates
from mice_st.states.identity import Fingerprint
from mice_st.states.sqlite_store import SqliteStore
from mice_st.states.where import Where

FINGERPRINT = Fingerprint("w" * 64, "t" * 64, layer=4, max_length=64, prompt="", dtype="float32", codec="fp32", width=1)
BATCH = 5000
STATES = DocumentStates(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))


class Clusters:
    """A mixture of Gaussians.

    Args:
        number: Of Gaussians.
        width: Values of a vector.
        spread: Length of what is added to a centre, which has a length of about 1.
    """

    def __init__(self, number: int, width: int, spread: float = 0.7) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._spread = spread / width**0.5
        self._centres = torch.randn(number, width, generator=self._generator) / width**0.5

    def draw(self, number: int) -> tuple[torch.Tensor, list[int]]:
        """Vectors ``(number, width)`` float16, and the cluster of each."""
        chosen = torch.randint(len(self._centres), (number,), generator=self._generator)
        noise = torch.randn(number, self._centres.shape[1], generator=self._generator)
        return (self._centres[chosen] + self._spread * noise).half(), chosen.tolist()


def put(stores: Sequence[SqliteStore], vectors: torch.Tensor, clusters: list[int], first: int) -> None:
    """Put documents ``d<number>`` into both stores."""
    for start in range(0, len(vectors), BATCH):
        part = range(start, min(start + BATCH, len(vectors)))
        for store in stores:
            store.put(
                [f"d{first + number}" for number in part],
                [STATES] * len(part),
                ["h"] * len(part),
                pooled=vectors[part.start : part.stop],
                metadata=[{"of100": n % 100, "of10": n % 10, "cluster": clusters[n]} for n in part],
            )
            store.commit()


def compare(exact: SqliteStore, ann: SqliteStore, queries: torch.Tensor, where: Where | None) -> str:
    """Recall@10, recall@100, and milliseconds of both for 100 documents, as cells of a table."""
    recall: dict[int, list[float]] = {10: [], 100: []}
    seconds: list[list[float]] = [[], []]
    for store in (exact, ann):
        store.search_vectors(queries[0], 1, where)
    for query in queries:
        for top_k in recall:
            answers = []
            for store, times in zip((exact, ann), seconds, strict=True):
                begun = time.perf_counter()
                answers.append(store.search_vectors(query, top_k, where))
                if top_k == 100:
                    times.append(time.perf_counter() - begun)
            right, found = answers
            recall[top_k].append(len(right.keys() & found.keys()) / len(right))
    slow, fast = (1000 * statistics.median(times) for times in seconds)
    worst = min(recall[100])
    return " | ".join(
        [*(f"{statistics.mean(all_):.3f}" for all_ in recall.values()), f"{worst:.2f}", f"{slow:.1f}", f"{fast:.1f}"]
    )


def main() -> None:
    """Make both stores, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--work", type=Path, help="Where the stores lie (default: a temporary folder).")
    options = parser.parse_args()
    source = Clusters(options.clusters, options.width)
    vectors, clusters = source.draw(options.documents)
    more, more_clusters = source.draw(options.documents // 10)
    queries = source.draw(options.queries)[0]
    with (
        tempfile.TemporaryDirectory(dir=options.work) as folder,
        SqliteStore(Path(folder) / "exact.sqlite", FINGERPRINT, read_only=False) as exact,
        SqliteStore(Path(folder) / "ann.sqlite", FINGERPRINT, read_only=False) as ann,
    ):
        put([exact, ann], vectors, clusters, 0)
        begun = time.perf_counter()
        ann.build_ann()
        size = sum(file.stat().st_size for file in Path(folder).glob("ann.sqlite-ann-*"))
        print(f"made in {time.perf_counter() - begun:.1f} s: {size:,} bytes; threads: {torch.get_num_threads()}\n")
        begun = time.perf_counter()
        with SqliteStore(Path(folder) / "ann.sqlite", None, read_only=True) as fresh:
            fresh.search_vectors(queries[0], 10)
        print(f"first search of an opened store: {1000 * (time.perf_counter() - begun):.0f} ms\n")
        print("| Case | recall@10 | recall@100 | worst | exact, ms | index, ms |\n|---|---|---|---|---|---|")
        anywhere = torch.randn(queries.shape, generator=torch.Generator().manual_seed(1))
        tenth = Where({"cluster": list(range(options.clusters // 10))})
        filters = {"1%": Where({"of100": 7}), "10%": Where({"of10": 7}), "10%, clusters of their own": tenth}
        print(f"| all | {compare(exact, ann, queries, None)} |")
        print(f"| queries in no cluster | {compare(exact, ann, anywhere, None)} |")
        for name, where in filters.items():
            print(f"| filter admits {name} | {compare(exact, ann, queries, where)} |")
        put([exact, ann], more, more_clusters, options.documents)
        print(f"| 10% added since | {compare(exact, ann, queries, None)} |")
        few = queries[:10]
        nearest = list(dict.fromkeys(id_ for query in few for id_ in exact.search_vectors(query, 400)))
        for store in (exact, ann):
            store.delete(nearest)
            store.commit()
        print(f"| the 400 nearest deleted | {compare(exact, ann, few, None)} |")


if __name__ == "__main__":
    main()
