"""The command ``mice-st trim``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from mice_st.files import write_json
from mice_st.loading import resolve_model


@dataclass
class TrimOptions:
    """Take interaction layers of MICE away, the least useful first, and measure what is left.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
        ValueError: If a number is out of range.
    """

    model: str = field(
        metadata={"help": "Folder or Hub id of a MICE model, or a released model's name.", "metavar": "MODEL"}
    )
    data: str = field(
        metadata={"help": "BEIR folder, or python-docs: a dev set, since a choice is made on it.", "metavar": "DATA"}
    )
    split: str = field(default="dev", metadata={"help": "Split of it to measure on."})
    keep: int | None = field(
        default=None, metadata={"help": "Go down to this many layers (default: as few as the model allows)."}
    )
    tolerance: float = field(
        default=0.01, metadata={"help": "Difference of nDCG@10 by which the result may lie below the whole model."}
    )
    output: str | None = field(
        default=None, metadata={"help": "Folder for the trimmed model, with results.json.", "metavar": "FOLDER"}
    )
    queries: int | None = field(
        default=None, metadata={"help": "Queries to measure on, drawn with the seed; 0 takes all (default: all)."}
    )
    top_k: int = field(default=50, metadata={"help": "Candidates of BM25 that are re-ranked for each query."})
    seed: int = field(default=0, metadata={"help": "Seed of the drawing."})

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep: at least 1 layer, got {self.keep}")


def run_trim(options: TrimOptions) -> None:
    """Measure, print the table, and save the smallest model within the tolerance."""
    from mice_st.cross_encoder import MiceCrossEncoder
    from mice_st.evaluation.reranking import RerankingEvaluator
    from mice_st.research.laboratory.experiment import load_experiment
    from mice_st.research.laboratory.trimming import keep_interaction_layers, trim

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
