"""A download that breaks off once leaves nothing that a later load stumbles over: each file, each way to load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mice_st import MiceCrossEncoder
from mice_st.hub.files import LOADED, kind_of, list_files
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import WRITER
from tests.promises.fresh_loads import FreshProcesses
from tests.promises.one_score import QUERIES, make_documents

NAMESPACE, NAME = "org", "mice-tiny"
REPOSITORY = f"{NAMESPACE}/{NAME}"
TRANSFORMERS = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
network = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
encoding = tokenizer(*map(list, zip(*json.loads(sys.argv[2]))), padding=True, return_tensors="pt")
print(json.dumps(network(**encoding).logits.squeeze(-1).tolist()))
"""
STOCK = """
import json, sys
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(model.predict(json.loads(sys.argv[2])).tolist()))
"""
OURS = STOCK.replace("sentence_transformers", "mice_st").replace("CrossEncoder", "MiceCrossEncoder")
WAYS = {
    "AutoModelForSequenceClassification": TRANSFORMERS,
    "CrossEncoder": STOCK,
    "MiceCrossEncoder": OURS.replace("trust_remote_code=True, ", ""),
}
PAIRS = [(query, document) for query in QUERIES for document in make_documents(3)]
# One modelling file that a loader is pointed at, one that only other modelling files name, and the weights.
SAMPLE = ("modeling_mice.py", "layers_mice.py", "model.safetensors")


@pytest.fixture(scope="module")
def hub(mice_folder: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub() as started:
        repository = started.state.create(WRITER, NAMESPACE, NAME, False)
        repository.change("main", {path: (mice_folder / path).read_bytes() for path in list_files(mice_folder)})
        yield started


@pytest.fixture(scope="module")
def loads(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshProcesses]:
    folder = tmp_path_factory.mktemp("caches")
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    environment["PYTHONHASHSEED"] = "0"  # transformers fetches what a file imports in the order of a set
    with FreshProcesses(folder, **environment) as started:
        yield started


@pytest.fixture(scope="module")
def expected(mice_folder: Path) -> np.ndarray:
    return MiceCrossEncoder(str(mice_folder), device="cpu").predict(PAIRS)


def load_and_score(loads: FreshProcesses, way: str) -> list[float] | str:
    """Scores of ``PAIRS``, or the error that loading or scoring ended in."""
    try:
        printed = loads.run(WAYS[way], REPOSITORY, json.dumps(PAIRS), without_mice_st=way != "MiceCrossEncoder")
    except RuntimeError as error:
        return str(error)
    return json.loads(printed.splitlines()[-1])


def break_off_once(hub: LoopbackHub, loads: FreshProcesses, way: str, name: str) -> tuple[bool, list[float] | str]:
    """Whether the file was asked for, and what the load came to; both servers and caches are as before afterwards."""
    loads.forget()
    commit = hub[REPOSITORY].commits[hub[REPOSITORY].branches["main"]]
    hub.dies_after[name] = len(commit[name].content) // 2
    answer = load_and_score(loads, way)
    was_asked = hub.is_dead
    hub.dies_after.clear()
    hub.is_dead = False
    return was_asked, answer


def assert_heals(hub: LoopbackHub, loads: FreshProcesses, way: str, name: str, expected: np.ndarray) -> bool:
    """The next load works; returns whether this way reads the file at all."""
    was_asked, first = break_off_once(hub, loads, way, name)
    if isinstance(first, str):
        assert was_asked, first
    else:  # a file that this way can do without, or does not read
        np.testing.assert_allclose(first, expected, atol=1e-5, err_msg=f"{way}, {name}, broken off")
    second = load_and_score(loads, way)
    assert not isinstance(second, str), f"{way}: after {name} broke off once, loading ends in {second}"
    np.testing.assert_allclose(second, expected, atol=1e-5, err_msg=f"{way}, {name}")
    return was_asked


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAMPLE)
def test_three_files_heal(hub: LoopbackHub, loads: FreshProcesses, expected: np.ndarray, name: str, way: str) -> None:
    was_asked = assert_heals(hub, loads, way, name, expected)
    assert was_asked is (way != "MiceCrossEncoder" or not name.endswith(".py"))  # ours runs the installed code


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_file_heals(
    hub: LoopbackHub, loads: FreshProcesses, expected: np.ndarray, mice_folder: Path, way: str
) -> None:
    names = [name for name in list_files(mice_folder) if kind_of(name) in LOADED]
    asked = {name for name in names if assert_heals(hub, loads, way, name, expected)}
    code = {name for name in names if name.endswith(".py")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= asked
    if way == "MiceCrossEncoder":
        assert not code & asked
        assert "modules.json" in asked
    else:
        assert code - {"st_mice.py"} <= asked
        assert ("st_mice.py" in asked) is (way == "CrossEncoder")
