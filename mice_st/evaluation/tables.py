"""Figures of systems on the sets of a suite as a table: Markdown to read, CSV to compute with, LaTeX for a paper.

The layout is that of arXiv 2602.16299: a row for each system, a column for each set, and the mean of a group after its
sets.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAIN_METRIC = "ndcg@10"
# What a system costs, and the title of its column.
COSTS = {"ms_per_query": "ms per query", "bytes_per_token": "bytes per token"}


def format_table(results: dict[str, Any]) -> str:
    """NDCG@10 of every system as a Markdown table, and what each one costs where that was measured."""
    header, rows = _rows(results, MAIN_METRIC)
    cells = [[name, *(f"{figure:.4f}" for figure in figures)] for name, figures in rows]
    for cost, title in COSTS.items():
        if any(cost in system for system in results["systems"]):
            header.append(title)
            for system, line in zip(results["systems"], cells, strict=True):
                value = system.get(cost)
                line.append("" if value is None else f"{value:.0f}" if value >= 100 else f"{value:#.3g}")
    return format_markdown(header, cells)


def format_sets(results: dict[str, Any]) -> str:
    """The sets as a Markdown table: queries, those without candidates, recall of the first stage, and the ceiling."""
    header = ["set", "documents", "queries", "without candidates", "first stage", "its recall", "ceiling of nDCG@10"]
    rows = [
        [
            entry["name"],
            str(entry["documents"]),
            str(entry["queries"]),
            str(entry["queries_without_candidates"]),
            entry["first_stage"],
            f"{entry['recall']:.4f}",
            f"{entry['ceiling']:.4f}",
        ]
        for entry in results["sets"]
    ]
    return format_markdown(header, rows)


def write_tables(results: dict[str, Any], stem: Path) -> None:
    """Write ``<stem>.md``, ``<stem>.csv`` and ``<stem>.tex``.

    The CSV file holds every metric, a line for each system and set; the other two hold nDCG@10, in LaTeX times 100.

    Args:
        results: As ``evaluate`` returns them.
        stem: Path without the ending.
    """
    stem.with_suffix(".md").write_text(f"{format_table(results)}\n\n{format_sets(results)}\n", encoding="utf-8")
    stem.with_suffix(".tex").write_text(format_latex(results), encoding="utf-8")
    metrics = list(next(iter(results["systems"][0]["sets"].values())))
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "group", "set", *metrics])
        for system in results["systems"]:
            for entry in results["sets"]:
                figures = system["sets"][entry["name"]]
                writer.writerow([system["name"], entry["group"], entry["name"], *(figures[name] for name in metrics)])


def format_latex(results: dict[str, Any]) -> str:
    """nDCG@10 times 100 as a LaTeX table with booktabs; the best figure of each column is bold."""
    header, rows = _rows(results, MAIN_METRIC)
    best = [max(round(figures[place], 3) for _, figures in rows) for place in range(len(header) - 1)]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        "\\toprule",
        " & ".join(_escape(name) for name in header) + " \\\\",
        "\\midrule",
    ]
    for name, figures in rows:
        cells = [
            f"\\textbf{{{100 * figure:.1f}}}" if round(figure, 3) == top else f"{100 * figure:.1f}"
            for figure, top in zip(figures, best, strict=True)
        ]
        lines.append(" & ".join([_escape(name), *cells]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _rows(results: dict[str, Any], metric: str) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Header, and name and figures of each system; the mean of a group stands only behind two sets or more."""
    columns: list[tuple[str, str, str]] = []
    for group in dict.fromkeys(entry["group"] for entry in results["sets"]):
        names = [entry["name"] for entry in results["sets"] if entry["group"] == group]
        columns += [("sets", name, name) for name in names]
        if len(names) > 1 or len(names) < len(results["sets"]):
            columns.append(("groups", group, f"mean {group}"))
    rows = [
        (system["name"], [system[where][key][metric] for where, key, _ in columns]) for system in results["systems"]
    ]
    return ["system", *(title for _, _, title in columns)], rows


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of these cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escape(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(f"\\{character}" if character in "&%$#_{}" else character for character in text)
