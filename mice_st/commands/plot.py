"""The command ``mice-st plot``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mice_st.commands.checks import existing_files

FILES = ("quality_by_time.png", "quality_by_bytes.png", "quality.csv")


@dataclass
class PlotOptions:
    """Draw what systems reach against what they cost."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("results",)

    results: list[str] = field(
        metadata={"help": "JSON files of mice-st evaluate --suite dev, over the same sets.", "metavar": "FILE"}
    )
    output: str = field(
        default="docs",
        metadata={"help": f"Folder for {', '.join(FILES)}.", "metavar": "FOLDER"},
    )


def run_plot(options: PlotOptions) -> None:
    """Draw, and print the names of the files."""
    from mice_st.evaluation.quality_and_cost import plot

    for path in plot([Path(name) for name in options.results], Path(options.output)):
        print(path)


def existing_pictures(options: PlotOptions) -> str | None:
    """Name the first of the files that is there."""
    return existing_files(*(Path(options.output) / name for name in FILES))
