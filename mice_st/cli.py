"""The command ``mice-st``.

A command is an entry in ``COMMANDS``: a dataclass, whose fields are its flags, and a function that takes an instance of
it. Both are named, not imported, so that a command needs only the extra that it uses.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import mean
from typing import TYPE_CHECKING, Any

from transformers import HfArgumentParser
from transformers.utils import logging

from mice_st.states.errors import StoreError

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
        "mice_st.convert_command:ConvertOptions",
        "mice_st.convert_command:run_convert",
    ),
    "train": Command(
        "train MICE, or a plain cross-encoder, on a JSON Lines file or a BEIR folder",
        "mice_st.training.recipe:TrainingRecipe",
        "mice_st.cli:run_train",
    ),
    "mine": Command(
        "make training rows with hard negatives from collections",
        "mice_st.training.mine_command:MineOptions",
        "mice_st.training.mine_command:run_mine",
    ),
    "label": Command(
        "score training rows by one or several teachers",
        "mice_st.training.labelling:LabelOptions",
        "mice_st.training.labelling:run_label",
    ),
    "encode": Command(
        "encode a corpus into a store of document states",
        "mice_st.store_commands:EncodeOptions",
        "mice_st.store_commands:run_encode",
    ),
    "store": Command(
        "look after a store of document states: mice-st store info|verify|compact PATH",
        "mice_st.store_commands:StoreOptions",
        "mice_st.store_commands:run_store",
    ),
    "rank": Command(
        "rank the documents of a file or a store for one query",
        "mice_st.rank_command:RankOptions",
        "mice_st.rank_command:run_rank",
    ),
    "evaluate": Command(
        "measure re-rankers, bi-encoders, ColBERT and BM25 on the sets of a suite",
        "mice_st.evaluation.command:EvaluateOptions",
        "mice_st.evaluation.command:run_evaluate",
    ),
    "bench": Command(
        "compare speed, memory and storage with other re-rankers, and check the targets",
        "mice_st.benchmark.plan:BenchOptions",
        "mice_st.benchmark.command:run_bench",
    ),
    "mask": Command(
        "mask a cross-encoder's interactions one by one and measure what each is worth",
        "mice_st.laboratory.command:MaskOptions",
        "mice_st.laboratory.command:run_mask",
    ),
    "trim": Command(
        "find out which interaction layers of a MICE model to keep",
        "mice_st.laboratory.trim:TrimOptions",
        "mice_st.laboratory.trim:run_trim",
    ),
    "push": Command(
        "publish a model folder on the Hub: card, verification, one commit, a tag",
        "mice_st.hub.commands:PushOptions",
        "mice_st.hub.commands:run_push",
    ),
    "verify": Command(
        "check that a folder or a Hub repository is what was published: mice-st verify FOLDER|org/name[@revision]",
        "mice_st.hub.commands:VerifyOptions",
        "mice_st.hub.commands:run_verify",
    ),
    "demo": Command(
        "convert, train, save, load and re-rank, on the documentation of the installed Python",
        "mice_st.demo:DemoOptions",
        "mice_st.demo:run_demo",
    ),
}


def run_train(recipe: TrainingRecipe) -> None:
    """Train, and print loss and nDCG@10 before and after."""
    from mice_st.training.trainer import train

    result = train(recipe)
    if int(os.environ.get("RANK", "0")) != 0:  # torchrun: the first process speaks for all
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
        options_class, function = (_load(COMMANDS[name].options), _load(COMMANDS[name].function))
        return function(_parse(name, options_class, arguments[1:])) or 0
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


def _parse(name: str, options_class: type, arguments: list[str]) -> Any:
    """Flags to the dataclass of a command."""
    arguments = list(arguments)
    named: list[str] = []
    for field_name in getattr(options_class, "POSITIONAL", ()):
        if arguments and not arguments[0].startswith("-"):
            named += [f"--{field_name}", arguments.pop(0)]
    arguments = named + arguments
    parser = HfArgumentParser(options_class, prog=f"mice-st {name}", description=COMMANDS[name].summary)  # type: ignore[arg-type]
    options, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        known = ", ".join(f"--{option.name}" for option in fields(options_class))
        raise ValueError(f"unknown flags {' '.join(unknown)}; there are {known}")
    return options


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
