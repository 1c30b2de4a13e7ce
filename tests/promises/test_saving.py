"""What ``save``, ``save_pretrained`` and a push write: requirements, code, a card whose example runs, no stale weights."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from mice_st import MiceCrossEncoder, convert
from mice_st.model_folder import code_files, complete_hub_folder
from mice_st.modeling.modeling_mice import INDEX_FILE, WEIGHTS_FILE, remove_stale_weights
from tests.promises.one_score import QUERY, assert_one_score, make_documents

Load = Callable[..., CrossEncoder]


def pairs() -> list[tuple[str, str]]:
    return [(QUERY, document) for document in make_documents(6)]


@pytest.mark.parametrize("method", ["save", "save_pretrained"])
def test_a_saved_folder_keeps_requirements_and_code(
    load_either: Load, base_scores: np.ndarray, tmp_path: Path, method: str
) -> None:
    getattr(load_either(), method)(str(tmp_path / "once"))
    getattr(load_either(tmp_path / "once"), method)(str(tmp_path / "twice"))
    for folder in (tmp_path / "once", tmp_path / "twice"):
        settings = json.loads((folder / "config_sentence_transformers.json").read_text())
        assert set(settings["requirements"]) == {"sentence-transformers", "transformers"}
        assert set(code_files()) <= {path.name for path in folder.glob("*.py")}
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        assert not {"is_local", "local_files_only"} & set(tokenizer)
        assert tokenizer["split_special_tokens"] is True
        assert json.loads((folder / "modules.json").read_text())[0]["type"] == "st_mice.MiceTransformer"
        assert_one_score(MiceCrossEncoder(str(folder), device="cpu"), counts=(1, 25), expected=base_scores)


def test_what_a_user_of_published_code_saves_keeps_them_too(
    fork_python: Callable[..., str], mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path
) -> None:
    code = """
