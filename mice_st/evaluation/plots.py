"""Pictures of results; matplotlib comes with the extras ``demo`` and ``eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mice_st.evaluation.plot_labels import Label, place_labels

OURS, BASELINE = "#c1440e", "#888888"
# Marker and its size; codecs often reach the same in the same time, and then the larger marker is seen behind the smaller.
CODEC_MARKERS = {"": ("o", 50), "fp32": ("D", 80), "fp16": ("o", 90), "int8": ("s", 42), "int4": ("^", 42)}


def plot_quality_and_time(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Quality against time per query, time on a logarithmic scale, each point labelled.

    Args:
        rows: Dictionaries with ``system``, ``ndcg@10`` and ``ms_per_query`` (milliseconds).
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    kinds = [{**row, "kind": "mice" if row["system"].startswith("mice") else "other"} for row in rows]
    label = "milliseconds per query (logarithmic; first stage not included)"
    plot_quality_and_cost({"Re-ranking BM25's 100 best documents": kinds}, "ms_per_query", label, path)


def plot_quality_and_cost(panels: Mapping[str, Sequence[dict[str, Any]]], cost: str, label: str, path: Path) -> None:
    """Quality against its cost, on a logarithmic scale, a panel for each group of sets; MICE in colour, others grey.

    A model has one label, with the range of its codecs' figures, and one marker for each codec; no label covers another
    or a point.

    Args:
        panels: Title -> dictionaries with ``system`` (``model@codec`` where there are several codecs), ``kind``,
            ``ndcg@10`` and the cost. A system without it is a dashed line at its height.
        cost: Key of the cost, which is above 0.
        label: Of the horizontal axis.
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    figure = _make_figure((7 * len(panels), 4.5))
    drawn = []
    codecs: set[str] = set()
    for axes, (title, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        labels = []
        for name, members in _by_model(rows, cost).items():
            codecs |= members.keys() - {""}
            labels.append(_draw_model(axes, name, members, cost))
        drawn.append((axes, labels))
        axes.set_xscale("log")
        axes.margins(0.18)
        axes.grid(True, which="major", alpha=0.3)
        axes.set_xlabel(label)
        axes.set_ylabel("nDCG@10")
        axes.set_title(title)
    if codecs:
        _add_codec_legend(figure, codecs)
    figure.draw_without_rendering()  # lays it out: labels find their places in pixels
    for axes, labels in drawn:
        place_labels(axes, labels)
    figure.savefig(path, dpi=150)


def _by_model(rows: Sequence[dict[str, Any]], cost: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Name of a model -> codec -> its row; rows without a codec in their name, or without a cost, under ``""``."""
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        name, _, codec = row["system"].rpartition("@")
        if row.get(cost) is None or codec not in CODEC_MARKERS or not name:
            name, codec = row["system"], ""
        models.setdefault(name, {})[codec] = row
    return models


def _draw_model(axes: Any, name: str, members: Mapping[str, dict[str, Any]], cost: str) -> Label:
    """Draw a model's points, one for each codec and joined by a thin line, or its height as a line across the panel."""
    rows = list(members.values())
    figures = [f"{row['ndcg@10']:.3f}" for row in rows]
    text = f"{name} {min(figures)}" + (f" to {max(figures)}" if min(figures) != max(figures) else "")
    colour = OURS if rows[0]["kind"] == "mice" else BASELINE
    if rows[0].get(cost) is None:
        axes.axhline(rows[0]["ndcg@10"], color=colour, linestyle="--", linewidth=1, zorder=1)
        return Label(text, colour, [(0.0, rows[0]["ndcg@10"])], is_line=True)
    points = [(row[cost], row["ndcg@10"]) for row in rows]
    if len(points) > 1:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.6, zorder=2)
    for codec, (spent, quality) in zip(members, points, strict=True):
        marker, size = CODEC_MARKERS[codec]
        axes.scatter(spent, quality, size, colour, marker=marker, edgecolors="white", linewidths=0.6, zorder=3)
    return Label(text, colour, points)


def _add_codec_legend(figure: Any, codecs: set[str]) -> None:
    """Which marker is which codec, below the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=size**0.5, color=OURS, label=f"states in {codec}")
        for codec, (marker, size) in CODEC_MARKERS.items()
        if codec in codecs
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def plot_readable_segments(rows: Sequence[dict[str, Any]], segments: Sequence[str], path: Path) -> None:
    """Heat maps of who reads whom: a panel for each model, its cells coloured by the number of layers.

    Args:
        rows: Dictionaries with ``step``, ``ndcg@10`` and ``readable`` (layers x segments x segments, 0 or 1: whether
            the row's segment reads the column's).
        segments: Names of the segments.
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = _make_figure((3.1 * columns, 3.4 * lines))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels:
        panel.set_axis_off()
    for panel, row in zip(panels, rows, strict=False):
        layers = row["readable"]
        panel.set_axis_on()
        reading = [[[layer[a][b] for layer in layers] for b in range(len(segments))] for a in range(len(segments))]
        panel.imshow([[sum(cell) for cell in line] for line in reading], cmap="Blues", vmin=0, vmax=len(layers))
        panel.set_xticks(range(len(segments)), segments, fontsize=8)
        panel.set_yticks(range(len(segments)), segments, fontsize=8)
        panel.set_title(f"{row['step']}: {row['ndcg@10']:.3f}", fontsize=10)
        for a, line in enumerate(reading):
            for b, cell in enumerate(line):
                light = sum(cell) > len(layers) / 2
                panel.text(
                    b, a, _layer_range(cell), ha="center", va="center", fontsize=7, color="white" if light else "black"
                )
    figure.suptitle("Rows read columns in these layers; nDCG@10 above each panel", fontsize=10)
    figure.savefig(path, dpi=150)


def _layer_range(reads: Sequence[int]) -> str:
    """The layers in which something is read: ``"all"``, ``""``, or ``"4-11"``."""
    layers = [layer for layer, is_read in enumerate(reads) if is_read]
    if len(layers) in (0, len(reads)):
        return "all" if layers else ""
    is_one_piece = layers[-1] - layers[0] + 1 == len(layers)
    return f"{layers[0]}-{layers[-1]}" if is_one_piece else ",".join(map(str, layers))


def plot_fusion_layers(ndcg: dict[int, float], full: float, recommended: int, path: Path) -> None:
    """nDCG@10 against the layer at which the query begins to read the document.

    Args:
        ndcg: Fusion layer -> nDCG@10.
        full: nDCG@10 of the unmasked cross-encoder.
        recommended: Fusion layer to mark.
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    figure = _make_figure((6.5, 4))
    axes = figure.subplots()
    axes.plot(list(ndcg), list(ndcg.values()), marker="o", color="#3b5b7a", label="Mask3")
    axes.axhline(full, color="#888888", linestyle="--", label="full cross-encoder")
    axes.scatter([recommended], [ndcg[recommended]], s=160, color="#c1440e", zorder=3, label="recommended")
    axes.set_xticks(list(ndcg))
    axes.grid(True, alpha=0.3)
    axes.set_xlabel("fusion layer: layers below it keep query and document apart")
    axes.set_ylabel("nDCG@10")
    axes.legend()
    figure.savefig(path, dpi=150)


def plot_suite(results: dict[str, Any], path: Path) -> None:
    """nDCG@10 of every system on every set as bars, with the ceiling of the candidates above them.

    Args:
        results: ``sets`` with ``name`` and ``ceiling``, ``systems`` with ``name`` and ``sets`` (set -> metric ->
            figure).
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    sets, systems = results["sets"], results["systems"]
    width = 0.8 / len(systems)
    figure = _make_figure((max(5.0, 1.2 + 0.35 * len(sets) * (len(systems) + 1)), 4.5))
    axes = figure.subplots()
    for place, system in enumerate(systems):
        heights = [system["sets"][entry["name"]]["ndcg@10"] for entry in sets]
        left = [number - 0.4 + width * (place + 0.5) for number in range(len(sets))]
        axes.bar_label(
            axes.bar(left, heights, width, label=system["name"]), fmt="%.3f", fontsize=7, rotation=90, padding=2
        )
    for number, entry in enumerate(sets):
        label = "perfect re-ranking" if number == 0 else None
        axes.hlines(entry["ceiling"], number - 0.45, number + 0.45, color="#888888", linestyle="--", label=label)
    axes.set_xticks(
        range(len(sets)), [entry["name"] for entry in sets], rotation=30 if len(sets) > 3 else 0, ha="center"
    )
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("nDCG@10")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.savefig(path, dpi=150)


def _make_figure(size: tuple[float, float]) -> Any:
    """An empty figure of that size, in inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "mice-st[demo]"') from error
    return Figure(figsize=size, layout="constrained")


def plot_variants(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """nDCG@10 of the variants of an ablation: a bar for each, a line at the first one, a dot for each before training.

    Args:
        rows: Dictionaries with ``variant``, ``dev_ndcg@10`` and perhaps ``watched_ndcg@10``, and under ``start`` the
            same before training.
        path: PNG file to write.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    names = [name for name in ("dev_ndcg@10", "watched_ndcg@10") if name in rows[0]]
    figure = _make_figure((5 * len(names) + 2, 1 + 0.35 * len(rows)))
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        variants, before = [row["variant"] for row in rows], [row["start"][name] for row in rows]
        values = [row[name] for row in rows]
        bars = axes.barh(variants, values, color=["#c1440e", *["#3b5b7a"] * (len(rows) - 1)])
        axes.bar_label(bars, fmt="%.4f", fontsize=7, padding=6)
        axes.scatter(before, variants, 30, "#dddddd", edgecolors="black", linewidths=0.6, zorder=3)
        axes.axvline(values[0], color="#c1440e", linewidth=1)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        lowest, highest = min(values + before), max(values + before)
        margin = max(0.02, 0.2 * (highest - lowest))  # the figures beside the bars need it
        axes.set_xlim(max(0.0, lowest - margin), highest + margin)
        axes.set_xlabel(f"nDCG@10, {name.split('_')[0]} (dots: before training)")
        if place:
            axes.set_yticklabels([])
    figure.savefig(path, dpi=150)
