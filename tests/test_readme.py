"""The README, tried as a new user would: every Python block and every command in it runs and prints what it shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from mice_st.data.wheels import find_backbone
from mice_st.loading import DEFAULT_MODEL, HUB_CARDS
from tests.markdown_page import commands, read_blocks

ROOT = Path(__file__).parent.parent
# These have tests of their own; here they would take minutes.
ELSEWHERE = {
    "make demo": "tests/commands/test_demo.py",
    "mice-st mask --model demo_output/cross-encoder --queries 20 --top-k 20 --convert": "tests/research/masking",
    "mice-st demo --train": "tests/commands/test_demo.py",
    "mice-st push --model hub_cards/mice-mini --repo your-name/your-model --dry-run": "tests/hub/test_push.py",
}
# Rows of the tables of quality -> systems in the evaluations' files.
MEASURED = {
    "BM25": "bm25",
    "bi-encoder (all-MiniLM-L6-v2)": "all-MiniLM-L6-v2",
    "cross-encoder, same collections": "cross-encoder-teacher",
    "ColBERT, same rows and steps": "colbert",
    **{
        f"`{name}`, {codec} states": f"{name}@{codec}"
        for name in ("mice-mini", "mice-mini-narrow")
        for codec in ("fp16", "int8", "int4")
    },
}
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(ROOT / "README.md")


@pytest.fixture(scope="module")
def folder(released_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone's folder like that of a user who has just run the demo."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "hub_cards").mkdir()
    (folder / "hub_cards" / DEFAULT_MODEL).symlink_to(released_folder)
    if released_folder.parent != HUB_CARDS:
        (folder / DEFAULT_MODEL).symlink_to(released_folder)  # what commands take in place of the released model
    shutil.copytree(find_backbone(), folder / "demo_output" / "backbone")
    return folder


def run(arguments: list[str], folder: Path) -> str:
    """Run as the user would, in the user's folder."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HOME": str(folder / "cache")}
    process = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def apart(text: str) -> tuple[list[str], list[float]]:
    """Lines with their leading scores left out, and the scores."""
    lines = text.strip().splitlines()
    leading = re.compile(r"^(-?\d+\.\d+)\s+")
    return [leading.sub("", line) for line in lines], [
        float(found[1]) for line in lines if (found := leading.match(line))
    ]


def test_python_blocks_print_what_the_readme_shows(folder: Path, released_folder: Path) -> None:
    python = [block for block in BLOCKS if block.language == "python"]
    script = "\n".join(block.text for block in python)
    shown, shown_scores = apart("\n".join(block.shown.strip() for block in python if block.shown is not None))
    printed, scores = apart(run([sys.executable, "-c", script], folder))
    assert printed == shown
    assert len(scores) == len(shown_scores) > 0
    if released_folder.parent == HUB_CARDS:  # the README's scores are of the trained model
        assert scores == pytest.approx(shown_scores, abs=0.02)


def test_load_and_rank_stand_in_the_first_forty_lines() -> None:
    start = "\n".join(README.splitlines()[:40])
    assert "MiceCrossEncoder(" in start
    assert ".rank(" in start
    assert "```text" in start


def test_shell_blocks_run(folder: Path) -> None:
    stated = [command for block in BLOCKS if block.language == "sh" for command in commands(block)]
    mine = [command for command in stated if command not in ELSEWHERE]
    assert set(ELSEWHERE) <= {*stated}
    output = run(["bash", "-euo", "pipefail", "-c", "\n".join(mine)], folder)
    assert "Paris is the capital of France." in output


@pytest.mark.parametrize(
    ("title", "files"), [("nDCG@10", ["dev.json"]), ("nDCG@10, more queries", ["in_domain.json", "all.json"])]
)
def test_the_tables_of_quality_show_what_was_measured(title: str, files: list[str]) -> None:
    measured: dict[str, dict[str, str]] = {}
    for file in files:
        results = json.loads((HUB_CARDS / DEFAULT_MODEL / "evaluation" / file).read_text(encoding="utf-8"))
        queries = {entry["name"]: f" ({entry['queries']:,})" for entry in results["sets"]}
        only_codec, *others = results["options"]["codecs"]
        for system in results["systems"]:
            # One codec alone is not part of a system's name.
            is_named = system["kind"] != "mice" or others
            figures = measured.setdefault(system["name"] if is_named else f"{system['name']}@{only_codec}", {})
            for name, figure in {**system["sets"], **system["groups"]}.items():
                column = name + queries[name] if len(files) > 1 and name in queries else name
                figures[column] = f"{figure['ndcg@10']:.3f}".removeprefix("0")
    lines = README[README.index(f"| {title} | ") :].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in takewhile(bool, lines))
    columns = [column.removeprefix("mean ") for column in header[1:]]
    shown = {MEASURED[label]: dict(zip(columns, cells, strict=True)) for label, *cells in rows}
    assert shown == {name: {column: figures[column] for column in columns} for name, figures in measured.items()}


def test_architecture_picture_is_the_scripts_own(tmp_path: Path) -> None:
    script = (ROOT / "scripts" / "draw_architecture.py").read_text()
    name = tmp_path / "scripts" / "draw_architecture.py"
    name.parent.mkdir()
    name.write_text(script)
    subprocess.run([sys.executable, str(name)], check=True)
    drawn = (tmp_path / "docs" / "architecture.svg").read_text()
    assert drawn == (ROOT / "docs" / "architecture.svg").read_text()


def test_every_local_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
