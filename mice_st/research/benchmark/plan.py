"""What is measured in a run: which workloads, and which systems on each."""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass
class BenchOptions:
    """Compare MICE with its peers: time, memory, storage and the targets, all measured in this run."""

    quick: bool = field(
        default=False,
        metadata={
            "help": "Only what the targets need, in under 3 minutes on 2 quiet cores: MS MARCO lengths and 256 tokens, the "
            "shortest query, one run less of the slow systems beyond the first number of threads."
        },
    )
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    markdown: str | None = field(default=None, metadata={"help": "Markdown file to write."})
    picture: str | None = field(default=None, metadata={"help": "PNG file to write."})
    documents: list[int] = field(
        default_factory=lambda: [100, 1000], metadata={"help": "Documents per query: few, and many."}
    )
    lengths: list[str] = field(
        default_factory=lambda: ["msmarco", "256", "512"],
        metadata={"help": "Document lengths: msmarco, or tokens of every document."},
    )
    query_tokens: list[int] = field(
        default_factory=lambda: [9, 32], metadata={"help": "Query lengths, in tokens, [CLS] and [SEP] included."}
    )
    threads: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Threads, one block of runs each."})
    repetitions: int = field(
        default=9, metadata={"help": "Runs of each system that reads stored documents; a third over many."}
    )
    slow_repetitions: int = field(default=2, metadata={"help": "Runs of each system that reads documents as texts."})
    seed: int = field(default=0, metadata={"help": "Of weights and texts."})

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ValueError: If a list is empty or a number too small; the message names the flag.
        """
        for name, least in (("documents", 1), ("query_tokens", 3), ("threads", 1)):
            values = getattr(self, name)
            if not values or min(values) < least:
                raise ValueError(f"{name}: needs numbers of at least {least}, got {values}")
        for name in ("repetitions", "slow_repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.lengths:
            raise ValueError("lengths: needs at least one")

    @property
    def few(self) -> int:
        """The smaller number of documents."""
        return min(self.documents)

    @property
    def many(self) -> int:
        """The larger number of documents."""
        return max(self.documents)

    @property
    def query(self) -> int:
        """The shorter query, in tokens."""
        return min(self.query_tokens)


@dataclass(frozen=True)
class Block:
    """What is measured interleaved: all systems over documents of like lengths, with like threads.

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
    return sorted(set(options.documents))


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
