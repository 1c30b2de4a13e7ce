"""The command ``mice-st``.

A command is an entry in ``COMMANDS``: a dataclass, whose fields are its flags, and a function that takes an instance of
it. Both are named, not imported, so that a command needs only the extra that it uses.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import HfArgumentParser
from transformers.utils import logging

from mice_st.states.errors import StoreError
from mice_st.training.flat import flat_fields, nested_options

if TYPE_CHECKING:
    from mice_st.training.recipe import TrainingRecipe

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        summary: One line for ``mice-st --help``.
        options: ``"module:Dataclass"``; each field is a flag, its ``help`` metadata the flag's help. Fields that a class
            variable ``POSITIONAL`` names may also be given in that order without their flags.
        function: ``"module:function"``; takes an instance of the dataclass and returns nothing, or the exit status.
    """

    summary: str
    options: str
    function: str


COMMANDS = {
    "convert": Command(
        "turn a cross-encoder, an encoder or an embedding model into MICE",
        "mice_st.commands.convert:ConvertOptions",
        "mice_st.commands.convert:run_convert",
    ),
    "train": Command(
        "train MICE, or a plain cross-encoder: mice-st train RECIPE.toml [FLAGS], or all by flags",
        "mice_st.training.recipe:TrainingRecipe",
        "mice_st.commands.main:run_train",
    ),
    "mine": Command(
        "make training rows with hard negatives from collections",
        "mice_st.commands.mine:MineOptions",
        "mice_st.commands.mine:run_mine",
    ),
    "label": Command(
        "score training rows by one or several teachers",
        "mice_st.commands.label:LabelOptions",
        "mice_st.commands.label:run_label",
    ),
    "encode": Command(
        "encode a corpus into a store of document states",
        "mice_st.commands.store:EncodeOptions",
        "mice_st.commands.store:run_encode",
    ),
    "store": Command(
        "look after a store of document states: mice-st store info|verify|compact PATH",
        "mice_st.commands.store:StoreOptions",
        "mice_st.commands.store:run_store",
    ),
    "rank": Command(
        "rank the documents of a file or a store for one query",
        "mice_st.commands.rank:RankOptions",
        "mice_st.commands.rank:run_rank",
    ),
    "evaluate": Command(
        "measure re-rankers, bi-encoders, ColBERT and BM25 on the sets of a suite",
        "mice_st.commands.evaluate:EvaluateOptions",
        "mice_st.commands.evaluate:run_evaluate",
    ),
    "ablate": Command(
        "train the variants of a grid with the same data and steps, and compare them: mice-st ablate GRID.toml",
        "mice_st.research.ablation_grid:AblateOptions",
        "mice_st.research.ablation:run_ablate",
    ),
    "compare": Command(
        "test which of several evaluated systems differ by more than chance: mice-st compare RESULTS.json ...",
        "mice_st.commands.compare:CompareOptions",
        "mice_st.commands.compare:run_compare",
    ),
    "plot": Command(
        "draw quality against time and storage: mice-st plot --results RESULTS.json ... --output FOLDER",
        "mice_st.commands.plot:PlotOptions",
        "mice_st.commands.plot:run_plot",
    ),
    "submit": Command(
        "prepare and check an evaluation for the MTEB leaderboard; sends nothing by itself",
        "mice_st.commands.submit:SubmitOptions",
        "mice_st.commands.submit:run_submit",
    ),
    "bench": Command(
        "compare speed, memory and storage with other re-rankers, and check the targets",
        "mice_st.research.benchmark.plan:BenchOptions",
        "mice_st.commands.bench:run_bench",
    ),
    "mask": Command(
        "mask a cross-encoder's interactions one by one and measure what each is worth",
        "mice_st.commands.mask:MaskOptions",
        "mice_st.commands.mask:run_mask",
    ),
    "merge": Command(
        "average the weights of models that came from one start, or write a model's weights in float16",
        "mice_st.commands.merge:MergeOptions",
        "mice_st.commands.merge:run_merge",
    ),
    "trim": Command(
        "find out which interaction layers of a MICE model to keep",
        "mice_st.commands.trim:TrimOptions",
        "mice_st.commands.trim:run_trim",
    ),
    "push": Command(
        "publish a model folder on the Hub: card, verification, one commit, a tag",
        "mice_st.commands.publish:PushOptions",
        "mice_st.commands.publish:run_push",
    ),
    "verify": Command(
        "check that a folder or a Hub repository is what was published: mice-st verify FOLDER|org/name[@revision]",
        "mice_st.commands.publish:VerifyOptions",
        "mice_st.commands.publish:run_verify",
    ),
    "demo": Command(
        "re-rank the documentation of the installed Python with the released model, or (--train true) train one on it",
        "mice_st.commands.demo_options:DemoOptions",
        "mice_st.commands.demo:run_demo",
    ),
}


