"""``mice-st trim``: which interaction layers earn their place, found by taking one away at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.evaluation.reranking import RerankingEvaluator
from mice_st.files import write_json
from mice_st.loading import resolve_model
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.research.laboratory.experiment import load_experiment


@dataclass
class TrimOptions:
    """Take interaction layers of MICE away, the least useful first, and measure what is left.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a number is out of range.
    """

    model: str = field(metadata={"help": "Folder or Hub id of a MICE model, or a released model's name."})
    data: str = field(metadata={"help": '"python-docs" or a BEIR folder: a dev set, for a choice is made on it.'})
    split: str = field(default="dev", metadata={"help": "Split of it."})
    keep: int | None = field(
        default=None, metadata={"help": "Go down to this many layers (default: as few as the model allows)."}
    )
    tolerance: float = field(default=0.01, metadata={"help": "nDCG@10 that the result may lie below the whole model."})
    output: str | None = field(default=None, metadata={"help": "Folder for the trimmed model, with results.json."})
    queries: int | None = field(
        default=None, metadata={"help": "Measure on this many queries, drawn with the seed; 0 takes all."}
    )
    top_k: int = field(default=50, metadata={"help": "Candidates of BM25 that are re-ranked for each query."})
    seed: int = field(default=0, metadata={"help": "Of the drawing."})

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep: at least 1 layer, got {self.keep}")


def keep_interaction_layers(model: MiceForSequenceClassification, kept: Sequence[int]) -> MiceForSequenceClassification:
    """A copy of the model with some of its interaction layers only.

    Args:
        model: The model; stays as it is.
        kept: Positions of the layers, from 0, in their order.

    Raises:
        ValueError: If a layer is not there, or there are too few for the model.
    """
    layers = model.config.interaction_layers
    if sorted(set(kept)) != list(kept) or not all(0 <= layer < layers for layer in kept):
        raise ValueError(f"layers {list(kept)}: expected rising numbers below {layers}")
    config = MiceConfig.from_dict(model.config.to_dict() | {"interaction_layers": len(kept)})
    trimmed = MiceForSequenceClassification(config)
    tensors = {}
    for name, tensor in model.state_dict().items():
        prefix, _, rest = name.partition(".")
        place, _, tail = rest.partition(".")
        if prefix != "interaction":
            tensors[name] = tensor
        elif int(place) in kept:
            tensors[f"interaction.{list(kept).index(int(place))}.{tail}"] = tensor
    trimmed.load_state_dict(tensors)
    return trimmed.to(model.device).eval()


def trim(model: MiceCrossEncoder, evaluator: RerankingEvaluator, keep: int | None = None) -> list[dict[str, Any]]:
    """Take one layer away at a time: of the layers left, the one whose absence costs least goes.

    Args:
        model: The model; has all its layers again afterwards.
        evaluator: What to measure on; where the layers read frozen states, it may keep them (``keep_states``).
        keep: Stop at this many layers; None goes on to the fewest that the model allows.

    Returns:
        One dictionary for each choice of layers that was measured, in order: ``kept`` (positions, from 0), ``removed``
        (the layer taken away last, None for the whole model), ``round`` (from 0), ``ndcg@10``, and ``is_chosen``,
        whether the next round starts from it.
    """
    whole = model.mice
    kept = list(range(whole.config.interaction_layers))
    fewest = max(keep or 1, 1 if whole.config.cls_attends_document else 2)
    rows: list[dict[str, Any]] = [
        {"kept": kept, "removed": None, "round": 0, "ndcg@10": evaluator.measure(model)[0].ndcg_at_10}
    ]
    total = sum(range(fewest + 1, len(kept) + 1))
    try:
        with tqdm(total=total, desc="Trimming", unit="choice", delay=2, leave=False) as progress:
            while len(kept) > fewest:
                tried: list[dict[str, Any]] = []
                for layer in kept:
                    left = [other for other in kept if other != layer]
                    model[0].model = keep_interaction_layers(whole, left)
                    figure = evaluator.measure(model)[0].ndcg_at_10
                    tried.append({"kept": left, "removed": layer, "round": rows[-1]["round"] + 1, "ndcg@10": figure})
                    progress.update()
                rows += tried
                kept = max(tried, key=lambda row: row["ndcg@10"])["kept"]
    finally:
        model[0].model = whole
    for row in rows:
        best = max((other for other in rows if other["round"] == row["round"]), key=lambda other: other["ndcg@10"])
        row["is_chosen"] = row is best
    return rows


def run_trim(options: TrimOptions) -> None:
    """Measure, print the table, and save the smallest model within the tolerance."""
    model = MiceCrossEncoder(options.model)
    experiment = load_experiment(
        options.data, options.split, None, options.queries or None, options.top_k, options.seed
    )
    given = experiment.evaluator
    is_frozen = model.mice.config.document_states == "frozen"  # else documents pass through the interaction layers too
    evaluator = RerankingEvaluator(given.collection, given.candidates, given.name, keep_states=is_frozen)
    rows = trim(model, evaluator, options.keep)
    print(
        f"{options.model}: {len(given.collection.queries)} queries of {given.collection.name}, {options.top_k} candidates"
    )
    print(f"\n{'layers':>6}  {'without':>7}  nDCG@10  against all  kept")
    for row in rows:
        mark = "  <- goes on" if row["is_chosen"] and row["round"] else ""
        removed = "-" if row["removed"] is None else row["removed"]
        change = row["ndcg@10"] - rows[0]["ndcg@10"]
        print(f"{len(row['kept']):>6}  {removed:>7}  {row['ndcg@10']:7.4f}  {change:+11.4f}  {row['kept']}{mark}")
    within = [row for row in rows if row["ndcg@10"] >= rows[0]["ndcg@10"] - options.tolerance]
    result = min(within, key=lambda row: (len(row["kept"]), -row["ndcg@10"]))
    print(f"The fewest within {options.tolerance} of all: layers {result['kept']}")
    if options.output is None:
        return
    output = Path(options.output)
    model[0].model = keep_interaction_layers(model.mice, result["kept"])
    model.save(str(output))
    write_json(output / "results.json", {"options": asdict(options), "rows": rows, "kept": result["kept"]})
    print(f"Written: {output}")
