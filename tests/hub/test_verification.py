"""What was recorded of a model is what it is: every bit of the weights, every line of the code, every score."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mice_st import MiceCrossEncoder
from mice_st.files import sha256_of
from mice_st.hub import verification
from mice_st.hub.files import VERIFICATION_FILE
from mice_st.hub.record import Record, compare_files, read_record
from mice_st.hub.verification import compare_scores, verify_folder
from tests.released_models import MODELS


@pytest.fixture
def record(folder: Path) -> Record:
    return read_record(folder)


def test_record_holds_the_scores_of_the_installed_model(record: Record, mice: MiceCrossEncoder) -> None:
    scores = mice.predict([tuple(pair) for pair in record.pairs])
    assert record.logits == pytest.approx(scores.tolist(), abs=1e-5)
    assert max(record.logits) - min(record.logits) > 0.01
    assert record.tensors.keys() == mice.mice.state_dict().keys()
    assert {"model.safetensors", "st_mice.py", "tokenizer.json", "config.json"} <= record.files.keys()
    assert not {"README.md", VERIFICATION_FILE} & record.files.keys()


def test_a_sound_folder_opens_every_door(folder: Path) -> None:
    (folder / "README.md").write_text("Another card is the same model.\n")
    found = verify_folder(folder, trust_remote_code=False)
    assert found.problems == []
    assert list(found.differences) == [
        "AutoModelForSequenceClassification",
        "CrossEncoder",
        "CrossEncoder over states",
        "MiceCrossEncoder",
    ]
    assert max(found.differences.values()) < 1e-5


def flips(size: int) -> Iterator[tuple[int, int]]:
    """A hundred bits of a file."""
    generator = random.Random(0)
    for _ in range(100):
        yield generator.randrange(size), generator.randrange(8)


@pytest.mark.parametrize("folder", MODELS, indirect=True)
def test_each_of_a_hundred_flipped_bits_is_found_and_its_tensor_named(folder: Path, record: Record) -> None:
    path = folder / "model.safetensors"
    sound = path.read_bytes()
    header_size = 8 + int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8:header_size])
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    in_tensors = 0
    for byte, bit in flips(len(sound)):
        spoilt = bytearray(sound)
        spoilt[byte] ^= 1 << bit
        path.write_bytes(spoilt)
        problems = compare_files(folder, record)
        if byte < header_size:
            assert problems, f"bit {bit} of byte {byte}"
            continue
        in_tensors += 1
        (name,) = [name for name, (start, stop) in places.items() if start <= byte - header_size < stop]
        assert problems == [f"tensor {name} has changed"]
    assert in_tensors > 50


def test_a_flipped_bit_anywhere_in_the_header_is_found(folder: Path, record: Record) -> None:
    path = folder / "model.safetensors"
    sound = path.read_bytes()
    header_size = 8 + int.from_bytes(sound[:8], "little")
    for byte, bit in flips(header_size):
        spoilt = bytearray(sound)
        spoilt[byte] ^= 1 << bit
        path.write_bytes(spoilt)
        assert compare_files(folder, record), f"bit {bit} of byte {byte}"


@pytest.mark.parametrize("folder", MODELS, indirect=True)
def test_every_removed_tensor_is_named(folder: Path, record: Record) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        rest = {other: tensor for other, tensor in tensors.items() if other != name}
        save_file(rest, path, metadata={"format": "pt"})
        assert compare_files(folder, record) == [f"tensor {name} is missing"]


def test_another_dtype_and_a_stray_tensor_are_named(folder: Path, record: Record) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"pooler.bias": tensors["pooler.bias"].half(), "stray": torch.ones(1)}, path)
    assert compare_files(folder, record) == ["tensor pooler.bias has changed", "tensor stray is not in the record"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("st_mice.py", "code st_mice.py"),
        ("tokenizer.json", "tokenizer tokenizer.json"),
        ("config.json", "config config.json"),
        ("modules.json", "config modules.json"),
    ],
)
def test_a_changed_and_a_missing_file_are_named_and_nothing_is_run(
    folder: Path, name: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "run_doors", lambda *_: pytest.fail("it was run"))
    content = (folder / name).read_text()
    (folder / name).write_text(content + "\n")
    assert verify_folder(folder, trust_remote_code=True).problems == [f"{problem} has changed"]
    (folder / name).unlink()
    assert verify_folder(folder, trust_remote_code=True).problems == [f"{problem} is missing"]


@pytest.mark.parametrize(("name", "kind"), [("extra.py", "code"), ("pytorch_model.bin", "pickle")])
def test_what_nobody_recorded_is_named(folder: Path, record: Record, name: str, kind: str) -> None:
    (folder / name).write_text("import os\n")
    assert compare_files(folder, record) == [f"{kind} {name} is not in the record"]


def test_code_that_is_not_the_installed_one_runs_only_when_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is in order: whoever changed the code can have made the record too."""
    (folder / "st_mice.py").write_text((folder / "st_mice.py").read_text() + "# of another version\n")
    written = json.loads((folder / VERIFICATION_FILE).read_text())
    written["files"]["st_mice.py"] = sha256_of(folder / "st_mice.py")
    (folder / VERIFICATION_FILE).write_text(json.dumps(written))
    calls = []

    def run_doors(*task: object) -> dict[str, list[float]]:
        calls.append(task)
        return {"CrossEncoder": written["logits"]}

    monkeypatch.setattr(verification, "run_doors", run_doors)
    (problem,) = verify_folder(folder, trust_remote_code=False).problems
    assert "code st_mice.py is not that of the installed mice-st" in problem
    assert not calls
    assert verify_folder(folder, trust_remote_code=True).ok
    assert calls


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "somebody/else--modeling.Config"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["somebody/else--tokens.Tokenizer", None]}}),
        ("config_sentence_transformers.json", {"activation_fn": "os.getcwd"}),
    ],
)
def test_a_config_that_leads_to_other_code_is_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: dict[str, object]
) -> None:
    monkeypatch.setattr(verification, "run_doors", lambda *_: pytest.fail("it was run"))
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | change))
    written = json.loads((folder / VERIFICATION_FILE).read_text())
    written["files"][name] = sha256_of(folder / name)
    (folder / VERIFICATION_FILE).write_text(json.dumps(written))
    problems = verify_folder(folder, trust_remote_code=False).problems
    assert any("(named in a config) is not that of the installed mice-st" in problem for problem in problems)


