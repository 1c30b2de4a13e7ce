"""The command line: what it prints, what it returns, and that an error is one line."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.registry import COMMANDS, Command, load_reference

# Prints the exit status, CPU seconds, megabytes of memory and which heavy packages are there, behind what the command prints.
# The kernel's peak of this program: ru_maxrss also counts the process that started it, which here holds torch.
MEASURE = """
import resource, sys
from mice_st.commands.main import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
heavy = [name for name in ("torch", "transformers", "numpy", "huggingface_hub", "sentence_transformers") if name in sys.modules]
print(status, used.ru_utime + used.ru_stime, int(peak) / 1024, *heavy)
"""


def run_fresh(*arguments: str) -> tuple[int, float, float, list[str], str]:
    """Exit status, CPU seconds, megabytes, heavy packages and printed text of a fresh process."""
    ran = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    *printed, measured = ran.stdout.splitlines()
    status, seconds, megabytes, *heavy = measured.split()
    return int(status), float(seconds), float(megabytes), heavy, "\n".join(printed) + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["--version"], 0), (["fly"], 2), (["rank", "q", "--documnts", "d"], 2)]
)
def test_help_and_misspelt_words_are_cheap(arguments: list[str], status: int) -> None:
    got, seconds, megabytes, heavy, _ = run_fresh(*arguments)
    assert got == status
    assert heavy == []
    assert seconds < 0.8
    assert megabytes < 70


# All commands in one process: together they stay below what one may cost.
EVERY_COMMAND = """
import contextlib, io, json, sys
from mice_st.commands import main as cli, registry
printed = {}
def main(arguments):
    for name in registry.COMMANDS:
        for word in ("--help", "--outptu"):
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
                printed[f"{name} {word}"] = [cli.main([name, word]), out.getvalue()]
    print(json.dumps(printed))
    return 0
