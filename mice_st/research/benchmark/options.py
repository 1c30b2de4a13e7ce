"""The options of a benchmark: the flags of ``mice-st bench``. Imports nothing heavy, so that their help costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class BenchOptions:
    """Compare MICE with its peers: time, memory, storage and the targets, all measured in this run."""

    quick: bool = field(
        default=False,
        metadata={
            "help": "Measure only what the targets need, in under 3 minutes on 2 quiet cores: MS MARCO lengths and 256 tokens, the "
            "shortest query, one run less of the slow systems beyond the first number of threads."
        },
    )
    output: str | None = field(default=None, metadata={"help": "JSON file for the figures.", "metavar": "FILE"})
    markdown: str | None = field(default=None, metadata={"help": "Markdown file for the report.", "metavar": "FILE"})
    picture: str | None = field(default=None, metadata={"help": "PNG file for the picture.", "metavar": "FILE"})
    documents_per_query: list[int] = field(
        default_factory=lambda: [100, 1000], metadata={"help": "Documents that each query ranks: few, and many."}
    )
    lengths: list[str] = field(
        default_factory=lambda: ["msmarco", "256", "512"],
        metadata={"help": "Document lengths: msmarco, or the tokens of every document."},
    )
    query_tokens: list[int] = field(
        default_factory=lambda: [9, 32], metadata={"help": "Query lengths, in tokens, [CLS] and [SEP] included."}
    )
    threads: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "Numbers of threads, one block of runs each."}
    )
    repetitions: int = field(
        default=9, metadata={"help": "Runs of each system that reads stored documents; a third over many."}
    )
    slow_repetitions: int = field(default=2, metadata={"help": "Runs of each system that reads documents as texts."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and texts."})

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ValueError: If a list is empty or a number too small; the message names the flag.
        """
        for name, least in (("documents_per_query", 1), ("query_tokens", 3), ("threads", 1)):
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
        return min(self.documents_per_query)

    @property
    def many(self) -> int:
        """The larger number of documents."""
        return max(self.documents_per_query)

    @property
    def query(self) -> int:
        """The shorter query, in tokens."""
        return min(self.query_tokens)
