"""The command ``mice-st mask``: measures which interactions of a cross-encoder matter, and the cost of its way to MICE."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mice_st.commands.checks import existing_files
from mice_st.evaluation.quiet import errors_only
from mice_st.files import write_json
from mice_st.loading import is_mice, resolve_model

if TYPE_CHECKING:
    from mice_st.research.laboratory.experiment import Experiment, Retraining


@dataclass
class MaskOptions:
    """Mask a cross-encoder's interactions one by one and measure what each is worth."""

    model: str = field(metadata={"help": "Folder or Hub id of a plain cross-encoder.", "metavar": "MODEL"})
    data: str = field(default="python-docs", metadata={"help": "BEIR folder, or python-docs.", "metavar": "DATA"})
    output: str = field(
        default="mask_output", metadata={"help": "Folder for results.json and the pictures.", "metavar": "FOLDER"}
    )
    split: str = field(default="test", metadata={"help": "Split to measure on."})
    train_split: str = field(default="train", metadata={"help": "Split to re-train on."})
    queries: int | None = field(
        default=50, metadata={"help": "Queries to measure on, drawn with the seed; 0 takes all."}
    )
    top_k: int = field(default=50, metadata={"help": "Candidates of BM25 that are re-ranked for each query."})
    max_length: int | None = field(
        default=None, metadata={"help": "Longest pair, in tokens (default: the model's own)."}
    )
    fusion_layer: int | None = field(
        default=None, metadata={"help": "Layers in which mask3 and prettr keep both sides apart (default: half)."}
    )
    sweep_fusion_layer: bool = field(
        default=False, metadata={"help": "Also measure mask3 at every fusion layer, and recommend one."}
    )
    tolerance: float = field(
        default=0.01,
        metadata={"help": "Difference of nDCG@10 by which a recommended fusion layer may lie below the best."},
    )
    baselines: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "SYSTEM",
            "help": "Also measure these: full, prettr-l4, sparse-ce, mice-l4+3, mice-l10-d12+2 (MORES), colbert, bi-encoder "
            "(made from the model), or folders of other models.",
        },
    )
    convert: bool = field(
        default=False,
        metadata={"help": "Also convert the model under mask3 to MICE without loss, and measure what each step costs."},
    )
    train_steps: int | None = field(default=None, metadata={"help": "Re-train each model for this many steps."})
    train_seconds: float | None = field(default=None, metadata={"help": "Re-train each model for this long."})
    learning_rate: float = field(default=2e-5, metadata={"help": "Highest learning rate of the re-training."})
    batch_size: int = field(default=8, metadata={"help": "Queries in a step of the re-training."})
    negatives: int = field(default=7, metadata={"help": "Negatives of each query in the re-training."})
    seed: int = field(default=0, metadata={"help": "Seed of everything that is drawn."})

    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that lies beside the weights of other models among the baselines."}
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)

    @property
    def retraining(self) -> Retraining | None:
        """How to re-train, or None."""
        if self.train_steps is None and self.train_seconds is None:
            return None
        from mice_st.research.laboratory.experiment import Retraining

        return Retraining(
            self.train_steps, self.train_seconds, self.learning_rate, self.batch_size, self.negatives, self.seed
        )


@errors_only()
def run_mask(options: MaskOptions) -> None:
    """Run the experiments, print their tables, and write results.json and the pictures.

    Raises:
        ValueError: If the model is no plain cross-encoder.
    """
    if is_mice(options.model):
        raise ValueError(f"model: {options.model} is MICE already; mask takes a plain cross-encoder")
    import torch
    import transformers

    from mice_st.evaluation.plots import plot_readable_segments
    from mice_st.research.laboratory.baselines import check_baselines, measure_baselines
    from mice_st.research.laboratory.equivalence import check_conversion, measure_conversion
    from mice_st.research.laboratory.experiment import load_experiment
    from mice_st.research.laboratory.ladder import count_layers, ladder_steps
    from mice_st.research.masking import SEGMENTS

    transformers.utils.logging.disable_progress_bar()
    layers = count_layers(options.model)
    fusion_layer = layers // 2 if options.fusion_layer is None else options.fusion_layer
    train_split = options.train_split if options.retraining else None
    check_baselines(options.model, options.baselines, options.retraining is not None)
    if options.convert:
        check_conversion(options.model, fusion_layer, options.max_length)
    experiment = load_experiment(
        options.data, options.split, train_split, options.queries or None, options.top_k, options.seed
    )
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    collection = experiment.evaluator.collection
    print(
        f"{options.model}: {layers} layers; {len(collection.queries)} queries of {collection.name}, BM25's best "
        f"{options.top_k} documents (nDCG@10 {experiment.first_stage_ndcg:.4f}); {describe_training(options)}"
    )
    results: dict[str, Any] = {
        "options": asdict(options),
        "layers": layers,
        "segments": SEGMENTS,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "first_stage_ndcg@10": experiment.first_stage_ndcg,
    }

    def keep(name: str, value: Any) -> Any:
        """Written after each experiment: what is measured is not lost with what follows."""
        results[name] = value
        write_json(output / "results.json", results)
        return value

    rows = keep("ladder", measure(options, ladder_steps(fusion_layer), experiment))
    print_ladder(rows)
    plot_readable_segments(rows, SEGMENTS, output / "ladder.png")
    if options.sweep_fusion_layer:
        keep("sweep", sweep(options, layers, rows[0]["ndcg@10"], experiment))
    common = (experiment, options.retraining)
    if options.baselines:
        folder = output / "baselines"
        made = measure_baselines(
            options.model, options.baselines, *common, folder, options.max_length, options.trust_remote_code
        )
        print_baselines(keep("baselines", made))
    if options.convert:
        converted = measure_conversion(options.model, fusion_layer, *common, output, options.max_length)
        print_conversion(keep("conversion", converted))
    print(f"Written: {output}/results.json and the pictures beside it")


