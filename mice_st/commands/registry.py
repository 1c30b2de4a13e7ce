"""Which commands there are. An entry names a command's options and its functions, so that reading this table imports none of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        summary: One sentence for ``mice-st --help``.
        options: ``"module:Dataclass"``; each field is a flag, see ``parser``. The module imports nothing heavy.
        function: ``"module:function"``; takes an instance of the dataclass and returns nothing, or the exit status.
        notes: Sentences for the command's own help, such as what happens to output that exists.
        recipe: ``"module:function"`` that runs a TOML file given in place of flags; takes its path and the other words.
        overwrites: ``"module:function"`` that takes the options and returns the path of something that the command would overwrite, or
            None. A command that has it has the flag ``--overwrite``.
        recipe_saved: As ``saved``, for a recipe file: takes its path and the other words.
        saved: ``"module:function"`` that takes the options and says, in a sentence, what an interrupted run has saved and how to go on, or
            returns None.
    """

    summary: str
    options: str
    function: str
    notes: str = ""
    recipe: str | None = None
    recipe_saved: str | None = None
    overwrites: str | None = None
    saved: str | None = None


def load_reference(reference: str) -> Any:
    """Import what ``module:name`` stands for."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


REFUSES = "Output that exists is refused without --overwrite."
GOES_ON = "The same command again goes on where an earlier one was interrupted."

COMMANDS = {
    "convert": Command(
        "Turn a cross-encoder, an encoder or an embedding model into MICE.",
        "mice_st.commands.convert:ConvertOptions",
        "mice_st.commands.convert:run_convert",
        REFUSES,
        overwrites="mice_st.commands.checks:existing_folder",
    ),
    "train": Command(
        "Train MICE, a plain cross-encoder or ColBERT, by flags or from a recipe file.",
        "mice_st.training.recipe:TrainingRecipe",
        "mice_st.commands.train:run_train",
        "With RECIPE.toml, flags take the place of what the file says, in each step that has such a flag; --data FOLDER names the folder of "
        "its collections, --output FOLDER that of everything it makes. Steps that are done are not done again, and a step that was "
        "interrupted goes on. Without a file, --resume goes on from the last checkpoint; an output folder that holds a model is refused "
        "without --overwrite, and one that holds checkpoints always.",
        recipe="mice_st.commands.recipes:run_recipe",
        recipe_saved="mice_st.commands.recipes:saved_steps",
        overwrites="mice_st.commands.train:existing_model",
        saved="mice_st.commands.train:saved_checkpoint",
    ),
    "mine": Command(
        "Make training rows with hard negatives from collections.",
        "mice_st.commands.mine:MineOptions",
        "mice_st.commands.mine:run_mine",
        f"{GOES_ON} {REFUSES}",
        overwrites="mice_st.commands.checks:existing_file",
        saved="mice_st.commands.checks:saved_parts",
    ),
    "label": Command(
        "Score training rows by one or several teachers.",
        "mice_st.commands.label:LabelOptions",
        "mice_st.commands.label:run_label",
        f"{GOES_ON} {REFUSES}",
        overwrites="mice_st.commands.checks:existing_file",
        saved="mice_st.commands.checks:saved_parts",
    ),
    "encode": Command(
        "Encode documents into a store of document states.",
        "mice_st.commands.encode:EncodeOptions",
        "mice_st.commands.encode:run_encode",
        "A store that exists is added to: documents that are new or have changed are encoded, all others stay as they are. The same command "
        "again therefore goes on where an earlier one was interrupted. A store that another model made is refused.",
        saved="mice_st.commands.encode:saved_documents",
    ),
    "store": Command(
        "Look after a store of document states: inspect, check, mend, change, move and copy it.",
        "mice_st.commands.store:StoreOptions",
        "mice_st.commands.store:run_store",
        "delete needs --ids; sync --documents; migrate --model, and may have --codec; backup --output; restore --copy; index may have --tokenizer, or --ann "
        f"or --no-ann; repair and sync may have --model. {GOES_ON}",
        saved="mice_st.commands.store:saved_work",
    ),
    "rank": Command(
        "Rank the documents of a file or a store for one query.",
        "mice_st.commands.rank:RankOptions",
        "mice_st.commands.rank:run_rank",
    ),
    "evaluate": Command(
        "Measure re-rankers, bi-encoders, ColBERT and BM25 on the sets of a suite.",
        "mice_st.commands.evaluate:EvaluateOptions",
        "mice_st.commands.evaluate:run_evaluate",
        "Figures are cached: the same command again, or one with further models, measures only what is missing, and renews the output. Output "
        "that holds other systems, another suite or other settings is refused without --overwrite.",
        overwrites="mice_st.commands.evaluate:existing_results",
        saved="mice_st.commands.evaluate:saved_figures",
    ),
    "ablate": Command(
        "Train the variants of a grid with the same data and steps, and compare them.",
        "mice_st.commands.ablation_grid:AblateOptions",
        "mice_st.commands.ablate:run_ablate",
        f"{GOES_ON} Variants that were made with other fields are refused.",
        saved="mice_st.commands.ablation_grid:saved_variants",
    ),
    "compare": Command(
        "Test which of several evaluated systems differ by more than chance.",
        "mice_st.commands.compare:CompareOptions",
        "mice_st.commands.compare:run_compare",
        REFUSES,
        overwrites="mice_st.commands.checks:existing_file",
    ),
    "plot": Command(
        "Draw quality against time and against storage.",
        "mice_st.commands.plot:PlotOptions",
        "mice_st.commands.plot:run_plot",
        REFUSES,
        overwrites="mice_st.commands.plot:existing_pictures",
    ),
    "submit": Command(
        "Prepare and check an evaluation for the MTEB leaderboard.",
        "mice_st.commands.submit:SubmitOptions",
        "mice_st.commands.submit:run_submit",
        "Sends nothing without --no-dry-run. An output folder that holds results is always refused.",
    ),
    "bench": Command(
        "Compare speed, memory and storage with other re-rankers, and check the targets.",
        "mice_st.research.benchmark.options:BenchOptions",
        "mice_st.commands.bench:run_bench",
        REFUSES,
        overwrites="mice_st.commands.bench:existing_reports",
    ),
    "mask": Command(
        "Mask a cross-encoder's interactions one by one and measure what each is worth.",
        "mice_st.commands.mask:MaskOptions",
        "mice_st.commands.mask:run_mask",
        "Results are written after each experiment. Results that exist are refused without --overwrite.",
        overwrites="mice_st.commands.mask:existing_results",
        saved="mice_st.commands.mask:saved_results",
    ),
    "merge": Command(
        "Average the weights of models that came from one start, or write weights in float16.",
        "mice_st.commands.merge:MergeOptions",
        "mice_st.commands.merge:run_merge",
        REFUSES,
        overwrites="mice_st.commands.checks:existing_folder",
    ),
    "trim": Command(
        "Find out which interaction layers of a MICE model to keep.",
        "mice_st.commands.trim:TrimOptions",
        "mice_st.commands.trim:run_trim",
        REFUSES,
        overwrites="mice_st.commands.checks:existing_folder",
    ),
    "push": Command(
        "Publish a model folder on the Hub: card, verification, one commit, a tag.",
        "mice_st.commands.push:PushOptions",
        "mice_st.commands.push:run_push",
        "An output folder that holds files is always refused: what lies in it would be published.",
    ),
    "verify": Command(
        "Check that a folder or a Hub repository is what was published.",
        "mice_st.commands.verify:VerifyOptions",
        "mice_st.commands.verify:run_verify",
    ),
    "demo": Command(
        "Re-rank the documentation of the installed Python, or train a model on it.",
        "mice_st.commands.demo_options:DemoOptions",
        "mice_st.commands.demo:run_demo",
        "What an earlier demo wrote is replaced. Any other folder with files in it is refused without --overwrite.",
        overwrites="mice_st.commands.demo_options:existing_folder",
    ),
}
