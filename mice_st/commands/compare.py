"""The command ``mice-st compare``."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass
class CompareOptions:
    """Compare the systems of one or several evaluations, each pair on each set and on the mean of each group of sets."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("results",)

    results: list[str] = field(
        metadata={"help": "JSON files of mice-st evaluate, or their .per_query.csv.", "metavar": "FILE"}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Compare every other system with this one only (default: all pairs)."}
    )
    metric: str = field(default="ndcg@10", metadata={"help": "Figure of each query that is compared."})
    output: str | None = field(default=None, metadata={"help": "CSV file for the table, unrounded.", "metavar": "FILE"})
    seed: int = field(default=0, metadata={"help": "Seed of the randomisation test."})


def run_compare(options: CompareOptions) -> None:
    """Test, and print the table. Both p values are Holm-corrected over all rows."""
    from mice_st.evaluation.comparison import HEADER, compare
    from mice_st.evaluation.tables import format_markdown

    rows = compare([Path(name) for name in options.results], options.metric, options.baseline, options.seed)
    if options.output is not None:
        path = Path(options.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])
    print(f"{options.metric}; p values are two-sided and Holm-corrected over the {len(rows)} rows\n")
    printed = [
        [*names, str(queries), f"{difference:+.4f}", str(better), str(worse), f"{flipped:.5f}", f"{t_test:.5f}"]
        for *names, queries, difference, better, worse, flipped, t_test in rows
    ]
    print(format_markdown(HEADER, printed))
