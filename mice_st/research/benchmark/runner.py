"""Runs a benchmark: block by block, everything of a block interleaved, everything in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from mice_st.evaluation.cost import use_threads
from mice_st.research.benchmark import flops
from mice_st.research.benchmark.corpus import Corpus
from mice_st.research.benchmark.machine import describe_machine
from mice_st.research.benchmark.memory import measure_loading, measure_ranking_memory
from mice_st.research.benchmark.models import Models, ModelSize
from mice_st.research.benchmark.options import BenchOptions
from mice_st.research.benchmark.phases import phases_of
from mice_st.research.benchmark.plan import SYSTEMS, Block, blocks, documents_of, repetitions
from mice_st.research.benchmark.report import BenchReport
from mice_st.research.benchmark.systems import Case, Ranking, Skipped, System, score_obviously, states_of
from mice_st.research.benchmark.targets import compute_targets
from mice_st.research.benchmark.timing import Task, matrix_product, measure
from mice_st.research.benchmark.workloads import Words

WARM_UP_DOCUMENTS = 8  # of a system that reads texts: all of them would take as long as measuring it
PEAK_REPETITIONS = 9


def run_benchmark(
    options: BenchOptions, size: ModelSize | None = None, tokenizer_folder: Path | None = None
) -> BenchReport:
    """Measure everything that the options ask for.

    Args:
        options: What to measure.
        size: Of the models; None takes MiniLM-L12's.
        tokenizer_folder: Folder of a WordPiece tokenizer; None takes that of all-MiniLM-L6-v2.

    Returns:
        The report.

    Raises:
        ImportError: If no tokenizer is there; the message names the extra.
        ValueError: If ``options`` hold lengths that no document can have.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(options, Models(Path(folder), size or ModelSize(), tokenizer_folder, options.seed))
        machine = describe_machine(options.threads)
        for block in blocks(options):
            with use_threads(block.threads), ExitStack() as stack:
                runner.measure_block(block, stack)
        runner.finish()
    targets = compute_targets(options, runner.rows, runner.phases, runner.largest_difference, runner.memory)
    machine["peak_gflop_per_s"] = {str(count): max(peaks) for count, peaks in runner.peaks.items()}
    machine["seconds"] = round(time.perf_counter() - began, 1)
    return BenchReport(
        targets,
        runner.rows,
        runner.phases,
        runner.storage,
        runner.memory,
        runner.skipped,
        flops.shares_of_the_paper(),
        machine,
    )


def largest_difference(ranking: Ranking, scores: torch.Tensor) -> float:
    """Between the scores of a ranking and those of the same documents, ``(n,)``.

    Raises:
        ValueError: If the ranking does not hold every document once.
    """
    if sorted(number for number, _ in ranking) != list(range(len(scores))):
        raise ValueError(f"a ranking of {len(ranking)} entries does not hold each of {len(scores)} documents once")
    return max(abs(scores[number].item() - score) for number, score in ranking)


