"""How large the house is, and how far one ranking call goes through it: this checkout beside an earlier commit.

    python scripts/measure_house.py [--baseline COMMIT]

Each tree is measured in a fresh process of this Python, so that both run in the same environment. Functions on the path of ``rank`` are the
different functions of ``modeling/`` and ``mice_st/`` that ``sys.setprofile`` sees while mice-mini ranks three texts for a query, once warm.
Comprehensions and lambdas are told apart: newer Pythons run most of them inside the function that they stand in.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # last: in a fresh process, mice_st comes from the tree that is measured

from scripts.import_graph import import_circles, import_graph, module_files  # noqa: E402

BASELINE = "50188ac"  # the last commit before the house was cut again
MODEL = Path("hub_cards") / "mice-mini"
QUERY = "How do I split a string into words?"
TEXTS = [
    "str.split splits a string at a separator.",
    "os.path.splitext splits a path.",
    "random.shuffle shuffles a list.",
]
NOT_NAMES = {"__init__.py", "__main__.py", "py.typed", "__pycache__", "modeling"}


def measure_sources(root: Path) -> dict[str, Any]:
    """Figures that are read off the files of a checkout.

    Args:
        root: The checkout.

    Returns:
        Title -> figure.
    """
    files = module_files(root)
    figures: dict[str, Any] = {}
    for folder in ("mice_st", "modeling"):
        paths = [path for path in files.values() if path.relative_to(root).parts[0] == folder]
        lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
        largest = max(lines, key=lines.__getitem__)
        figures[f"{folder}: files"] = len(paths)
        figures[f"{folder}: lines"] = sum(lines.values())
        figures[f"{folder}: median file, lines"] = round(median(lines.values()))
        figures[f"{folder}: largest file, lines"] = f"{lines[largest]} ({largest.name})"
    figures["mice_st: names"] = sum(path.name not in NOT_NAMES for path in (root / "mice_st").iterdir())
    circles = import_circles(import_graph(files))
    figures["import circles"] = len(circles)
    figures["modules on a circle"] = sum(map(len, circles))
    modelling = [path for path in files.values() if path.relative_to(root).parts[0] == "modeling"]
    bare, annotated = map(
        sum, zip(*(count_bare_any(path.read_text(encoding="utf-8")) for path in modelling), strict=True)
    )
    figures["modeling: parameters annotated Any"] = f"{bare} of {annotated}"
    figures["Hub folder: files of code"] = len([path for path in modelling if path.name != "__init__.py"])
    return figures


def count_bare_any(source: str) -> tuple[int, int]:
    """Parameters whose annotation is ``Any`` alone, and all annotated parameters, of a file."""
    annotations = [
        argument.annotation
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in _arguments(node.args)
        if argument.annotation is not None
    ]
    return sum(ast.unparse(annotation) == "Any" for annotation in annotations), len(annotations)


def _arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (one for one in (arguments.vararg, arguments.kwarg) if one is not None)


class PathOfACall:
    """Collects the functions of some folders that run within a block.

    Args:
        folders: Only functions of files below them count.

    Attributes:
        functions: File, first line and name of each; those of comprehensions and lambdas start with ``<``.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = [f"{folder.resolve()}{os.sep}" for folder in folders]
        self._real: dict[str, str] = {}
        self.functions: set[tuple[str, int, str]] = set()

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code.co_filename not in self._real:
            self._real[code.co_filename] = os.path.realpath(code.co_filename)
        file = self._real[code.co_filename]
        if any(file.startswith(folder) for folder in self._folders):
            self.functions.add((file, code.co_firstlineno, code.co_name))

    def __enter__(self) -> PathOfACall:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *args: object) -> None:
        sys.setprofile(None)


def measure_rank(root: Path) -> dict[str, Any]:
    """Functions and files on the path of ``rank``; the process must import ``mice_st`` from this checkout."""
    from mice_st import MiceCrossEncoder

    model = MiceCrossEncoder(str(root / MODEL), device="cpu", local_files_only=True)
    model.rank(QUERY, TEXTS)
    with PathOfACall(root / "mice_st", root / "modeling") as path:
        model.rank(QUERY, TEXTS)
    named = {function for function in path.functions if not function[2].startswith("<")}
    return {
        "rank: functions": len(named),
        "rank: with comprehensions and lambdas": len(path.functions),
        "rank: files": len({file for file, _, _ in path.functions}),
    }


def measure_tree(root: Path) -> dict[str, Any]:
    """All figures of a checkout, those of ``rank`` from a fresh process.

    Raises:
        RuntimeError: If that process fails; with what it wrote.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, __file__, "--rank-of", str(root)]
    ran = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{root}: rank cannot be measured:\n{ran.stderr}")
    return measure_sources(root) | json.loads(ran.stdout.splitlines()[-1])


def extract(commit: str, folder: Path) -> None:
    """Write the package, the modelling code and the model of a commit into an empty folder, the package importable from there."""
    command = ["git", "-C", str(ROOT), "archive", commit, "mice_st", "modeling", str(MODEL)]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as content:
        content.extractall(folder, filter="data")
    (folder / "mice_st" / "modeling").symlink_to(folder / "modeling")


def copy_checkout(folder: Path) -> None:
    """Lay this checkout, with its changes, into an empty folder as ``extract`` does."""
    shutil.copytree(ROOT / "mice_st", folder / "mice_st", ignore=shutil.ignore_patterns("__pycache__", "modeling"))
    shutil.copytree(ROOT / "modeling", folder / "modeling", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / MODEL.parent).symlink_to(ROOT / MODEL.parent)
    (folder / "mice_st" / "modeling").symlink_to(folder / "modeling")


def main() -> None:
    """Print the figures before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", default=BASELINE, help="commit to compare with (default: %(default)s)")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)  # the fresh process
    options = parser.parse_args()
    if options.rank_of:
        print(json.dumps(measure_rank(Path(options.rank_of))))
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as copy:
        extract(options.baseline, Path(folder))
        before = measure_tree(Path(folder))
        copy_checkout(Path(copy))
        after = measure_tree(Path(copy))
    width = max(map(len, after))
    columns = max(map(len, (*map(str, before.values()), options.baseline)))
    print(f"{'':<{width}}  {options.baseline:>{columns}}  {'now':>{columns}}")
    for name, figure in after.items():
        print(f"{name:<{width}}  {before[name]!s:>{columns}}  {figure!s:>{columns}}")


if __name__ == "__main__":
    main()
