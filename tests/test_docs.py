"""The pages of docs/: all of their commands and Python run and print what they show, and the site builds without a dead link."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mice_st import MiceCrossEncoder
from tests.markdown_page import ROOT, code_of_table, commands, read_blocks, run_page
from tests.released_models import RELEASED

DOCS = ROOT / "docs"
# What these show is too long for a page's test, or needs a Hub: each has tests of its own.
ELSEWHERE = {
    "mice-st train examples/recipes/mice-mini.toml --data FOLDER": "tests/commands/test_recipes.py",
    "mice-st train examples/recipes/mice-mini.toml --data FOLDER --limit 2000": "tests/commands/test_recipes.py",
    "mice-st ablate examples/recipes/ablation.toml": "tests/commands/test_ablate.py",
}
# pages of the Hub: tests/hub/test_publish_page.py runs the one, tests/hub the commands of the other
HUB_PAGES = {"publish.md", "security.md"}
RUN = sorted(
    page.name for page in DOCS.glob("*.md") if read_blocks(page) and page.name not in HUB_PAGES | {"evaluate.md"}
)


@pytest.fixture
def clone(
    mice_folder: Path,
    embedding_folder: Path,
    cross_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The working folder is like a clone in which the demo has trained: tiny models lie where the pages say."""
    for name in ("mice-mini", "mice-mini-narrow"):
        shutil.copytree(mice_folder, tmp_path / "hub_cards" / name)
    shutil.copytree(embedding_folder, tmp_path / "demo_output" / "backbone")
    shutil.copytree(cross_encoder_folder, tmp_path / "demo_output" / "cross-encoder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs_and_prints_what_it_shows(name: str, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(DOCS / name, capsys, ELSEWHERE)


@pytest.mark.slow  # mteb, its mock-run included
def test_the_page_on_evaluation_runs(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mteb")
    run_page(DOCS / "evaluate.md", capsys, ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("model", RELEASED, ids=lambda model: model.name)
@pytest.mark.parametrize("name", ["rerank.md", "store.md", "migrate.md", "evaluate.md"])
def test_a_page_runs_with_a_released_model(
    name: str, model: Path, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(clone / "hub_cards" / "mice-mini")
    shutil.copytree(model, clone / "hub_cards" / "mice-mini")
    run_page(DOCS / name, capsys, ELSEWHERE)


def test_what_runs_elsewhere_stands_on_a_page() -> None:
    all_commands = {
        command
        for page in DOCS.glob("*.md")
        for block in read_blocks(page)
        if block.language == "sh"
        for command in commands(block)
    }
    assert set(ELSEWHERE) <= all_commands
    assert all((ROOT / test).exists() for test in ELSEWHERE.values())


def test_every_call_of_the_migration_table_runs(clone: Path) -> None:
    page = DOCS / "migrate.md"
    (setup,) = [block.text for block in read_blocks(page) if block.language == "python"]
    calls = code_of_table(page, "Here")
    assert len(calls) > 10
    names: dict = {}
    exec(setup, names)
    for call in calls:
        exec(call, names)
    assert isinstance(names["model"], MiceCrossEncoder)


def test_every_page_is_in_the_index_and_in_the_site() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {page.name for page in DOCS.glob("*.md")}
    assert set(config["nav"]) == pages
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [name for name in pages - {"README.md"} if f"]({name})" not in index] == []


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", str(folder / "mkdocs.yml")],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of what the site is built from."""
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def test_the_site_builds(site: Path) -> None:
    built = build(site)
    assert built.returncode == 0, built.stderr
    assert "rank documents for a query" in (site / "build" / "docs" / "index.html").read_text()


@pytest.mark.parametrize("target", ["absent.md", "store.md#absent", "/absolute.md", "../outside.md"])
def test_a_dead_link_ends_the_build(site: Path, target: str) -> None:
    with (site / "docs" / "store.md").open("a") as page:
        page.write(f"\nSee [this]({target}).\n")
    built = build(site)
    assert built.returncode != 0
    assert target.removeprefix("store.md") in built.stderr