def run_train(recipe: TrainingRecipe) -> None:
    """Train, and print loss and nDCG@10 before and after; with several seeds, their mean and spread."""
    from mice_st.training.seeds import train_seeds
    from mice_st.training.trainer import train

    if recipe.seeds:
        seeds = train_seeds(recipe)
        if recipe.is_first_process:
            print(f"{seeds.output}: {len(seeds.figures)} seeds, the best is {seeds.best_seed}")
            for name, value in seeds.mean.items():
                print(f"{name}: {value:.4f} ± {seeds.spread[name]:.4f}")
        return
    result = train(recipe)
    if not recipe.is_first_process:  # torchrun: the first process speaks for all
        return
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    tenth = max(1, len(losses) // 10)
    print(f"{result.output}: {result.steps} steps in {result.seconds:.0f} s of training")
    print(f"loss: {mean(losses[:tenth]):.4f} in the first tenth, {mean(losses[-tenth:]):.4f} in the last")
    figures = [entry["eval_dev_ndcg@10"] for entry in result.history if "eval_dev_ndcg@10" in entry]
    if figures:
        print(f"dev nDCG@10: {figures[0]:.4f} at first, {result.best_ndcg_at_10:.4f} best (step {result.best_step})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Name of the command and its flags; those of the process where it is left out.

    Returns:
        The exit status: 0, or 2 after an error that one line on standard error explains.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from mice_st import __version__

        print(__version__)
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"mice-st: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        if name == "train" and arguments[1:] and arguments[1].endswith(".toml"):
            from mice_st.commands.recipes import run_recipe

            run_recipe(arguments[1], arguments[2:])
            return 0
        options_class, function = (load_reference(COMMANDS[name].options), load_reference(COMMANDS[name].function))
        return function(parse_flags(name, options_class, arguments[1:])) or 0
    except (ValueError, OSError, ImportError, StoreError) as error:
        logger.debug("the error in full", exc_info=True)
        print(f"mice-st {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mice-st {name}: interrupted", file=sys.stderr)
        return 130


def _usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: mice-st COMMAND [--help] [FLAGS]", "", *lines])


def parse_flags(name: str, options_class: type, arguments: list[str]) -> Any:
    """Flags to the dataclass of a command.

    Raises:
        ValueError: If a flag is unknown or its value impossible.
    """
    arguments = list(arguments)
    named: list[str] = []
    for field_name in getattr(options_class, "POSITIONAL", ()):
        if arguments and not arguments[0].startswith("-"):
            named += [f"--{field_name}", arguments.pop(0)]
    arguments = named + arguments
    nested = nested_options(options_class)
    # No abbreviations: a misspelt flag is an error, not another flag.
    parser = HfArgumentParser(
        [options_class, *nested.values()],  # type: ignore[arg-type]
        prog=f"mice-st {name}",
        description=COMMANDS[name].summary,
        allow_abbrev=False,
    )
    parser.error = _refuse  # type: ignore[method-assign]
    options, *inner, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        known = ", ".join(f"--{name}" for name in flat_fields(options_class))
        raise ValueError(f"unknown flags {' '.join(unknown)}; there are {known}")
    return replace(options, **dict(zip(nested, inner, strict=True))) if nested else options


def _refuse(message: str) -> NoReturn:
    """What argparse would print over several lines before it ends the process."""
    raise ValueError(message)


def load_reference(reference: str) -> Any:
    """What ``module:name`` stands for."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
