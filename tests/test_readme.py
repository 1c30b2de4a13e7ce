"""The README, tried as a new user would: every Python block and every command in it runs and prints what it shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mice_st import convert
from mice_st.demo import find_backbone

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# These have tests of their own; here they would take minutes.
ELSEWHERE = {
    "make demo": "tests/test_demo.py",
    "mice-st bench --quick --output bench.json": "tests/benchmark",
    "mice-st mask --model demo_output/cross-encoder --queries 20 --top_k 20 --convert true": "tests/masking",
    "mice-st push --model demo_output/model --repo your-name/your-model --dry_run true": "tests/hub/test_push.py",
}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's blocks of one language, in order."""
    return [text for kind, text in BLOCK.findall(README) if kind == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a user who has just run the demo; the model is not trained, which changes scores only."""
    folder = tmp_path_factory.mktemp("user")
    model, _ = convert(find_backbone(), interaction_layers=2, match_residual=True)
    model.save(str(folder / "demo_output" / "model"))
    shutil.copytree(find_backbone(), folder / "demo_output" / "backbone")
    return folder


def run(arguments: list[str], folder: Path) -> str:
    """Run as the user would, in the user's folder."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HOME": str(folder / "cache")}
    process = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def without_scores(text: str) -> list[str]:
    """Lines with their leading scores left out: those of the README are of the trained model."""
    return [re.sub(r"^-?\d+\.\d+\s+", "", line) for line in text.strip().splitlines()]


def test_python_blocks_print_what_the_readme_shows(folder: Path) -> None:
    script = "\n".join(blocks("python"))
    shown = "\n".join(text.strip() for text in blocks("text"))
    assert without_scores(run([sys.executable, "-c", script], folder)) == without_scores(shown)


def test_load_and_rank_stand_in_the_first_forty_lines() -> None:
    start = "\n".join(README.splitlines()[:40])
    assert "MiceCrossEncoder(" in start
    assert ".rank(" in start
    assert "```text" in start


def test_shell_blocks_run(folder: Path) -> None:
    commands = [line for text in blocks("sh") for line in text.strip().splitlines()]
    mine = [command for command in commands if command not in ELSEWHERE]
    assert set(commands) - set(mine) <= set(ELSEWHERE)
    output = run(["bash", "-euo", "pipefail", "-c", "\n".join(mine)], folder)
    assert "Paris is the capital of France." in output


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
