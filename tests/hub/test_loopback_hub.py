"""The loopback Hub against huggingface_hub itself: it answers as its clients expect."""

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import READER, WRITER

WEIGHTS = bytes(range(256)) * 2000


def commit(api: HfApi, **files: bytes) -> str:
    operations = [CommitOperationAdd(path.replace("__", "."), content) for path, content in files.items()]
    return api.create_commit("org/model", operations, commit_message="files").oid


@pytest.fixture
def api(online: LoopbackHub) -> HfApi:
    api = HfApi()
    api.create_repo("org/model")
    return api


def test_a_commit_with_small_and_large_files_comes_back_whole(api: HfApi, online: LoopbackHub) -> None:
    oid = commit(api, config__json=b"{}", model__safetensors=WEIGHTS)
    assert any(request.startswith("PUT /lfs-upload/") for request in online.requests)
    assert api.repo_info("org/model").sha == oid
    folder = Path(snapshot_download("org/model"))
    assert folder.name == oid
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*")} == {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
    }


def test_what_has_not_changed_is_not_uploaded_again(api: HfApi, online: LoopbackHub) -> None:
    first = commit(api, config__json=b"{}", model__safetensors=WEIGHTS)
    online.requests.clear()
    second = commit(api, config__json=b'{"a": 1}', model__safetensors=WEIGHTS)
    assert second != first
    assert not any("lfs-upload" in request for request in online.requests)
    assert {file.path for file in api.list_repo_tree("org/model", recursive=True)} == {  # type: ignore[union-attr]
        ".gitattributes",
        "config.json",
        "model.safetensors",
    }


def test_branches_tags_and_commits_are_revisions(api: HfApi) -> None:
    first = commit(api, config__json=b"1")
    api.create_tag("org/model", tag="v1")
    api.create_branch("org/model", branch="next", revision=first)
    api.create_commit("org/model", [CommitOperationDelete("config.json")], commit_message="empty", revision="next")
    for revision in ("v1", "main", first):
        assert Path(api.hf_hub_download("org/model", "config.json", revision=revision)).read_bytes() == b"1"
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("org/model", "config.json", revision="next")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("org/model", "config.json", revision="v2")
    assert [ref.name for ref in api.list_repo_refs("org/model").tags] == ["v1"]
    with pytest.raises(HfHubHTTPError, match="already exists"):
        api.create_tag("org/model", tag="v1")


def test_a_stale_parent_is_refused_and_changes_nothing(api: HfApi, online: LoopbackHub) -> None:
    stale = api.repo_info("org/model").sha
    head = online["org/model"].change("main", {"theirs.txt": b"x"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit("org/model", [CommitOperationAdd("a", b"a")], commit_message="late", parent_commit=stale)
    assert online["org/model"].branches["main"] == head


def test_who_may_see_read_and_write(api: HfApi, online: LoopbackHub, tmp_path: Path) -> None:
    commit(api, config__json=b"{}")
    nobody, reader = HfApi(token=False), HfApi(token=READER)
    with pytest.raises(HfHubHTTPError, match="403"):
        reader.create_commit("org/model", [CommitOperationAdd("a", b"a")], commit_message="no")
    assert Path(nobody.hf_hub_download("org/model", "config.json")).read_bytes() == b"{}"
    online["org/model"].gated = True
    for api_ in (nobody, reader):
        with pytest.raises(GatedRepoError, match="is restricted"):
            api_.hf_hub_download("org/model", "config.json", cache_dir=tmp_path)
    HfApi(token=WRITER).hf_hub_download("org/model", "config.json", cache_dir=tmp_path)
    online["org/model"].private = True
    for api_ in (nobody, reader):
        with pytest.raises(RepositoryNotFoundError):
            api_.repo_info("org/model")


def test_a_broken_download_goes_on_where_it_stopped(api: HfApi, online: LoopbackHub) -> None:
    commit(api, model__safetensors=WEIGHTS)
    online.breaks_after["model.safetensors"] = 100_000
    assert Path(api.hf_hub_download("org/model", "model.safetensors")).read_bytes() == WEIGHTS
    assert sum(request.startswith("GET /lfs-content/") for request in online.requests) == 2


def test_ranges_are_exact(api: HfApi, online: LoopbackHub) -> None:
    commit(api, config__json=b"0123456789")
    url = f"{online.url}/org/model/resolve/main/config.json"
    with urlopen(Request(url, headers={"Range": "bytes=3-5"})) as answer:
        assert (answer.status, answer.read(), answer.headers["Content-Range"]) == (206, b"345", "bytes 3-5/10")
    with urlopen(Request(url, headers={"Range": "bytes=7-"})) as answer:
        assert answer.read() == b"789"


def test_an_unknown_route_is_an_error(online: LoopbackHub) -> None:
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{online.url}/api/weather")