"""


def test_every_command_explains_its_flags_and_refuses_misspelt_ones_without_torch() -> None:
    code = EVERY_COMMAND + MEASURE.replace("from mice_st.commands.main import main\n", "")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, measured = ran.stdout.splitlines()
    _, seconds, megabytes, *heavy = measured.split()
    assert heavy == []
    assert (float(seconds) < 0.8, float(megabytes) < 70) == (True, True)
    texts = json.loads(printed)
    for name in COMMANDS:
        status, text = texts[f"{name} --help"]
        assert status == 0
        assert text.startswith(f"usage: mice-st {name}")
        assert max(map(len, text.splitlines())) <= 80
        status, text = texts[f"{name} --outptu"]
        assert status == 2
        assert text.startswith(f"mice-st {name}: there is no flag --outptu; ")
        assert text.count("\n") == 1


def test_importing_the_package_loads_no_torch_until_a_name_is_used() -> None:
    code = (
        "import sys, mice_st, mice_st.commands, mice_st.commands.main\n"
        "assert mice_st.__version__ and set(mice_st.__all__) <= set(dir(mice_st))\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
        "from mice_st import MiceConfig\n"
        "from transformers import AutoConfig\n"
        "assert AutoConfig.for_model('mice').__class__ is MiceConfig\n"
        "assert not hasattr(mice_st, 'MiceConfiguration')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "statement",
    [
        "import mice_st.modeling.modeling_mice",
        "from mice_st.loading import load_model; load_model(sys.argv[1], device='cpu')",
    ],
)
def test_whoever_touches_mice_has_its_classes_registered(statement: str, mice_folder: Path) -> None:
    code = (
        f"import sys\n{statement}\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "assert type(Auto.from_pretrained(sys.argv[1])).__module__ == 'mice_st.modeling.modeling_mice'\n"
    )
    subprocess.run([sys.executable, "-c", code, str(mice_folder)], check=True)


@pytest.mark.parametrize(
    "start",
    [
        ["-m", "mice_st"],
        ["-m", "mice_st.commands.main"],
        ["-c", "import runpy; runpy.run_module('mice_st', run_name='__main__')"],
    ],
)
def test_the_package_runs_as_a_module(start: list[str]) -> None:
    """``torchrun -m mice_st`` starts its processes as ``python -m`` does."""
    ran = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == "0.1.0\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for name, command in COMMANDS.items():
        assert f"  {name}" in printed
        assert command.summary in " ".join(printed.split())


def test_nothing_and_an_unknown_command_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["fly"]) == 2
    assert "there is no command 'fly'; there are " in capsys.readouterr().err
    assert cli.main(["ranc"]) == 2
    assert "(did you mean rank or train?)" in capsys.readouterr().err


def test_train_writes_a_folder_and_prints_figures(
    mice_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "who", "positive": "people", "negatives": ["cat", "dog"]}\n' * 4)
    output = tmp_path / "trained"
    arguments = ["--model", str(mice_folder), "--train-data", str(rows), "--output", str(output), "--cpu"]
    assert cli.main(["train", *arguments, "--batch_size", "2", "--max-steps", "2"]) == 0
    assert "2 steps in" in capsys.readouterr().out
    MiceCrossEncoder(str(output), device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "o/m", "--train_data", "absent.jsonl", "--output", "o"], "train_data: absent.jsonl is neither"),
        (["--model", "m", "--train-data", "d", "--output", "o", "--batch-size", "0"], "batch_size: must be at least 1"),
        (["--model", "m", "--train-data", "d", "--output", "o", "--bach-size", "3"], "there is no flag --bach-size;"),
        (
            ["--model", "o/m", "--train-data", "d", "--output", "o", "--report-to", "wandb"],
            "report_to: wandb needs the",
        ),
        (["--train-data", "d"], "missing: --model, --output;"),
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


def saved(options: Options) -> str:
    return f"all but {options.how} is saved"


def test_a_new_command_is_an_entry_and_its_failures_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"test:Options": Options, "test:fail": fail, "test:saved": saved}
    command = Command("Fail somehow.", "test:Options", "test:fail", saved="test:saved")
    monkeypatch.setitem(COMMANDS, "fail", command)
    for module in ("registry", "parser", "checks"):
        monkeypatch.setattr(f"mice_st.commands.{module}.load_reference", places.__getitem__)
    assert cli.main(["fail", "--how", "import"]) == 2
    assert capsys.readouterr().err == 'mice-st fail: pip install "mice-st[train]"\n'
    assert cli.main(["fail", "--how", "stop"]) == 130
    assert capsys.readouterr().err == "mice-st fail: interrupted; all but stop is saved\n"
    with pytest.raises(KeyError):  # a mistake of ours keeps its traceback
        cli.main(["fail", "--how", "bug"])


def test_every_reference_of_the_registry_exists() -> None:
    for command in COMMANDS.values():
        for reference in (command.function, command.recipe, command.recipe_saved, command.overwrites, command.saved):
            assert reference is None or callable(load_reference(reference))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.2, 0.8, 2.0, 4.0, 9.0])
def test_ctrl_c_is_one_line_at_any_moment(delay: float, mice_folder: Path, tmp_path: Path) -> None:
    """Start-up, imports of torch and transformers, loading, encoding: wherever it comes."""
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(f"the river of berlin {number}" for number in range(200_000)))
    store = tmp_path / "states.sqlite"
    command = ["encode", "--model", str(mice_folder), "--documents", str(documents), "--store", str(store)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mice_st", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    while not _is_past_start(process.pid):  # before it, Ctrl-C is Python's own
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    # -2 where Ctrl-C met an exec() of a string, as in dataclasses: CPython then ends itself by the signal. A shell shows 130 for both.
    assert process.returncode in (130, -signal.SIGINT), printed
    # Beside libraries' own words and a progress bar that has shown itself by then.
    others = ("torchao", "pytree", "Documents:")
    lines = [line for line in printed.splitlines() if line.strip() and not any(word in line for word in others)]
    assert len(lines) == 1, printed
    assert lines[0].startswith("mice-st encode: interrupted")
    if store.exists():
        assert "the same command encodes the rest" in lines[0]


def _is_past_start(pid: int) -> bool:
    """Whether a process has loaded Python's own libraries: it maps the regular-expression or the JSON extension early."""
    maps = Path(f"/proc/{pid}/maps")
    return not maps.exists() or "lib-dynload" in maps.read_text()
