"""The flags of ``mice-st demo``."""

from __future__ import annotations

from dataclasses import dataclass, field

QUERIES = 100


@dataclass
class DemoOptions:
    """Rank with the released model, and compare it with BM25 and its backbone; or train one.

    Raises:
        ValueError: If a number is below 1.
    """

    output: str = field(default="demo_output", metadata={"help": "Folder for what the demo writes."})
    train: bool = field(
        default=False,
        metadata={"help": "Convert, train and compare models of the demo's own instead, in about seven minutes."},
    )
    test_queries: int | None = field(
        default=None, metadata={"help": f"Test queries (default: {QUERIES}, and all of them with --train true)."}
    )
    seed: int = field(default=0, metadata={"help": "With --train true: of everything that is drawn."})
    training_seconds: float = field(
        default=70.0, metadata={"help": "With --train true: training time of each of the two models."}
    )
    cross_encoder_queries: int = field(
        default=20,
        metadata={"help": "With --train true: test queries that the cross-encoder re-ranks; one takes it seconds."},
    )

    def __post_init__(self) -> None:
        for name in ("test_queries", "cross_encoder_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
