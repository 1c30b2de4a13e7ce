"""CPU seconds and peak memory of the command line, before and after, in turns: ``python scripts/measure_commands.py``.

The version before is a commit (``--baseline``), checked out into a temporary folder and started with the packages of this environment; its
modelling files are copied to where the installed package has them. Each command runs in a process of its own, the two versions take turns,
and medians are printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "50188ac"
DOCUMENTS = "Paris is the capital of France.\nBerlin has many museums.\nThe Seine flows through Paris.\n"
# Of the version before: the version after loads older folders too.
MODEL = Path("hub_cards") / "mice-mini"
# Name -> words behind the command. What both versions understand.
COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "a misspelt command": ["rnak"],
    "a misspelt flag": ["rank", "--qurey", "x"],
    "rank, 3 documents": ["rank", "--query", "capital of France", "--model", str(MODEL), "--documents", "texts.txt"],
}
# The last line of output is what the process used: CPU seconds, and the peak of
# the program itself; ru_maxrss would also count the process that started it.
START = """
import importlib, os, resource, sys
sys.path.insert(0, {path!r})
name = "mice_st.cli" if os.path.exists({path!r} + "/mice_st/cli.py") else "mice_st.commands.main"
try:
    status = importlib.import_module(name).main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(status, used.ru_utime + used.ru_stime, peak, sys.modules["mice_st"].__file__)
"""


def check_out(commit: str, folder: Path) -> Path:
    """The package of a commit as it would be installed, ``mice_st`` with ``modeling`` in it, and the released model."""
    paths = ["mice_st", "modeling", str(MODEL)]
    archive = subprocess.run(["git", "archive", commit, *paths], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive.stdout, check=True)
    shutil.move(folder / "modeling", folder / "mice_st" / "modeling")
    return folder


def run(package: Path, words: list[str], folder: Path) -> tuple[float, float]:
    """CPU seconds and megabytes of one command of one version.

    Raises:
        RuntimeError: If the process fails, or another version than this one answered.
    """
    ran = subprocess.run(
        [sys.executable, "-c", START.format(path=str(package)), *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ran.stdout.splitlines()
    if ran.returncode or not lines or not lines[-1].endswith(str(package / "mice_st" / "__init__.py")):
        raise RuntimeError(f"{' '.join(words)} of {package}: {ran.stdout[-500:]} {ran.stderr[-500:]}")
    _, seconds, kilobytes, _ = lines[-1].split(maxsplit=3)
    return float(seconds), int(kilobytes) / 1024


def main() -> None:
    """Measure both versions and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", default=BASELINE, help="Commit to compare with.")
    parser.add_argument("--repetitions", type=int, default=5, help="Runs of each command and version.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "before").mkdir()
        (folder / "before" / "texts.txt").write_text(DOCUMENTS, encoding="utf-8")
        after = folder / "after"  # copied too, so that both versions are found in the same way
        shutil.copytree(ROOT / "mice_st", after / "mice_st")
        shutil.copytree(ROOT / "modeling", after / "mice_st" / "modeling")
        versions = {"before": check_out(options.baseline, folder / "before"), "after": after}
        print("| command | CPU s before | after | MB before | after |\n|---|---|---|---|---|")
        for name, words in COMMANDS.items():
            measured: dict[str, list[tuple[float, float]]] = {version: [] for version in versions}
            for _ in range(options.repetitions):
                for version, package in versions.items():
                    measured[version].append(run(package, words, folder / "before"))
            seconds, megabytes = (
                [median(values[place] for values in measured[version]) for version in versions] for place in (0, 1)
            )
            print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {megabytes[0]:.0f} | {megabytes[1]:.0f} |")


if __name__ == "__main__":
    main()
