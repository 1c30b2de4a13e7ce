"""What a push puts on the Hub, and what it refuses. The Hub is on this machine; its clients are the real ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.files import read_json
from mice_st.hub import verification
from mice_st.hub.files import VERIFICATION_FILE, copy_hub_files, describe_files
from mice_st.hub.record import read_record
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import READER

Push = Callable[..., int]


@pytest.fixture
def known_scores(recorded_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The fresh process answers at once, with the recorded scores: these tests are about all that is around it."""
    logits = read_record(recorded_folder).logits
    monkeypatch.setattr(verification, "run_doors", lambda *_: {"CrossEncoder": logits})
    return logits


@pytest.fixture
def push(folder: Path) -> Push:
    def run(*flags: str, model: Path = folder, repo: str = "org/mice-base") -> int:
        return cli.main(["push", "--model", str(model), "--repo", repo, *flags])

    return run


@pytest.mark.slow  # three fresh processes that import torch
def test_push_makes_one_commit_that_verifies_and_is_tagged(
    push: Push, online: LoopbackHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push() == 0, capsys.readouterr().err
    repository = online["org/mice-base"]
    head = repository.branches["main"]
    assert repository.tags == {"v1.0.0": head}
    assert [repository.messages[oid] for oid in repository.commits] == ["initial commit", "Publish v1.0.0"]
    there = repository.commits[head]
    expected = {file.path: file.sha256 for file in describe_files(folder)}
    assert {path: file.sha256 for path, file in there.items() if path in expected and path != "README.md"} == {
        path: digest for path, digest in expected.items() if path != "README.md"
    }
    assert there["model.safetensors"].is_lfs
    assert set(there) - set(expected) - {"README.md"} == {".gitattributes"}
    printed = capsys.readouterr().out
    assert f'revision="{head}", model_kwargs={{"code_revision": "{head}"}}' in printed
    assert printed.count("largest difference of 8 scores") == 4
    assert "verified: " in printed
    assert cli.main(["verify", "org/mice-base@v1.0.0"]) == 0
    repository.change("main", {"modeling_mice.py": b"print('changed')\n"})
    assert cli.main(["verify", "org/mice-base"]) == 1
    assert "problem: code modeling_mice.py has changed\n" in capsys.readouterr().out


def test_dry_run_lists_sizes_and_hashes_without_network_or_token(
    push: Push,
    folder: Path,
    known_scores: list[float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "secrets.env").write_text("PASSWORD=1\n")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.pt").write_bytes(b"1")
    (folder / "card.yaml").write_text("version: 2.1.0\n")
    built = tmp_path / "built"
    assert push("--dry-run", "--output", str(built)) == 0
    printed = capsys.readouterr().out
    for file in describe_files(built):
        assert f"{file.size:>12,}  {file.sha256}  {file.path}\n" in printed
    assert {"left out: secrets.env", "left out: checkpoints/optimizer.pt"} <= set(printed.splitlines())
    assert {"not on the card: license", "not on the card: results"} <= set(printed.splitlines())
    assert "dry run: nothing was pushed" in printed
    assert not (built / "secrets.env").exists()
    assert 'revision="v2.1.0"' in (built / "README.md").read_text()


def test_the_token_is_never_printed(
    push: Push,
    online: LoopbackHub,
    known_scores: list[float],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert push() == 0
    monkeypatch.setenv("HF_TOKEN", READER)
    assert push("--tag", "v2") == 2
    printed = "".join(capfd.readouterr())
    assert "token-that" not in printed


def test_flags_reach_the_hub(push: Push, online: LoopbackHub, known_scores: list[float]) -> None:
    online.state.collections["org/rerankers"] = []
    assert push("--private", "--branch", "next", "--tag", "v0.1", "--collection", "org/rerankers") == 0
    repository = online["org/mice-base"]
    assert repository.private
    assert repository.tags == {"v0.1": repository.branches["next"]}
    assert repository.branches["next"] != repository.branches["main"]
    assert online.state.collections["org/rerankers"] == ["org/mice-base"]


def test_files_of_an_earlier_version_are_deleted_and_others_stay(
    push: Push,
    online: LoopbackHub,
    known_scores: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert push() == 0
    online["org/mice-base"].change("main", {"older.py": b"x = 1\n", "notes.md": b"theirs\n"})
    assert push("--tag", "v2") == 0
    assert "deleted, of an earlier version: older.py\n" in capsys.readouterr().out
    files = online["org/mice-base"].commits[online["org/mice-base"].tags["v2"]]
    assert "older.py" not in files
    assert "notes.md" in files


def test_a_stale_parent_is_refused(
    push: Push, online: LoopbackHub, known_scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert push() == 0
    repository = online["org/mice-base"]
    mine = repository.branches["main"]
    theirs = repository.change("main", {"README.md": b"# Mended\n"})
    assert push("--tag", "v2", "--parent", mine) == 2
    assert "somebody has pushed meanwhile, nothing was changed" in capsys.readouterr().err
    assert repository.branches["main"] == theirs
    assert "v2" not in repository.tags


def test_an_existing_tag_is_refused_before_anything_is_changed(
    push: Push, online: LoopbackHub, known_scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert push() == 0
    head = online["org/mice-base"].branches["main"]
    assert push() == 2
    assert "the tag v1.0.0 exists; name the new version with --tag" in capsys.readouterr().err
    assert online["org/mice-base"].branches["main"] == head


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (None, "org/mice-base", "there is no token; log in with `hf auth login`, or set HF_TOKEN"),
        (READER, "org/mice-base", "your token has no permission to write there"),
        ("expired", "org/mice-base", "the Hub does not accept your token"),
        (READER, "mice-base", "'mice-base' has no owner"),
        (READER, "org/mice base", "mice base"),
    ],
)
def test_who_may_not_push_is_told_why(
    push: Push,
    online: LoopbackHub,
    known_scores: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    repo: str,
    message: str,
) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("mice_st.hub.push.get_token", lambda: None)  # whoever runs the tests may be logged in
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    assert push(repo=repo) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not online.state.repositories


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "also needs model.safetensors"),
        ("st_mice.py", "also needs st_mice.py"),
        ("tokenizer.json", "also needs tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(
    push: Push, folder: Path, capsys: pytest.CaptureFixture[str], missing: str, message: str
) -> None:
    (folder / missing).unlink()
    assert push("--dry-run") == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_none_is_refused(push: Push, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push("--dry-run", model=tmp_path / "absent") == 2
    assert "absent: there is no such folder" in capsys.readouterr().err


def test_a_folder_that_does_not_verify_is_not_pushed(
    push: Push, folder: Path, online: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert push() == 2
    printed = capsys.readouterr().err
    assert "does not verify: tensor " in printed
    assert f"delete its {VERIFICATION_FILE}" in printed
    assert not online.state.repositories


def test_what_arrives_damaged_gets_no_tag(
    push: Push,
    online: LoopbackHub,
    known_scores: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply = online.state.apply

    def damage(*arguments: object) -> str:
        apply(*arguments)  # type: ignore[arg-type]
        return online["org/mice-base"].change("main", {"modeling_mice.py": b"# damaged\n"})

    monkeypatch.setattr(online.state, "apply", damage)
    assert push() == 2
    assert "does not verify, so it got no tag: code modeling_mice.py has changed" in capsys.readouterr().err
    assert online["org/mice-base"].tags == {}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("org/absent", "org/absent: there is no such repository, or it is private"),
        ("org/mice-base@v9", "org/mice-base@v9: there is no such revision"),
        ("org/gated", "org/gated: is gated; ask for access on its page"),
        ("org/plain", "verification.json: there is none"),
    ],
)
def test_verify_says_what_is_not_there(
    online: LoopbackHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    for name in ("mice-base", "plain", "gated"):
        HfApi().create_repo(f"org/{name}")
    online["org/gated"].gated = True
    monkeypatch.setenv("HF_TOKEN", READER)
    assert cli.main(["verify", model]) == 2
    assert message in capsys.readouterr().err


def test_a_hub_that_is_not_there_is_a_clear_error(
    push: Push, online: LoopbackHub, known_scores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    online.is_dead = True
    assert push() == 2
    assert "cannot be reached, or broke off" in capsys.readouterr().err


def test_verify_takes_a_folder(folder: Path, known_scores: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(folder)]) == 0
    written = json.loads((folder / VERIFICATION_FILE).read_text())
    files, tensors = len(written["files"]), len(written["tensors"])
    assert f"verified: {files} files and {tensors} tensors are as recorded" in capsys.readouterr().out


def test_nothing_is_built_over_other_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "full")
    with pytest.raises(FileExistsError, match="is not empty"):
        copy_hub_files(folder, tmp_path / "full")


def test_a_new_model_is_pushed_with_scores_that_a_sigmoid_tells_apart(push: Push, folder: Path, tmp_path: Path) -> None:
    """The folder itself stays; one whose scores are recorded, or that is to keep its scale, goes as it is."""
    model = MiceCrossEncoder(str(folder), device="cpu")
    model.mice.classifier.bias.data.fill_(30.0)
    model.save(str(folder))
    (folder / "verification.json").unlink(missing_ok=True)
    built = tmp_path / "built"
    assert push("--dry-run", "--output", str(built)) == 0
    scale = read_json(built / "config.json")["score_scale"]
    assert 0.1 < scale < 0.3
    assert read_json(folder / "config.json")["score_scale"] == 1.0
    pair = ("where is berlin", "the capital of germany")
    scaled = MiceCrossEncoder(str(built), device="cpu").predict(pair)
    assert scaled == pytest.approx(model.predict(pair) * scale, abs=1e-4)
    assert push("--dry-run", "--output", str(tmp_path / "kept"), "--keep-score-scale") == 0
    assert read_json(tmp_path / "kept" / "config.json")["score_scale"] == 1.0
