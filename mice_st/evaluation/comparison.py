"""Systems that differ by more than chance: every pair, on every set and on the means of groups of sets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from tqdm.auto import tqdm

from mice_st.evaluation.per_query import QUERY_METRICS, per_query_file
from mice_st.evaluation.significance import Difference, compare_sets, holm

# System -> set -> query -> figure.
Figures = dict[str, dict[str, dict[str, float]]]
# Set -> what its figures are averaged with.
Groups = dict[str, str]

HEADER = ("set", "system", "against", "queries", "difference", "better", "worse", "p randomisation", "p t-test")


def compare(
    results: Sequence[Path], metric: str, baseline: str | None = None, seed: int = 0
) -> list[tuple[str, str, str, int, float, int, int, float, float]]:
    """Test every pair of systems on every set that both have, and on the mean of every group of which both have all.

    Args:
        results: JSON files of ``mice-st evaluate``, or their files of per-query figures.
        metric: One of ``QUERY_METRICS``.
        baseline: Compare every other system with this one only; None compares all pairs.
        seed: Of the randomisation test.

    Returns:
        Rows as ``HEADER`` names them; ``difference`` is ``system`` minus ``against``. The means stand last.

    Raises:
        FileNotFoundError: If there is no file of per-query figures.
        ValueError: If the metric is unknown, a file is bad, two of them hold other figures for the same system and set,
            there is no pair to compare, the baseline is unknown, or two systems were measured on other queries.
    """
    if metric not in QUERY_METRICS:
        raise ValueError(f"metric: there is no {metric!r}; there are {', '.join(QUERY_METRICS)}")
    figures, groups = read_figures(results, metric)
    if baseline is not None and baseline not in figures:
        raise ValueError(f"baseline: there is no {baseline!r}; there are {', '.join(figures)}")
    pairs = [
        (second, first) if second == baseline else (first, second)
        for first, second in combinations(figures, 2)
        if baseline in (None, first, second)
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
                    tested.append((title, second, first, compare_sets(one, other, seed)))
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


def read_figures(paths: Sequence[Path], metric: str) -> tuple[Figures, Groups]:
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
