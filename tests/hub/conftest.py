"""A Hub on this machine, and huggingface_hub pointed at it within this process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from mice_st.hub.files import copy_hub_files
from mice_st.hub.verification import write_record
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import WRITER
from tests.released_models import TINY


@pytest.fixture(scope="session")
def recorded_folder(mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mice_folder`` with its record. Shared: a test that spoils it takes ``folder``."""
    folder = tmp_path_factory.mktemp("recorded") / "mice"
    copy_hub_files(mice_folder, folder)
    write_record(folder)
    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest, recorded_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model with its record, or of the released model that ``MODELS`` names."""
    source = getattr(request, "param", TINY)
    return Path(shutil.copytree(recorded_folder if source == TINY else source, tmp_path / "mice"))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """Empty, alone, and gone afterwards."""
    with LoopbackHub() as started:
        yield started


@pytest.fixture
def online(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """This process asks the loopback Hub, with a token that may write, and caches in an empty folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once, with the endpoint of that moment
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return hub