class Runner:
    """Collects what the blocks measure.

    Args:
        options: What to measure.
        models: The models.
    """

    def __init__(self, options: BenchOptions, models: Models) -> None:
        self.options = options
        self.models = models
        self.rows: list[dict[str, Any]] = []
        self.phases: list[dict[str, Any]] = []
        self.storage: list[dict[str, Any]] = []
        self.skipped: list[dict[str, Any]] = []
        self.memory: dict[str, Any] = {}
        self.peaks: dict[int, list[float]] = {}
        self.largest_difference = 0.0
        self._corpora: dict[tuple[str, int], Corpus] = {}
        self._words = Words(models.tokenizer)

    def measure_block(self, block: Block, stack: ExitStack) -> None:
        """Measure one block; what it opens is closed with ``stack``."""
        query = self._words.texts([block.query_tokens], self.options.seed + 1)[0]
        cases = {
            count: Case(self.models, self._corpus(block.lengths, count), query, block.threads, stack)
            for count in documents_of(self.options, block)
        }
        product, operations = matrix_product(self.models.size.matrix)
        product()
        peak = Task("matrix product", product, PEAK_REPETITIONS)
        systems: list[tuple[System, int, Task]] = []
        for count, case in cases.items():
            for system in SYSTEMS:
                task = self._prepare(system, case, block, count)
                if task is not None:
                    systems.append((system, count, task))
        phases = [
            (phase, count, Task(phase.name, phase.run, self.options.repetitions))
            for count, case in cases.items()
            if count == self.options.few or not self.options.quick
            for phase in phases_of(case)
        ]
        for _, _, task in phases:
            task.run()
        measure([peak, *(entry[2] for entry in (*systems, *phases))], f"{block.lengths}, {block.threads} threads")
        gigaflops = operations / peak.median / 1e6
        self.peaks.setdefault(block.threads, []).append(gigaflops)
        rows = self._add_rows(block, cases, systems)
        for phase, count, task in phases:
            self.phases.append(self._where(block, count) | phase.figures(task.median, gigaflops))
        if block.threads == min(self.options.threads):
            few = self.options.few
            results = {system: (task.result, rows[system.name, few]) for system, count, task in systems if count == few}
            self._check_scores(cases[few], results)
        if (block.threads, block.query_tokens) == (min(self.options.threads), self.options.query):
            self._measure_storage(block, cases)

    def _corpus(self, lengths: str, count: int) -> Corpus:
        """The documents; those of other lengths are forgotten, for they take gigabytes."""
        self._corpora = {key: corpus for key, corpus in self._corpora.items() if key[0] == lengths}
        if (lengths, count) not in self._corpora:
            corpus = Corpus(self.models, lengths, count, self.models.folder, self.options.seed)
            threads = max(self.options.threads)
            with use_threads(threads):
                seconds = corpus.encoded[1]
            size = self.models.size
            self.phases.append(
                {
                    "lengths": lengths,
                    "documents": count,
                    "query_tokens": None,
                    "threads": threads,
                    "phase": "encode documents",
                    "ms": 1000 * seconds,
                    "documents_per_s": count / seconds,
                    "gflop_per_s": flops.contextualisation(size.shape, size.below, corpus.lengths) / seconds / 1e9,
                    "share_of_peak": None,
                }
            )
            self._corpora[lengths, count] = corpus
        return self._corpora[lengths, count]

    def _prepare(self, system: System, case: Case, block: Block, count: int) -> Task | None:
        """A warmed-up system, or None where it is left out."""
        where = {"system": system.name} | self._where(block, count)
        turns = repetitions(self.options, system, block, count)
        if not turns:
            if not self.options.quick:
                reason = "reads documents as texts: measured at MS MARCO lengths with the shortest query only"
                self.skipped.append(where | {"reason": reason})
            return None
        try:
            if system.slow:
                system.prepare(case.head(WARM_UP_DOCUMENTS))()
            ranker = system.prepare(case)
        except Skipped as error:
            self.skipped.append(where | {"reason": str(error)})
            return None
        if not system.slow:
            ranker()
        return Task(f"{system.name}, {count} documents", ranker, turns)

    def _where(self, block: Block, count: int) -> dict[str, Any]:
        return {
            "lengths": block.lengths,
            "documents": count,
            "query_tokens": block.query_tokens,
            "threads": block.threads,
        }

    def _add_rows(
        self, block: Block, cases: Mapping[int, Case], systems: list[tuple[System, int, Task]]
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """One row per system and number of documents; they are also returned, by both."""
        added = {}
        medians = {(system.name, count): task.median for system, count, task in systems}
        for system, count, task in systems:
            reference, colbert = medians.get(("cross-encoder", count)), medians.get(("colbert", count))
            kept = system.bytes_per_token(self.models.size) if system.bytes_per_token else None
            row = {"system": system.name} | self._where(block, count)
            row |= {
                "ms_per_query": task.median,
                "fastest_ms": min(task.milliseconds),
                "repetitions": task.repetitions,
                "times_faster_than_cross_encoder": reference / task.median if reference else None,
                "time_over_colbert": task.median / colbert if colbert else None,
                "bytes_per_token": kept,
                "bytes_per_document": kept * cases[count].corpus.mean_tokens if kept else None,
                "largest_difference": None,
            }
            self.rows.append(row)
            added[system.name, count] = row
        return added

    def _check_scores(self, case: Case, results: Mapping[System, tuple[Ranking, dict[str, Any]]]) -> None:
        """Compare the rankings just timed with the obvious path over the same states; notes it in the rows."""
        obvious: dict[tuple[str, str], torch.Tensor] = {}
        for system, (ranking, row) in results.items():
            if system.variant is None:
                continue
            key = (system.variant, system.codec)
            if key not in obvious:
                documents = case.corpus.documents(states_of(system.variant), system.codec)
                obvious[key] = score_obviously(self.models.mice(system.variant), case.query, documents)
            row["largest_difference"] = largest_difference(ranking, obvious[key])
            if system.exact:
                self.largest_difference = max(self.largest_difference, row["largest_difference"])

    def _measure_storage(self, block: Block, cases: Mapping[int, Case]) -> None:
        """Load stores cold and warm, and measure memory once, over the most documents."""
        for count, case in cases.items():
            for variant in ("wide", "narrow"):
                path = case.corpus.store(variant, "int8")
                figures = measure_loading(path, case.corpus.ids, block.threads)
                where = {"store": f"{variant} int8"} | self._where(block, count)
                self.storage.append(where | figures | {"file_bytes": path.stat().st_size})
        corpus = cases[max(cases)].corpus
        if not self.memory and len(corpus.ids) == self.options.many:
            query = cases[max(cases)].query
            store = corpus.store("wide", "fp16")
            folder = self.models.mice_folder("wide")
            self.memory = measure_ranking_memory(folder, store, query, corpus.ids, block.threads)
            self.memory |= {"documents": len(corpus.ids), "lengths": block.lengths, "states": "fp16"}

    def finish(self) -> None:
        """Compare the encoding of documents, which happens between blocks, with the peaks of the blocks."""
        for phase in self.phases:
            peaks = self.peaks.get(phase["threads"])
            if phase["phase"] == "encode documents" and peaks:
                phase["share_of_peak"] = phase["gflop_per_s"] / max(peaks)
