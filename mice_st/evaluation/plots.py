"""Pictures of results; matplotlib comes with the extras ``demo`` and ``eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_quality_and_time(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Quality against time per query, time on a logarithmic scale, each point labelled.

    Args:
        rows: Dictionaries with ``system``, ``ndcg@10`` and ``ms_per_query`` (milliseconds).
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "mice-st[demo]"') from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        is_ours = row["system"].startswith("mice")
        axes.scatter(row["ms_per_query"], row["ndcg@10"], s=70, color="#c1440e" if is_ours else "#3b5b7a", zorder=3)
        axes.annotate(
            f"{row['system']} {row['ndcg@10']:.3f}",
            (row["ms_per_query"], row["ndcg@10"]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="center",
        )
    axes.set_xscale("log")
    axes.margins(0.18)
    axes.grid(True, which="major", alpha=0.3)
    axes.set_xlabel("milliseconds per query (logarithmic; first stage not included)")
    axes.set_ylabel("nDCG@10")
    axes.set_title("Re-ranking BM25's 100 best documents")
    figure.savefig(path, dpi=150)
