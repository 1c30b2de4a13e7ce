"""The parts that a ranking consists of, timed on their own: how near each comes to what the machine can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mice_st.modeling.interaction_mice import absorbing_pays, score_documents
from mice_st.research.benchmark import flops
from mice_st.research.benchmark.systems import Case, encode_query
from mice_st.states.sqlite_store import SqliteStore


@dataclass(frozen=True)
class Phase:
    """One part.

    Attributes:
        name: Of the part.
        run: Does it.
        operations: Multiplications and additions in its matrix products; None where it has none.
        read_bytes: Bytes of states that it reads from a store; None where it reads none.
    """

    name: str
    run: Callable[[], Any]
    operations: int | None = None
    read_bytes: int | None = None

    def figures(self, milliseconds: float, peak: float) -> dict[str, Any]:
        """The figures of the table.

        Args:
            milliseconds: Median of the phase.
            peak: GFLOP/s of the machine, measured in the same block.
        """
        rate = None if self.operations is None else self.operations / milliseconds / 1e6
        return {
            "phase": self.name,
            "ms": milliseconds,
            "gflop_per_s": rate,
            "share_of_peak": None if rate is None else rate / peak,
            "mb_per_s": None if self.read_bytes is None else self.read_bytes / milliseconds / 1e3,
        }


def phases_of(case: Case) -> list[Phase]:
    """The phases of the fast path on one workload.

    The interaction layers run over float32 states in memory, the query being encoded already, so that nothing but their
    own arithmetic is in the time.
    """
    query = encode_query(case.models.wide, case.query)
    size, tokens = case.models.size, query.input_ids.shape[1]
    phases = [
        Phase(
            "encode the query",
            lambda: encode_query(case.models.wide, case.query),
            flops.contextualisation(size.shape, size.below, [tokens]),
        )
    ]
    for variant, name in (("wide", "interaction layers"), ("narrow", "interaction layers, narrow")):
        phases.append(_interaction(case, variant, name))
    phases += [_store_read(case, variant) for variant in ("wide", "narrow")]
    return phases


def _interaction(case: Case, variant: str, name: str) -> Phase:
    model, documents = case.models.mice(variant), case.corpus.documents(variant)
    query = encode_query(model, case.query)
    config, tokens = model.mice.config, query.input_ids.shape[1]
    operations = flops.fast_interaction(
        flops.Interaction.of(config),
        tokens,
        case.corpus.lengths,
        absorbed=absorbing_pays(config, tokens, case.corpus.mean_tokens),
    )
    return Phase(name, lambda: score_documents(model.mice, query, documents), operations)


def _store_read(case: Case, variant: str) -> Phase:
    path, ids = case.corpus.store(variant, "int8"), case.corpus.ids
    store = case.stack.enter_context(SqliteStore(path, None, read_only=True, threads=case.threads))
    packed = case.corpus.packed(variant, "int8")
    return Phase(f"read {variant} int8 from SQLite", lambda: store.get(ids), read_bytes=packed.nbytes)