def measure(options: MaskOptions, steps: list[str], experiment: Experiment) -> list[dict[str, Any]]:
    """``measure_ladder`` with the options of the command."""
    from mice_st.research.laboratory.ladder import measure_ladder

    return measure_ladder(
        options.model, steps, experiment, options.retraining, Path(options.output) / "models", options.max_length
    )


def sweep(options: MaskOptions, layers: int, full: float, experiment: Experiment) -> dict[str, Any]:
    """Measure mask3 at every fusion layer, print and draw it, and recommend one.

    Two layers stay above it: one brings the document to the query's tokens, one more brings them to [CLS].

    Raises:
        ValueError: If the model has fewer than three layers.
    """
    from mice_st.evaluation.plots import plot_fusion_layers
    from mice_st.research.laboratory.ladder import recommend_fusion_layer

    if layers < 3:
        raise ValueError(f"sweep_fusion_layer: a model of {layers} layers has no fusion layer with two layers above it")
    steps = [f"mask3-l{layer}" for layer in range(1, layers - 1)]
    rows = measure(options, steps, experiment)
    ndcg = {layer: row["ndcg@10"] for layer, row in enumerate(rows, start=1)}
    recommended = recommend_fusion_layer(ndcg, options.tolerance)
    plot_fusion_layers(ndcg, full, recommended, Path(options.output) / "sweep.png")
    print("\nfusion layer  nDCG@10")
    for layer, figure in ndcg.items():
        print(f"{layer:>12}  {figure:7.4f}{'  <- recommended' if layer == recommended else ''}")
    print(f"The highest within {options.tolerance} of the best: --contextualization-layers {recommended}")
    return {"ndcg@10": ndcg, "recommended": recommended, "tolerance": options.tolerance}


def describe_training(options: MaskOptions) -> str:
    """Whether the models were trained, for the head of a table."""
    if options.retraining is None:
        return "not re-trained"
    limit = f"{options.train_steps} steps" if options.train_steps else f"{options.train_seconds:g} s"
    return f"each model re-trained for {limit}"


def print_ladder(rows: list[dict[str, Any]]) -> None:
    """The ladder as a table."""
    print(f"\n{'step':<12}  nDCG@10  against the first    MRR@10  largest score difference")
    for row in rows:
        change = row["ndcg@10"] - rows[0]["ndcg@10"]
        print(
            f"{row['step']:<12}  {row['ndcg@10']:7.4f}  {change:+17.4f}  {row['mrr@10']:8.4f}  {row['difference']:.2e}"
        )


def print_baselines(rows: list[dict[str, Any]]) -> None:
    """The baselines as a table."""
    width = max(12, *(len(row["step"]) for row in rows))
    print(f"\n{'system':<{width}}  nDCG@10   MRR@10  ms/query, documents encoded in it  steps of training")
    for row in rows:
        print(
            f"{row['step']:<{width}}  {row['ndcg@10']:7.4f}  {row['mrr@10']:7.4f}  {row['ms_per_query']:33.1f}"
            f"  {row['training_steps']:17}"
        )


def print_conversion(rows: list[dict[str, Any]]) -> None:
    """The conversions as a table, and whether the first is without loss.

    Raises:
        ValueError: If it is not.
    """
    from mice_st.research.laboratory.equivalence import LARGEST_DIFFERENCE

    print(f"\n{'conversion':<14}  largest score difference  nDCG@10  against mask3  bytes/token  ms/query")
    for row in rows:
        change = row["ndcg@10"] - rows[0]["ndcg@10"]
        size = "-" if row["bytes_per_token"] is None else row["bytes_per_token"]
        print(
            f"{row['step']:<14}  {row['difference']:24.2e}  {row['ndcg@10']:7.4f}  {change:+13.4f}  {size:>11}"
            f"  {row['ms_per_query']:8.1f}"
        )
    difference = rows[1]["difference"]
    if difference >= LARGEST_DIFFERENCE:
        raise ValueError(f"convert: the conversion is not without loss: a score differs by {difference:.2e}")
    print(f"Without loss: the largest difference of a score is {difference:.1e}, below {LARGEST_DIFFERENCE:.0e}")


def existing_results(options: MaskOptions) -> str | None:
    """Name the results of an earlier run."""
    return existing_files(Path(options.output) / "results.json")


def saved_results(options: MaskOptions) -> str | None:
    """Name the results so far."""
    path = Path(options.output) / "results.json"
    return f"the experiments that were finished are in {path}" if path.is_file() else None