import json, sys
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1], trust_remote_code=True, device="cpu")
model.save_pretrained(sys.argv[2])
print(json.dumps(CrossEncoder(sys.argv[2], trust_remote_code=True, device="cpu").predict(json.loads(sys.argv[3])).tolist()))
"""
    printed = fork_python(code, mice_folder, tmp_path / "again", json.dumps(pairs()), without_mice_st=True)
    np.testing.assert_allclose(json.loads(printed.splitlines()[-1]), mice.predict(pairs()), atol=1e-5)
    settings = json.loads((tmp_path / "again" / "config_sentence_transformers.json").read_text())
    assert set(settings["requirements"]) == {"sentence-transformers", "transformers"}
    assert set(code_files()) <= {path.name for path in (tmp_path / "again").glob("*.py")}
    assert "mice" in (ModelCard.load(tmp_path / "again" / "README.md").data.tags or [])


# --- the card ---


def assert_card_of_mice(folder: Path) -> str:
    card = ModelCard.load(folder / "README.md")
    assert "mice" in (card.data.tags or [])
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "text-ranking"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "2602.16299" in text
    assert "trust_remote_code=True" in text
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block


def test_the_example_of_the_card_runs(load_either: Load, fork_python: Callable[..., str], tmp_path: Path) -> None:
    """Both ways of saving, one process for each: where the folder lies is not for the card to know."""
    load_either().save_pretrained(str(tmp_path / "saved"))
    block = assert_card_of_mice(tmp_path / "saved")
    code = "import os, sys\nos.chdir(sys.argv[1])\n" + block
    printed = fork_python(code, tmp_path / "saved", without_mice_st=True)
    scores = [float(line.split()[0]) for line in printed.splitlines()[-3:]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_converted_model_has_the_card_too(cross_encoder_folder: Path, tmp_path: Path) -> None:
    convert(cross_encoder_folder, 2, 2)[0].save(str(tmp_path / "made"))
    assert_card_of_mice(tmp_path / "made")


def test_a_push_names_the_repository(mice_folder: Path, tmp_path: Path) -> None:
    """``push_to_hub`` saves with the name of the repository, over a card that named the folder."""
    model = MiceCrossEncoder(str(mice_folder), device="cpu")
    model.save(str(tmp_path), model_name="org/my-mice")
    assert 'CrossEncoder("org/my-mice", trust_remote_code=True)' in assert_card_of_mice(tmp_path)


def test_a_card_of_ones_own_stays(mice_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    mine = "---\ntags:\n- mice\nlicense: mit\n---\n\n# Mine\n"
    (folder / "README.md").write_text(mine)
    MiceCrossEncoder(str(folder), device="cpu").save(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "README.md").read_text() == mine
    complete_hub_folder(folder)
    assert (folder / "README.md").read_text() == mine


def test_no_card_where_none_is_wanted(mice_folder: Path, tmp_path: Path) -> None:
    """A push to a repository that has its own card must not write over it."""
    MiceCrossEncoder(str(mice_folder), device="cpu").save(str(tmp_path), create_model_card=False)
    assert not (tmp_path / "README.md").exists()


# --- stale weights ---


def changed(folder: Path) -> Any:
    network = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    network.classifier.bias.data.add_(1.0)
    return network


def test_shards_over_a_single_file_are_what_loads(mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    changed(folder).save_pretrained(folder, max_shard_size="40KB")
    assert (folder / INDEX_FILE).is_file()
    assert not (folder / WEIGHTS_FILE).exists()
    for loaded in (
        MiceCrossEncoder(str(folder), device="cpu"),
        CrossEncoder(str(folder), trust_remote_code=True, device="cpu"),
    ):
        np.testing.assert_allclose(loaded.predict(pairs()), mice.predict(pairs()) + 1.0, atol=1e-5)


def test_a_single_file_over_shards_is_what_loads(mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    (folder / WEIGHTS_FILE).unlink()
    MiceCrossEncoder(str(mice_folder), device="cpu").mice.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    network = changed(folder)
    model: Any = MiceCrossEncoder(str(folder), device="cpu")
    model[0].model = network
    model.save(str(folder))
    assert [path.name for path in folder.glob("*.safetensors*")] == [WEIGHTS_FILE]
    np.testing.assert_allclose(
        MiceCrossEncoder(str(folder), device="cpu").predict(pairs()), mice.predict(pairs()) + 1.0, atol=1e-5
    )


def test_fewer_shards_over_more(mice_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    network = changed(folder)
    for size in ("20KB", "80KB"):
        network.save_pretrained(folder, max_shard_size=size)
        remove_stale_weights(folder)
    named = set(json.loads((folder / INDEX_FILE).read_text())["weight_map"].values())
    assert {path.name for path in folder.glob("*.safetensors")} == named


def test_other_files_are_left_alone(mice_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    others = ["adapter_model.safetensors", "notes.txt", "pytorch_model.bin", "other-00001-of-00002.safetensors"]
    for name in others:
        (folder / name).write_bytes(b"theirs")
    remove_stale_weights(folder)
    changed(folder).save_pretrained(folder, max_shard_size="40KB")
    remove_stale_weights(folder)
    assert all((folder / name).read_bytes() == b"theirs" for name in others)
    (folder / "model-00001-of-00002.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=shards[0].name):
        remove_stale_weights(folder)


# --- code of an earlier version ---


def test_a_folder_that_is_saved_again_keeps_no_older_code(mice_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    (folder / "prepared_query.py").write_text("raise RuntimeError('older code')\n")
    (folder / "handler.py").write_text("# a user's own file\n")
    MiceCrossEncoder(str(folder), device="cpu").save(str(folder))
    assert {path.name for path in folder.glob("*.py")} == {*code_files(), "handler.py"}
    assert "older code" not in "".join(path.read_text() for path in folder.glob("*.py"))


# --- the tokenizer alone ---

TOKENIZER = """
import sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(len(tokenizer), tokenizer("where is berlin")["input_ids"])
"""


def test_the_tokenizer_alone_loads_at_once_where_nobody_can_answer(mice_folder: Path, mice: MiceCrossEncoder) -> None:
    """With standard input closed the question ends at once. From an open pipe transformers waits for 15 seconds, and
    nothing in a folder can prevent it: it reads the config, whose code it asks about, before the tokenizer's own files.
    """
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", "import sys\nsys.modules['mice_st'] = None\n" + TOKENIZER, str(mice_folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].endswith(f"{mice.tokenizer('where is berlin')['input_ids']}")
    assert time.monotonic() - started < 60


def test_by_its_own_class_it_asks_nobody(mice_folder: Path, mice: MiceCrossEncoder) -> None:
    """What the docs name for whoever wants the tokenizer alone, without the flag: standard input stays open and silent."""
    code = TOKENIZER.replace("AutoTokenizer", "PreTrainedTokenizerFast")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys\nsys.modules['mice_st'] = None\n" + code, str(mice_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = process.stdout.read()  # to its end, while nothing is written
        assert process.wait() == 0
    finally:
        process.kill()
    assert "trust" not in printed
    assert printed.splitlines()[-1].endswith(f"{mice.tokenizer('where is berlin')['input_ids']}")
