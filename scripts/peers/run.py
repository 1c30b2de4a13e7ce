"""Run transformers' common model tests on MICE: ``python scripts/peers/run.py [bert roberta ...]``, or ``make test-peers``.

The tests are those of the version in constraints.txt, from its source distribution; they are downloaded once, into
build/peers. Failures that ``docs/peers.md`` explains are expected. Any other one, and a row of that page whose test does not
fail any more, end the command with exit status 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "peers"
PACKAGES, RESULTS = BUILD / "site", BUILD / "results.xml"
TESTS = Path(__file__).with_name("test_mice_common.py")
TABLE = ROOT / "docs" / "peers.md"
# Type of backbone -> its class in TESTS.
CLASSES = {
    "bert": "BertTest",
    "roberta": "RobertaTest",
    "xlm-roberta": "XlmRobertaTest",
    "electra": "ElectraTest",
    "modernbert": "ModernBertTest",
}
# What the tests import and the set-up does not have. peft: its tests with a frozen backbone are skipped without it.
REQUIREMENTS = ["parameterized==0.9.0", "peft==0.21.2"]
# The source distribution leaves out the sub-folders of tests/. Of these three modules the common tests take a name each:
# tests of exporting and of generating text, and the fields of configs without sub-configs, of which MICE's is none.
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


@dataclass
class Outcome:
    """Names of one backbone's tests, by how they ended."""

    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{len(self.passed)} passed, {len(self.skipped)} skipped, {len(self.failed)} failed"


def pip(*arguments: str | Path) -> None:
    """Run pip, which says by itself what went wrong."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def pinned_version() -> str:
    """The version of transformers in constraints.txt.

    Raises:
        ValueError: If another one is installed: its tests would be held against code of another version.
    """
    pinned = re.search(r"^transformers==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    if pinned != version("transformers"):
        raise ValueError(f"constraints.txt has transformers {pinned}, and {version('transformers')} is installed.")
    return pinned


def fetch_tests(release: str) -> Path:
    """The folder of a release's ``tests``, after its first download."""
    folder = BUILD / f"transformers-{release}"
    if not (folder / "tests" / "__init__.py").exists():
        options = ["--no-deps", "--no-binary", "transformers", "--no-build-isolation", "--dest", BUILD]
        pip("download", *options, f"transformers=={release}")
        with tarfile.open(BUILD / f"{folder.name}.tar.gz") as archive:
            inside = [member for member in archive if member.name.startswith(f"{folder.name}/tests/")]
            archive.extractall(BUILD, inside, filter="data")
        for name, text in STAND_INS.items():
            path = folder / "tests" / name
            path.parent.mkdir(exist_ok=True)
            path.with_name("__init__.py").touch()
            path.write_text(text)
        (folder / "tests" / "__init__.py").touch()  # last: a broken download starts again
    return folder


def run_tests(folder: Path, backbones: list[str]) -> None:
    """Run pytest, away from this repository's own ``tests`` and settings, and leave RESULTS."""
    paths = [str(folder), str(PACKAGES), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options = ["-c", os.devnull, f"--rootdir={TESTS.parent}", "--import-mode=importlib", "-p", "no:cacheprovider"]
    options += ["-n", "auto", "--quiet", "--tb=short", "--disable-warnings", "-r", "N", f"--junitxml={RESULTS}"]
    tests = [f"{TESTS}::{CLASSES[backbone]}" for backbone in backbones]
    RESULTS.unlink(missing_ok=True)
    with (BUILD / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "pytest", *options, *tests]
        status = subprocess.run(command, cwd=BUILD, env=os.environ | settings, stdout=log, check=False).returncode
    if status not in (0, 1):  # 1: some tests failed
        raise SystemExit(f"pytest ended with status {status}; see {BUILD / 'log.txt'}.")


def read_results() -> tuple[dict[str, Outcome], Counter[str]]:
    """The outcome of each test class, and how often each reason to skip a test was given.

    A test of which one sub-test fails has failed; it was skipped where that is all that it says.
    """
    outcomes: dict[str, Outcome] = {}
    reasons: Counter[str] = Counter()
    tests: dict[tuple[str, str], list[ElementTree.Element]] = {}
    for case in ElementTree.parse(RESULTS).iter("testcase"):
        tests.setdefault((case.get("classname", "").rpartition(".")[2], case.get("name", "")), []).append(case)
    for (group, name), cases in tests.items():
        outcome = outcomes.setdefault(group, Outcome())
        skips = [case.find("skipped") for case in cases]
        if any(case.find(kind) is not None for case in cases for kind in ("failure", "error")):
            outcome.failed.add(name)
        elif all(skip is not None for skip in skips):
            outcome.skipped.add(name)
            reasons[skips[0].get("message", "")] += 1
        else:
            outcome.passed.add(name)
    return outcomes, reasons


def explained_failures() -> dict[str, set[str]]:
    """Backbone -> names of the tests that the first table of docs/peers.md says fail."""
    explained: dict[str, set[str]] = {backbone: set() for backbone in CLASSES}
    for test, backbones in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE):
        for backbone in CLASSES if backbones.strip() == "all" else re.split(r",\s*", backbones.strip()):
            explained[backbone].add(test)
    return explained


def main() -> None:
    """Run, print one line for each backbone and the names below it, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*", help=f"any of {', '.join(CLASSES)}; all of them where none is named")
    backbones = parser.parse_args().backbones or list(CLASSES)
    if unknown := set(backbones) - set(CLASSES):
        parser.error(f"unknown backbones {sorted(unknown)}; known: {', '.join(CLASSES)}.")
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = fetch_tests(pinned_version())
    if not PACKAGES.exists():
        pip("install", "--target", PACKAGES, "--no-deps", *REQUIREMENTS)
    run_tests(folder, backbones)
    outcomes, reasons = read_results()
    explained, is_bad = explained_failures(), False
    for backbone in backbones:
        outcome = outcomes[CLASSES[backbone]]
        print(f"{backbone}: {outcome}")
        for test in sorted(outcome.failed):
            print(f"  {test}" + ("" if test in explained[backbone] else ": NOT EXPLAINED in docs/peers.md"))
        for test in sorted(explained[backbone] - outcome.failed):
            print(f"  {test}: does not fail any more; take it out of docs/peers.md")
        is_bad |= outcome.failed != explained[backbone]
    print("Skipped because:")
    for reason, times in reasons.most_common():
        print(f"  {times:3d}  {reason}")
    print(f"Tracebacks: {(BUILD / 'log.txt').relative_to(ROOT)}")
    sys.exit(is_bad)


if __name__ == "__main__":
    main()
