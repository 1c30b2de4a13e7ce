"""Training that pushes each checkpoint, to the Hub on this machine."""

from pathlib import Path

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.hub.files import NEEDED, kind_of
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import READER

ROW = '{"query": "who", "positive": "people", "negatives": ["cat", "dog"]}\n'


def train(mice_folder: Path, tmp_path: Path) -> int:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROW * 4)
    run = ["train", "--model", str(mice_folder), "--train-data", str(rows), "--output", str(tmp_path / "trained")]
    steps = ["--cpu", "--batch-size", "2", "--max-steps", "2", "--save-steps", "1", "--learning-rate", "1e-2"]
    return cli.main([*run, *steps, "--push-to", "org/training"])


def test_every_checkpoint_is_a_private_commit_that_loads(
    mice_folder: Path, tmp_path: Path, online: LoopbackHub
) -> None:
    assert train(mice_folder, tmp_path) == 0
    repository = online["org/training"]
    assert repository.private
    assert list(repository.messages.values()) == ["initial commit", "Checkpoint of step 1", "Checkpoint of step 2"]
    first, second = list(repository.commits.values())[1:]
    assert first["model.safetensors"] != second["model.safetensors"]
    checkpoint = tmp_path / "trained" / "checkpoints" / "checkpoint-2"
    assert second["model.safetensors"].content == (checkpoint / "model.safetensors").read_bytes()
    assert set(NEEDED) <= second.keys()
    assert [path for path in second if kind_of(path) in (None, "pickle")] == [".gitattributes"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for path, file in second.items():
        (copy / path).write_bytes(file.content)
    trained = MiceCrossEncoder(str(tmp_path / "trained"), device="cpu").predict([("who", "people")])
    assert MiceCrossEncoder(str(copy), device="cpu").predict([("who", "people")]) == pytest.approx(trained, abs=1e-6)


def test_a_token_that_may_not_push_is_refused_before_training(
    mice_folder: Path,
    tmp_path: Path,
    online: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    assert train(mice_folder, tmp_path) == 2
    assert "403 Forbidden" in capsys.readouterr().err
    assert not list((tmp_path / "trained").rglob("checkpoint-*"))
