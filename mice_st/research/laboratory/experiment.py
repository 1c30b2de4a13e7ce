"""Parts that the experiments share: the queries and their candidates, the rows to train on, and how a model is re-trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sentence_transformers import CrossEncoder

from mice_st.data.collection import Collection
from mice_st.data.first_stage import bm25_candidates
from mice_st.data.sources import load_collection
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.evaluation.suites import draw_queries
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.settings import TrainingSettings
from mice_st.training.trainer import train


@dataclass(frozen=True)
class Experiment:
    """Queries, their candidates, and perhaps queries to train on.

    Attributes:
        evaluator: Re-ranks BM25's candidates of the queries.
        training: Queries that are not among them; None where nothing is trained.
        first_stage_ndcg: nDCG@10 of the candidates as BM25 orders them.
    """

    evaluator: RerankingEvaluator
    training: Collection | None
    first_stage_ndcg: float


def load_experiment(
    data: str, split: str, train_split: str | None, queries: int | None, top_k: int, seed: int
) -> Experiment:
    """Load the data and find the candidates.

    Args:
        data: ``"python-docs"``, or a BEIR folder or its archive; see ``collection_source``.
        split: Split to measure on.
        train_split: Split to train on; None trains nothing.
        queries: Measure on this many queries, drawn with the seed; None takes all.
        top_k: Candidates of each query, from BM25.
        seed: Of the drawing.

    Raises:
        FileNotFoundError: If there is no such folder or split.
        ValueError: If a file of it is faulty, or both splits are the same.
    """
    if split == train_split:
        raise ValueError(f"train_split: {split!r} is the split that is measured on; it would be trained on as well")
    measured = draw_queries(load_collection(data, split), queries, seed)
    candidates = bm25_candidates(measured, top_k)
    training = None if train_split is None else load_collection(data, train_split)
    first_stage = evaluate_run(measured.qrels, candidates).ndcg_at_10
    return Experiment(RerankingEvaluator(measured, candidates, split), training, first_stage)


@dataclass(frozen=True)
class Retraining:
    """How every model of an experiment is trained: all alike, so that their figures can be compared.

    Attributes:
        steps: Steps, or None where seconds limit the training.
        seconds: Seconds of training, or None.
        learning_rate: Highest learning rate.
        batch_size: Queries in a step.
        negatives: Negatives of each.
        seed: Of everything that is drawn.
    """

    steps: int | None
    seconds: float | None
    learning_rate: float
    batch_size: int
    negatives: int
    seed: int

    def recipe(self, output: Path) -> TrainingRecipe:
        """As a recipe of ``mice-st train`` that keeps no checkpoints but the last."""
        return TrainingRecipe(
            model="",
            train_data=[""],
            output=str(output),
            settings=TrainingSettings(
                max_steps=self.steps,
                max_seconds=self.seconds,
                learning_rate=self.learning_rate,
                batch_size=self.batch_size,
            ),
            negatives=self.negatives,
            save_steps=1_000_000,
            seed=self.seed,
        )

    def train(self, model: CrossEncoder, experiment: Experiment, output: Path) -> int:
        """Train a cross-encoder or MICE in place; saves it to ``output``.

        Returns:
            The number of steps made.
        """
        assert experiment.training is not None  # a command that trains loads a training split
        return train(self.recipe(output), model=model, train_collection=experiment.training).steps
