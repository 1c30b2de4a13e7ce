"""The flags of ``mice-st demo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

QUERIES = 100
# Names of what a demo writes, or how they begin.
OF_A_DEMO = ("results.json", "python-docs.sqlite", "backbone", "cross-encoder", "model", "quality_vs_time.png")


@dataclass
class DemoOptions:
    """Rank with the released model, and compare it with BM25 and its backbone; or train one.

    Raises:
        ValueError: If a number is below 1.
    """

    output: str = field(
        default="demo_output", metadata={"help": "Folder for all that the demo writes.", "metavar": "FOLDER"}
    )
    train: bool = field(
        default=False,
        metadata={"help": "Convert, train and compare models of the demo's own instead, in about seven minutes."},
    )
    queries: int | None = field(
        default=None, metadata={"help": f"Test queries (default: {QUERIES}, and all of them with --train)."}
    )
    seed: int = field(default=0, metadata={"help": "With --train: seed of everything that is drawn."})
    train_seconds: float = field(
        default=70.0, metadata={"help": "With --train: seconds of training for each of the two models."}
    )
    cross_encoder_queries: int = field(
        default=20,
        metadata={"help": "With --train: test queries that the cross-encoder re-ranks; one takes it seconds."},
    )

    def __post_init__(self) -> None:
        for name in ("queries", "cross_encoder_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")


def existing_folder(options: DemoOptions) -> str | None:
    """Name what lies in the output folder and is not of an earlier demo.

    Raises:
        NotADirectoryError: If it is a file.
    """
    folder = Path(options.output)
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise NotADirectoryError(f"output: {folder} is a file, and a folder is needed")
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith(OF_A_DEMO)]
    return f"{folder} holds {min(foreign)}, which no demo wrote" if foreign else None
