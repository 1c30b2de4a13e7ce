"""The plan of a run: its workloads, and the systems on each."""

from __future__ import annotations

from dataclasses import dataclass

from mice_st.research.benchmark.options import BenchOptions
from mice_st.research.benchmark.peers import PEERS
from mice_st.research.benchmark.systems import MICE_SYSTEMS, System
from mice_st.research.benchmark.workloads import Workload

SYSTEMS = [PEERS[0], PEERS[1], *PEERS[2:5], *MICE_SYSTEMS, PEERS[5]]

# What the targets need; `--quick` measures nothing else.
TARGET_LENGTHS = ["msmarco", "256"]
ONE_THREAD = {
    "cross-encoder",
    "mice-text",
    "mice-wide-fp16",
    "mice-wide-int8-sqlite",
    "mice-narrow-fp16",
    "mice-narrow-int8-sqlite",
    "colbert",
}
MORE_THREADS = {"cross-encoder", "mice-wide-fp16"}
MANY_DOCUMENTS = {"mice-wide-fp16"}


@dataclass(frozen=True)
class Block:
    """One interleaved measurement: all systems over documents of like lengths, with like threads.

    Attributes:
        lengths: As in ``Workload``.
        query_tokens: Of the query.
        threads: That each system may use.
    """

    lengths: str
    query_tokens: int
    threads: int

    def workload(self, documents: int) -> Workload:
        """With so many documents."""
        return Workload(self.lengths, documents, self.query_tokens)


def blocks(options: BenchOptions) -> list[Block]:
    """All blocks of a run; those with the same documents follow each other."""
    lengths = TARGET_LENGTHS if options.quick else options.lengths
    queries = [options.query] if options.quick else sorted(set(options.query_tokens))
    return [Block(name, query, threads) for name in lengths for query in queries for threads in options.threads]


def documents_of(options: BenchOptions, block: Block) -> list[int]:
    """How many documents are ranked in a block."""
    if options.quick and (block.lengths != "msmarco" or block.threads != min(options.threads)):
        return [options.few]
    return sorted(set(options.documents_per_query))


def repetitions(options: BenchOptions, system: System, block: Block, documents: int) -> int:
    """Runs of a system in a block; 0 where it is left out."""
    is_many = documents == options.many and options.many > options.few
    if options.quick:
        wanted = ONE_THREAD if block.threads == min(options.threads) else MORE_THREADS
        if system.name not in (MANY_DOCUMENTS if is_many else wanted):
            return 0
    if not system.slow:
        return max(1, options.repetitions // 3) if is_many else options.repetitions
    if not is_many:
        fewer = options.quick and block.threads != min(options.threads)
        return max(1, options.slow_repetitions - 1) if fewer else options.slow_repetitions
    # Minutes for each run: once where it can be compared with the rest, and not for each length and query.
    return 1 if block.lengths == "msmarco" and block.query_tokens == options.query else 0
