"""Quality against time and storage, of the systems of one or several evaluations, as pictures and their points."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mice_st.evaluation.plots import plot_quality_and_cost
from mice_st.evaluation.tables import MAIN_METRIC
from mice_st.files import read_json

PICTURES = {
    "ms_per_query": ("quality_by_time.png", "milliseconds per query, documents encoded beforehand where a model can"),
    "bytes_per_token": ("quality_by_bytes.png", "bytes stored for each token of a document"),
}
POINTS_FILE = "quality.csv"
COLUMNS = ("system", "kind", "group", MAIN_METRIC, *PICTURES)


def plot(results: Sequence[Path], output: Path) -> list[Path]:
    """Draw both pictures, a panel for each group of sets, and write their points.

    Args:
        results: JSON files of ``mice-st evaluate --suite dev``, over the same sets.
        output: Folder, made where it is missing.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If a file of results is missing.
        ImportError: If matplotlib is not installed; the message names the extra.
        ValueError: If a file holds no costs, was measured on other sets than the first, or has another figure for the
            same system; names it.
    """
    points = read_points(results)
    output.mkdir(parents=True, exist_ok=True)
    written = [output / POINTS_FILE]
    with written[0].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(points)
    groups = dict.fromkeys(point["group"] for point in points)
    panels = {f"mean {group}": [point for point in points if point["group"] == group] for group in groups}
    for cost, (name, label) in PICTURES.items():
        plot_quality_and_cost(panels, cost, f"{label} (logarithmic)", output / name)
        written.append(output / name)
    return written


def read_points(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """A point for each system and group of sets, keys as in ``COLUMNS``; ``plot`` says what is refused."""
    points: dict[tuple[str, str], dict[str, Any]] = {}
    sets: Any = None
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"results: there is no file {path}")
        try:
            results = read_json(path)
            measured = [(entry["name"], entry["queries"]) for entry in results["sets"]]
            depth = results["options"]["top_k"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: was not written by mice-st evaluate ({error!r})") from error
        if sets not in (None, (depth, measured)):
            raise ValueError(f"{path}: measured on other sets, queries or candidates than {paths[0]}")
        sets = (depth, measured)
        for system in results["systems"]:
            if "ms_per_query" not in system:
                raise ValueError(
                    f"{path}: {system['name']} has no times; run mice-st evaluate --suite dev with --time-queries again"
                )
            for group, figures in system["groups"].items():
                key = (system["name"], group)
                point = {"system": system["name"], "group": group, MAIN_METRIC: figures[MAIN_METRIC]}
                point |= {name: system[name] for name in ("kind", *PICTURES)}
                if key in points and points[key][MAIN_METRIC] != point[MAIN_METRIC]:
                    raise ValueError(f"{path}: {system['name']} has another figure {group} than in an earlier file")
                points[key] = point
    return list(points.values())
