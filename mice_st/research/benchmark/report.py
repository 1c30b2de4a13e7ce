"""The results of a benchmark as JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BenchReport:
    """Everything that one run measured.

    Attributes:
        targets: ``name``, ``value``, ``target``, ``met`` each.
        rows: One per system and workload: milliseconds, ratios, bytes.
        phases: One per phase and workload: milliseconds, GFLOP/s, share of the peak, documents or megabytes a second.
        storage: Loading of stores, cold and warm, in milliseconds.
        memory: Peak of ranking stored documents, in megabytes.
        skipped: What was left out, and why.
        analytic: Shares of the cross-encoder's operations, counted on paper.
        machine: Processor, threads, versions, measured peak.
    """

    targets: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    storage: list[dict[str, Any]]
    memory: dict[str, Any]
    skipped: list[dict[str, Any]]
    analytic: list[dict[str, Any]]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)

    def targets_to_markdown(self) -> str:
        """The table with the targets."""
        lines = [
            [
                target["name"],
                _number(target["value"]),
                target["target"],
                {True: "yes", False: "**no**"}.get(target["met"], "not measured"),
            ]
            for target in self.targets
        ]
        return _table(["", "measured", "target", "met"], lines)

    def to_markdown(self) -> str:
        """All tables."""
        parts = [
            "# Speed, as `mice-st bench` measured it",
            "## Targets",
            self.targets_to_markdown(),
            "## Milliseconds per query",
        ]
        for title, rows in _groups(self.rows).items():
            lines = [
                [
                    row["system"],
                    _number(row["ms_per_query"]),
                    _number(row["times_faster_than_cross_encoder"]),
                    _number(row["time_over_colbert"]),
                    _number(row["bytes_per_document"], 0),
                ]
                for row in rows
            ]
            header = ["", "ms", "times faster than the cross-encoder", "time over ColBERT's", "bytes a document"]
            parts += [f"### {title}", _table(header, lines)]
        parts += ["## Phases", self._phases_to_markdown(), "## Stores and memory", self._storage_to_markdown()]
        parts += ["## Operations, as a share of the cross-encoder's (MiniLM-L12, l4+3, 512 / 32 / 477 tokens)"]
        parts += [_table(["", "share"], [[entry["name"], f"{entry['share']:.3f}"] for entry in self.analytic])]
        if self.skipped:
            parts += ["## Left out", self._skipped_to_markdown()]
        parts += ["## Machine", self._machine_to_markdown()]
        return "\n\n".join(parts) + "\n"

    def _phases_to_markdown(self) -> str:
        lines = []
        for row in self.phases:
            rate = row.get("documents_per_s")
            speed = f"{rate:.0f} documents/s" if rate else ""
            if row.get("mb_per_s"):
                speed = f"{row['mb_per_s']:.0f} MB/s"
            figures = [_number(row["ms"]), _number(row["gflop_per_s"]), _number(row["share_of_peak"]), speed]
            lines.append([row["phase"], _title(row), *figures])
        return _table(["", "", "ms", "GFLOP/s", "share of the peak", ""], lines)

    def _storage_to_markdown(self) -> str:
        lines = [
            [
                row["store"],
                _title(row),
                _number(row["cold_ms"]),
                _number(row["warm_ms"]),
                f"{row['file_bytes'] / 1e6:.1f}",
            ]
            for row in self.storage
        ]
        table = _table(["SQLite store", "", "open and read cold, ms", "warm, ms", "file, MB"], lines)
        memory = self.memory
        if not memory:
            return table
        return (
            f"{table}\n\nRanking {memory['documents']} stored documents ({memory['states']}) in a fresh process: model "
            f"{memory['model_mb']:.0f} MB, peak {memory['peak_mb']:.0f} MB, {memory['above_model_mb']:.0f} MB above the model."
        )

    def _skipped_to_markdown(self) -> str:
        reasons: dict[tuple[str, str], int] = {}
        for entry in self.skipped:
            key = (entry["system"], entry["reason"])
            reasons[key] = reasons.get(key, 0) + 1
        return _table(["", "workloads", "why"], [[name, str(count), why] for (name, why), count in reasons.items()])

    def _machine_to_markdown(self) -> str:
        machine = self.machine
        peaks = ", ".join(f"{peak:.0f} GFLOP/s with {count}" for count, peak in machine["peak_gflop_per_s"].items())
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
        return (
            f"{machine['processor']}, {machine['usable_cores']} of {machine['cores']} cores; float32 matrix product (threads): "
            f"{peaks}; load at the start {_number(machine['load_at_start'])}; {machine['seconds']:.0f} s in all.\n\n{versions}."
        )

    def save_picture(self, path: Path) -> None:
        """Milliseconds per query of every system, logarithmic, for the smallest workload of each length.

        Args:
            path: PNG file to write.

        Raises:
            ImportError: If matplotlib is not installed; the message names the extra.
        """
        require_matplotlib()
        from matplotlib.figure import Figure

        groups = _groups(self.rows)
        chosen = [title for title, rows in groups.items() if len(rows) > 1][:1] or list(groups)[:1]
        first = groups[chosen[0]][0]
        panels = {
            title: rows
            for title, rows in groups.items()
            if all(rows[0][name] == first[name] for name in ("documents", "query_tokens", "threads"))
        }
        height = 1.5 + 0.32 * max(len(rows) for rows in panels.values())
        figure = Figure(figsize=(5.5 * len(panels) + 1.5, height), layout="constrained")
        for axes, (title, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            ordered = sorted(rows, key=lambda row: -row["ms_per_query"])
            names = [row["system"] for row in ordered]
            milliseconds = [row["ms_per_query"] for row in ordered]
            colours = ["#c1440e" if name.startswith("mice") else "#3b5b7a" for name in names]
            axes.barh(names, milliseconds, color=colours)
            for place, row in enumerate(ordered):
                ratio = row["times_faster_than_cross_encoder"]
                label = f" {_number(row['ms_per_query'])} ms" + (f" ({_number(ratio)}x)" if ratio else "")
                axes.annotate(label, (row["ms_per_query"], place), va="center", fontsize=8)
            axes.set_xscale("log")
            axes.set_xlim(min(milliseconds) / 2, max(milliseconds) * 8)
            axes.set_xlabel("ms per query, logarithmic (times faster than the cross-encoder)", fontsize=9)
            axes.set_title(title, fontsize=10)
        figure.savefig(path, dpi=150)


def require_matplotlib() -> None:
    """Fail before anything is measured where the picture could not be drawn.

    Raises:
        ImportError: If matplotlib is not installed; the message names the extra.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError('pictures need matplotlib: pip install "mice-st[bench]"') from error


def _groups(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by workload and threads, in the order in which they were measured."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_title(row), []).append(row)
    return groups


def _title(row: dict[str, Any]) -> str:
    tokens = "MS MARCO lengths" if row["lengths"] == "msmarco" else f"{row['lengths']} tokens"
    query = f", {row['query_tokens']}-token query" if row["query_tokens"] else ""
    return f"{row['documents']} documents, {tokens}{query}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def _number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, or as many decimals as zero asks for."""
    if value is None:
        return ""
    if digits == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:#.3g}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [list(header), ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
