"""docs/publish.md, against the Hub on this machine: all of its commands run, and leave what the page says."""

import shutil
from pathlib import Path

import pytest
import yaml

from mice_st import MiceCrossEncoder
from mice_st.hub import verification
from mice_st.hub.card_facts import CardFacts
from tests import loopback_repositories
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import WRITER
from tests.markdown_page import ROOT, read_blocks, run_page

PAGE = ROOT / "docs" / "publish.md"


def test_the_page_runs(
    mice_folder: Path,
    mice: MiceCrossEncoder,
    online: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run_doors(source: str, revision: str | None, pairs: list[list[str]], *cache: Path) -> dict[str, list[float]]:
        """At once and in this process: tests/hub/test_push.py and test_hub_clients.py start fresh ones."""
        return {"CrossEncoder": mice.predict([(query, document) for query, document in pairs]).tolist()}

    monkeypatch.setattr(verification, "run_doors", run_doors)
    monkeypatch.setitem(loopback_repositories.NAMESPACES, WRITER, {"your-name"})
    shutil.copytree(mice_folder, tmp_path / "hub_cards" / "mice-mini")
    monkeypatch.chdir(tmp_path)
    run_page(PAGE, capsys, {})
    repository = online["your-name/your-model"]
    card = repository.commits[repository.tags["v1.0.0"]]["README.md"].content.decode()
    assert "A small re-ranker." in card
    assert "English only." in card


def test_the_fields_of_its_example_exist() -> None:
    (example,) = [block.text for block in read_blocks(PAGE) if block.language == "yaml"]
    assert set(yaml.safe_load(example)) <= set(CardFacts.__dataclass_fields__)
