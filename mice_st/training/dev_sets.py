"""The dev sets of a run: re-ranking on collections that choose its best checkpoint, and on others only watched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import mean

from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator

from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.data.own_documents import find_own_documents, search_without_own
from mice_st.data.sources import load_collection
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.evaluation.suites import draw_queries
from mice_st.training.recipe import TrainingRecipe

# Not the seed of the run: the seeds of one recipe are compared by these queries, so all must be measured on the same.
DRAWN_WITH = 0


class DevSetsEvaluator(BaseEvaluator):
    """Means of nDCG@10 over groups of collections.

    Args:
        dev: The best checkpoint is chosen by their mean, ``dev_ndcg@10``.
        watched: Their mean is ``watched_ndcg@10`` and decides nothing.
    """

    def __init__(self, dev: Sequence[RerankingEvaluator], watched: Sequence[RerankingEvaluator]) -> None:
        super().__init__()
        self.groups = {"dev": list(dev), "watched": list(watched)}
        self.primary_metric = "dev_ndcg@10"

    def __call__(
        self, model: CrossEncoder, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """The figures of the model: ``<collection>_ndcg@10`` for each, and the means of the groups."""
        figures: dict[str, float] = {}
        for group, evaluators in self.groups.items():
            measured = [evaluator.measure(model)[0] for evaluator in evaluators]
            figures |= {
                f"{evaluator.name}_ndcg@10": one.ndcg_at_10 for evaluator, one in zip(evaluators, measured, strict=True)
            }
            if measured:
                figures[f"{group}_ndcg@10"] = mean(one.ndcg_at_10 for one in measured)
                figures[f"{group}_mrr@10"] = mean(one.mrr_at_10 for one in measured)
        self.store_metrics_in_model_card_data(model, figures, epoch, steps)  # type: ignore[arg-type]
        return figures


def build_evaluator(recipe: TrainingRecipe, dev: Collection | None = None) -> BaseEvaluator | None:
    """The evaluator of a recipe, or None without dev data.

    Args:
        recipe: Its fields ``dev_data``, ``watch_data``, ``dev_split``, ``dev_queries`` and ``dev_top_k``; with frozen
            layers, documents' states are kept from one evaluation to the next.
        dev: Takes the place of ``dev_data``.

    Raises:
        FileNotFoundError: If a collection is missing.
        ValueError: If two collections have one name.
    """
    sources = {"dev": recipe.dev_data or [], "watched": recipe.watch_data or []}
    choices = (recipe.dev_split, recipe.dev_queries, recipe.dev_top_k, recipe.settings.freeze_contextualization)
    groups = {group: [_load(source, *choices) for source in named] for group, named in sources.items()}
    if dev is not None:
        groups["dev"] = [_build(dev, *choices[1:])]
    if not groups["dev"]:
        return None
    names = [evaluator.collection.name for group in groups.values() for evaluator in group]
    if twice := [name for name in names if names.count(name) > 1 or name in groups]:
        raise ValueError(f"dev_data, watch_data: the name {twice[0]!r} is there twice, or stands for the mean")
    if len(names) > 1:
        return DevSetsEvaluator(groups["dev"], groups["watched"])
    (alone,) = groups["dev"]
    return RerankingEvaluator(alone.collection, alone.candidates, "dev", keep_states=alone.keep_states)


@lru_cache(maxsize=32)  # the steps and seeds of a recipe measure on the same sets, one after the other
def _load(source: str, split: str, queries: int | None, top_k: int, keep_states: bool) -> RerankingEvaluator:
    return _build(load_collection(source, split), queries, top_k, keep_states)


def _build(collection: Collection, queries: int | None, top_k: int, keep_states: bool) -> RerankingEvaluator:
    """Re-ranking of BM25's candidates for some of the queries."""
    chosen = draw_queries(collection, queries, DRAWN_WITH)
    bm25, own = BM25(chosen.corpus), find_own_documents(chosen)
    candidates = search_without_own(lambda depth: bm25.search(chosen.queries, depth), top_k, own.left_out)
    return RerankingEvaluator(chosen, candidates, chosen.name, keep_states=keep_states)
