"""``mice-st compare``: which of several evaluated systems differ by more than chance."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import ClassVar

from tqdm.auto import tqdm

from mice_st.evaluation.per_query import QUERY_METRICS, per_query_file
from mice_st.evaluation.significance import Difference, compare_sets, holm
from mice_st.evaluation.tables import format_markdown

# System -> set -> query -> figure.
Figures = dict[str, dict[str, dict[str, float]]]
# Set -> what its figures are averaged with.
Groups = dict[str, str]


@dataclass
class CompareOptions:
    """Compare the systems of one or several evaluations, each pair on each set and on the mean of each group of sets.

    Raises:
        ValueError: If the metric is unknown.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("results",)

    results: list[str] = field(metadata={"help": "JSON files of mice-st evaluate, or their .per_query.csv."})
    baseline: str | None = field(
        default=None, metadata={"help": "Compare every other system with this one only (default: all pairs)."}
    )
    metric: str = field(default="ndcg@10", metadata={"help": f"One of {', '.join(QUERY_METRICS)}."})
    output: str | None = field(default=None, metadata={"help": "CSV file for the table, unrounded."})
    seed: int = field(default=0, metadata={"help": "Of the randomisation test."})

    def __post_init__(self) -> None:
        if self.metric not in QUERY_METRICS:
            raise ValueError(f"metric: there is no {self.metric!r}; there are {', '.join(QUERY_METRICS)}")


HEADER = ("set", "system", "against", "queries", "difference", "better", "worse", "p randomisation", "p t-test")


def run_compare(options: CompareOptions) -> None:
    """Test, and print the table. Both p values are Holm-corrected over all rows."""
    rows = compare(options)
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


def compare(options: CompareOptions) -> list[tuple[str, str, str, int, float, int, int, float, float]]:
    """Test every pair of systems on every set that both were measured on, and on the mean of every group of which both have all sets.

    Returns:
        Rows as ``HEADER`` names them; ``difference`` is ``system`` minus ``against``. The means stand last.

    Raises:
        FileNotFoundError: If there is no file of per-query figures.
        ValueError: If a file is bad, two of them hold other figures for the same system and set, there is no pair to compare, the
            baseline is unknown, or two systems were measured on other queries.
    """
    figures, groups = read_figures([Path(name) for name in options.results], options.metric)
    if options.baseline is not None and options.baseline not in figures:
        raise ValueError(f"baseline: there is no {options.baseline!r}; there are {', '.join(figures)}")
    pairs = [
        (second, first) if second == options.baseline else (first, second)
        for first, second in combinations(figures, 2)
        if options.baseline in (None, first, second)
    ]
    members = {group: [name for name in groups if groups[name] == group] for group in dict.fromkeys(groups.values())}
    wanted = [(name, [name]) for name in sorted(groups)]
    wanted += [(f"mean {group}", names) for group, names in members.items() if len(names) > 1]
    tested: list[tuple[str, str, str, Difference]] = []
    with tqdm(total=len(wanted) * len(pairs), desc="Comparing", unit="test", delay=2, leave=False) as progress:
        for title, names in wanted:
            for first, second in pairs:
                progress.update()
                if not all(name in figures[first] and name in figures[second] for name in names):
                    continue
                one, other = ([figures[system][name] for name in names] for system in (first, second))
                try:
                    tested.append((title, second, first, compare_sets(one, other, options.seed)))
                except ValueError as error:
                    raise ValueError(f"{first} and {second} on {title}: {error}") from error
    if not tested:
        raise ValueError("there are no two systems that were measured on the same set")
    flipped, t_tests = (
        holm([row[3].randomisation for row in tested]),
        holm([row[3].t_test for row in tested]),
    )
    return [
        (name, system, against, one.queries, one.mean, one.better, one.worse, flipped[place], t_tests[place])
        for place, (name, system, against, one) in enumerate(tested)
    ]


def read_figures(paths: list[Path], metric: str) -> tuple[Figures, Groups]:
    """Read the per-query figures of several evaluations.

    Args:
        paths: JSON files of ``mice-st evaluate``, or their files of per-query figures.
        metric: One of ``QUERY_METRICS``.

    Returns:
        The figures, and the group of each set.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is bad or contradicts another file; names file and line.
    """
    figures: Figures = {}
    groups: Groups = {}
    for path in paths:
        file = path if path.suffix == ".csv" else per_query_file(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: there is no {file.name} beside it, the figures of every query; evaluate again"
            )
        with file.open(encoding="utf-8", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=2):
                try:
                    figure = float(row[metric])
                    kept = figures.setdefault(row["system"], {}).setdefault(row["set"], {})
                    query_id, group = row["query"], groups.setdefault(row["set"], row["group"])
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{file}, line {number}: not a line of per-query figures ({error!r})") from error
                if kept.setdefault(query_id, figure) != figure:
                    raise ValueError(
                        f"{file}, line {number}: another file has {kept[query_id]} for query {query_id!r} of "
                        f"{row['system']} on {row['set']}, not {figure}"
                    )
                if group != row["group"]:
                    raise ValueError(
                        f"{file}, line {number}: {row['set']} is in the groups {group!r} and {row['group']!r}"
                    )
    return figures, groups
