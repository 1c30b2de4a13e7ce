"""``training.json``: the whole way to a model, checked against the files themselves, and nothing of the machine."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mice_st.commands import main as cli
from mice_st.model_folder import PROVENANCE_FILE, read_stages, shorten_paths, write_provenance
from mice_st.training.batches import ShuffledBatches, TokenBatches

ROW = '{"query": "who", "positive": "people", "negatives": ["cat", "dog"]}\n'
OTHER = '{"query": "where", "positive": "berlin", "negatives": ["bird", "river"]}\n'


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def trained(embedding_folder: Path, tmp_path: Path) -> Path:
    """Converted, then trained on two files in seven steps of two rows."""
    (tmp_path / "rows.jsonl").write_text(ROW * 4)
    (tmp_path / "others.jsonl").write_text(OTHER * 3)
    start, output = tmp_path / "start", tmp_path / "trained"
    convert = ["--model", str(embedding_folder), "--output", str(start), "--interaction-layers", "1"]
    assert cli.main(["convert", *convert]) == 0
    data = ["--train-data", str(tmp_path / "rows.jsonl"), str(tmp_path / "others.jsonl"), "--train-weights", "2", "1"]
    steps = ["--cpu", "--batch-size", "2", "--max-steps", "7", "--seed", "5"]
    assert cli.main(["train", "--model", str(start), *data, "--output", str(output), *steps]) == 0
    return output


def test_the_file_tells_the_whole_way(trained: Path, embedding_folder: Path, tmp_path: Path) -> None:
    convert, train = read_stages(trained)
    assert (convert["command"], train["command"]) == ("convert", "train")
    assert convert["model"] == {
        "source": embedding_folder.name,
        "weights": {"model.safetensors": sha256(embedding_folder / "model.safetensors")},
    }
    assert convert["options"]["interaction_layers"] == "1"
    assert train["model"]["weights"] == {"model.safetensors": sha256(tmp_path / "start" / "model.safetensors")}
    assert train["data"] == [
        {"source": "rows.jsonl", "rows": 8, "sha256": sha256(tmp_path / "rows.jsonl")},
        {"source": "others.jsonl", "rows": 3, "sha256": sha256(tmp_path / "others.jsonl")},
    ]
    assert train["steps"] == {"made": 7, "rows": 14, "kept": 7}
    assert (train["options"]["seed"], train["options"]["batch_size"]) == (5, 2)
    assert not {"output", "resume", "push_to"} & train["options"].keys()
    assert str(tmp_path) not in (trained / PROVENANCE_FILE).read_text()


def test_rows_of_uneven_batches_are_counted_over_epochs() -> None:
    sizes = np.array([[2, 10]] * 5 + [[2, 30]] * 3, dtype=np.uint32)
    batches = TokenBatches(sizes, 60, 1, seed=0)
    assert len(batches) > 2
    in_order = [len(batch) for epoch in range(2) for batch in _of_epoch(batches, epoch)]
    for count in range(len(in_order) + 1):
        assert batches.count_rows(count) == sum(in_order[:count])
    assert ShuffledBatches(10, 4, seed=0).count_rows(5) == 20


def _of_epoch(batches: TokenBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return list(batches)


def test_absolute_paths_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(tmp_path / "runs" / "a"), "/elsewhere/deep/data:train", "runs/b", "org/model", 3, None]
    assert shorten_paths(given) == ["runs/a", "data:train", "runs/b", "org/model", 3, None]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    assert read_stages(tmp_path) == []
    (tmp_path / PROVENANCE_FILE).write_text("[]")
    with pytest.raises(ValueError, match="stage 1 from the last is not a command"):
        read_stages(tmp_path)
    write_provenance(tmp_path, "train", {}, model={"source": "x", "made_by": {"command": "convert"}})
    with pytest.raises(ValueError, match="stage 2 from the last"):
        read_stages(tmp_path)
