"""The command line: what it prints, what it returns, and that an error is one line."""

import dataclasses
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.convert import ConvertOptions, read_layers
from mice_st.modeling.configuration_mice import MiceConfig


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in printed
        assert command.summary in printed


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: mice-st {name}" in capsys.readouterr().out


def test_nothing_and_an_unknown_command_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["fly"]) == 2
    assert "there is no command 'fly'; there are " in capsys.readouterr().err


def test_convert_writes_a_folder_that_loads(
    embedding_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mice"
    arguments = ["--source", str(embedding_folder), "--output", str(output), "--interaction_layers", "1"]
    assert cli.main(["convert", *arguments, "--exact_match", "true", "--query-max-length", "20"]) == 0
    assert "tensors placed" in capsys.readouterr().out
    config = MiceCrossEncoder(str(output), device="cpu").mice.config
    assert (config.interaction_layers, config.exact_match, config.query_max_length) == (1, True, 20)
    assert config.pooled_residual, "a flag that is not given leaves convert's own default"


def test_convert_has_a_flag_for_every_choice() -> None:
    given = {"num_labels", "backbone_config", "cls_token_id", "sep_token_id", "pair_separators", "kwargs"}
    given |= {"interaction_layer_types", "document_layer_types"}  # those of the source's layers that are kept
    fields = set(inspect.signature(MiceConfig).parameters) - given
    assert fields <= {option.name for option in dataclasses.fields(ConvertOptions)}


@pytest.mark.parametrize(("text", "layers"), [("3", 3), ("4,5,11", [4, 5, 11]), ("2,", [2])])
def test_layers_are_a_number_or_named(text: str, layers: Any) -> None:
    assert read_layers(text) == layers


def test_layers_that_are_neither_are_refused(
    cross_encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--source", str(cross_encoder_folder), "--output", str(tmp_path), "--contextualization_layers", "2"]
    assert cli.main(["convert", *arguments, "--interaction_layers", "all"]) == 2
    assert "interaction_layers: expected a number" in capsys.readouterr().err


def test_train_writes_a_folder_and_prints_figures(
    mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "who", "positive": "people", "negatives": ["cat", "dog"]}\n' * 4)
    output = tmp_path / "trained"
    arguments = ["--model", str(mice_folder), "--train_data", str(rows), "--output", str(output), "--cpu"]
    assert cli.main(["train", *arguments, "--batch_size", "2", "--max-steps", "2"]) == 0
    assert "2 steps in" in capsys.readouterr().out
    MiceCrossEncoder(str(output), device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m", "--train_data", "absent.jsonl", "--output", "o"], "train_data: absent.jsonl is neither"),
        (["--model", "m", "--train_data", "d", "--output", "o", "--batch_size", "0"], "batch_size: must be at least 1"),
        (["--model", "m", "--train_data", "d", "--output", "o", "--bach_size", "3"], "unknown flags --bach_size 3"),
    ],
)
def test_an_error_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"mice-st train: {message}")
    assert printed.count("\n") == 1


@dataclass
class Options:
    """Flags of a command of this file."""

    how: str = field(default="", metadata={"help": "What goes wrong."})


def fail(options: Options) -> None:
    raise {"import": ImportError('pip install "mice-st[train]"'), "stop": KeyboardInterrupt(), "bug": KeyError("x")}[
        options.how
    ]


def test_a_new_command_is_an_entry_and_its_failures_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"test:Options": Options, "test:fail": fail}
    monkeypatch.setitem(cli.COMMANDS, "fail", cli.Command("fail somehow", "test:Options", "test:fail"))
    monkeypatch.setattr(cli, "load_reference", places.__getitem__)
    assert cli.main(["fail", "--how", "import"]) == 2
    assert capsys.readouterr().err == 'mice-st fail: pip install "mice-st[train]"\n'
    assert cli.main(["fail", "--how", "stop"]) == 130
    with pytest.raises(KeyError):  # a mistake of ours keeps its traceback
        cli.main(["fail", "--how", "bug"])
