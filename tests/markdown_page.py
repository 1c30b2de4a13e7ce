"""Pages of Markdown as things that run: their blocks of code, in order, and what they show as printed."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mice_st.commands import main as cli

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        language: What it is fenced as.
        text: The code.
        shown: The ``text`` block that follows it at once, which is what it prints; None without one.
    """

    language: str
    text: str
    shown: str | None


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, each with the output shown for it."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    blocks = []
    for (language, text), (following, shown) in pairwise([*found, ("", "")]):
        if language != "text":
            blocks.append(Block(language, text, shown if following == "text" else None))
    return blocks


def commands(block: Block) -> list[str]:
    """The commands of a ``sh`` block."""
    return block.text.strip().splitlines()


def run_page(page: Path, capsys: pytest.CaptureFixture[str], elsewhere: dict[str, str]) -> None:
    """Run all blocks of a page in the working folder, in order and in this process, and compare what they print with what is shown.

    Commands of mice-st are called as the command line calls them; other commands go to bash. Python blocks share their names.

    Args:
        page: The page.
        capsys: pytest's.
        elsewhere: Commands that are left out, and the tests that run them.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for block in read_blocks(page):
        capsys.readouterr()
        if block.language == "python":
            exec(compile(block.text, f"{page.name}, Python", "exec"), names)
        elif block.language == "sh":
            for command in commands(block):
                if command not in elsewhere:
                    run_command(command, capsys)
        if block.shown is not None:
            assert capsys.readouterr().out == block.shown, block.text


def run_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one line of a ``sh`` block; it has to succeed."""
    program, *arguments = shlex.split(command)
    if program == "mice-st":
        assert cli.main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)


def code_of_table(page: Path, column: str) -> list[str]:
    """Every piece of code in one column of a page's tables."""
    found: list[str] = []
    place: int | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            place = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if place is None:
            place = cells.index(column) if column in cells else -1
        elif place >= 0:
            found += TABLE_CODE.findall(cells[place])
    return found