def test_a_score_that_is_off_is_named_with_door_and_pair(record: Record) -> None:
    off = list(record.logits)
    off[2] += 0.01
    problems, differences = compare_scores({"CrossEncoder": record.logits, "Auto": off}, record)
    assert problems == [f"Auto: pair 2 scores {off[2]:.6f}, recorded {record.logits[2]:.6f}"]
    assert differences == {"CrossEncoder": 0.0, "Auto": pytest.approx(0.01)}
    not_a_number = [float("nan"), *record.logits[1:]]
    assert compare_scores({"Auto": not_a_number}, record)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is none"),
        ("{", "is no verification record"),
        ("[]", "is no verification record"),
        ('{"format": 1}', "is no verification record"),
        (
            '{"format": 1, "files": [], "tensors": {}, "pairs": [["", ""]], "logits": [1], "tolerance": 0}',
            "of format 1",
        ),
        ('{"format": 1, "files": {}, "tensors": {}, "pairs": [], "logits": [], "tolerance": 0}', "of format 1"),
    ],
)
def test_a_record_that_is_none_is_refused(folder: Path, content: str | None, message: str) -> None:
    (folder / VERIFICATION_FILE).unlink()
    if content is not None:
        (folder / VERIFICATION_FILE).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_record(folder)


def test_a_record_that_allows_everything_is_refused(folder: Path) -> None:
    written = json.loads((folder / VERIFICATION_FILE).read_text())
    (folder / VERIFICATION_FILE).write_text(json.dumps(written | {"tolerance": 10.0}))
    with pytest.raises(ValueError, match="is no verification record of format 1"):
        read_record(folder)
