"""Users of a published model: fresh processes with empty caches, sentence-transformers alone, against the loopback Hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.hub.files import list_files
from mice_st.hub.record import read_record
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import WRITER
from tests.released_models import MODELS
from tests.text_pairs import is_order_of

pytestmark = pytest.mark.slow  # each test starts several processes, and each of them imports torch

RunPython = Callable[..., str]
QUERY, DOCUMENTS = "where is berlin", ["a river and a bridge in the city", "the capital of germany", "a dog"]

# Loads revisions one after the other; prints for each its ranking, and a name that only its own code may have.
CLIENT = """
import json, sys
from sentence_transformers import CrossEncoder
for revision in json.loads(sys.argv[1]):
    model = CrossEncoder("org/mice-base", revision=revision, trust_remote_code=True, device="cpu")
    mark = getattr(sys.modules[type(model[0]).__module__], "MARK", None)
    print(json.dumps([model.rank(*json.loads(sys.argv[2])), mark]))
"""


@pytest.fixture
def client(run_python: RunPython, hub: LoopbackHub, tmp_path: Path) -> Callable[..., str]:
    """``client(*revisions)``: what a process prints, or its error; its cache is the test's own."""

    def run(*revisions: str | None, online: bool = True, token: str = "", fails: bool = False) -> str:
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0" if online else "1", "HF_TOKEN": token}
        environment |= {"HF_HUB_CACHE": str(tmp_path / "cache")}
        arguments = (json.dumps(revisions), json.dumps([QUERY, DOCUMENTS]))
        return run_python(CLIENT, *arguments, without_mice_st=True, environment=environment, fails=fails)

    return run


@pytest.fixture
def published(online: LoopbackHub, folder: Path) -> LoopbackHub:
    """The tiny model as v1.0.0, put there as if it had been pushed."""
    repository = online.state.create(WRITER, "org", "mice-base", False)
    files: dict[str, bytes | None] = {path: (folder / path).read_bytes() for path in list_files(folder)}
    repository.tags["v1.0.0"] = repository.change("main", files)
    return online


def rankings(printed: str) -> list[tuple[list[tuple[int, float]], Any]]:
    """Ranking and mark of each revision."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("[[")]
    return [([(hit["corpus_id"], hit["score"]) for hit in ranking], mark) for ranking, mark in lines]


def agree(found: list[tuple[int, float]], expected: list[tuple[int, float]], tolerance: float) -> bool:
    """Scores by id that are equal but for rounding, sorted: the same order, but for ties that rounding makes."""
    falls = [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    return falls and dict(found) == pytest.approx(dict(expected), abs=tolerance)


def ranking_of(folder: Path) -> list[tuple[int, float]]:
    return [
        (hit["corpus_id"], hit["score"]) for hit in MiceCrossEncoder(str(folder), device="cpu").rank(QUERY, DOCUMENTS)
    ]


@pytest.fixture
def push(run_python: RunPython, online: LoopbackHub) -> Callable[..., str]:
    """``push(folder, *flags)``: ``mice-st push`` as its user runs it, in a process and with a cache of its own."""

    def run(folder: Path, *flags: str) -> str:
        environment = {"HF_ENDPOINT": online.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": WRITER}
        code = "import sys\nfrom mice_st.commands import main as cli\nsys.exit(cli.main(['push', *sys.argv[1:]]))\n"
        arguments = ("--model", str(folder), "--repo", "org/mice-base", *flags)
        return run_python(code, *arguments, without_mice_st=False, environment=environment)

    return run


@pytest.mark.parametrize("folder", MODELS, indirect=True)
def test_push_then_rank_online_then_offline_then_two_versions(
    client: Callable[..., str], push: Callable[..., str], online: LoopbackHub, folder: Path
) -> None:
    published, expected, tolerance = online, ranking_of(folder), read_record(folder).tolerance
    assert "verified: " in push(folder, "--tag", "v1.0.0")
    published.requests.clear()
    published.breaks_after["model.safetensors"] = 1000
    ((found, mark),) = rankings(client(None))
    assert agree(found, expected, tolerance)
    assert mark is None
    resumed = [request for request in published.requests if request.startswith("GET /lfs-content/")]
    assert len(resumed) == 2
    published.requests.clear()
    ((found, _),) = rankings(client(None, online=False))
    assert agree(found, expected, tolerance)
    assert published.requests == []

    # The second version has other code and other scores.
    second = MiceCrossEncoder(str(folder), device="cpu")
    second.mice.classifier.bias.data.add_(1.0)
    second.save(str(folder))
    moved = ranking_of(folder)
    assert moved[0][1] == pytest.approx(expected[0][1] + 1, abs=0.1)
    (folder / "st_mice.py").write_text((folder / "st_mice.py").read_text() + '\nMARK = "second"\n')
    (folder / "verification.json").unlink()
    push(folder, "--tag", "v2", "--keep-score-scale")
    for is_online in (True, False):
        (first, second_) = rankings(client("v1.0.0", "v2", online=is_online))
        assert agree(first[0], expected, tolerance)
        assert agree(second_[0], moved, tolerance)
        assert (first[1], second_[1]) == (None, "second")


def test_blocks_of_the_card_run(run_python: RunPython, online: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    assert cli.main(["push", "--model", str(folder), "--repo", "org/mice-base"]) == 0
    commit = online["org/mice-base"].tags["v1.0.0"]
    card = online["org/mice-base"].commits[commit]["README.md"].content.decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 4
    script = tmp_path / "card.py"
    script.write_text("\n".join(blocks))
    environment = {"HF_ENDPOINT": online.url, "HF_HUB_OFFLINE": "0"}
    printed = run_python(script, without_mice_st=False, environment=environment).splitlines()
    shown = re.findall(r"```text\n(.*?)```", card, re.DOTALL)[0].splitlines()
    scores, promised = (
        {text: float(score) for score, text in (line.split("  ", 1) for line in lines)}
        for lines in (printed[: len(shown)], shown)
    )
    assert scores == pytest.approx(promised, abs=0.0101)
    states, logits, ours = (json.loads(line) for line in printed[len(shown) :])
    assert is_order_of(states, logits)
    assert is_order_of(ours, logits)


def test_a_gated_model_without_a_token_is_a_clear_error(client: Callable[..., str], published: LoopbackHub) -> None:
    published["org/mice-base"].gated = True
    error = client(None, fails=True)
    assert "gated repo" in error
    assert "org/mice-base" in error
    assert rankings(client(None, token=WRITER))


def test_a_server_that_dies_leaves_no_half_model(
    client: Callable[..., str], published: LoopbackHub, tmp_path: Path
) -> None:
    weights = published["org/mice-base"].commits[published["org/mice-base"].tags["v1.0.0"]]["model.safetensors"]
    published.dies_after["model.safetensors"] = len(weights.content) // 2
    error = client(None, fails=True)
    assert "model.safetensors" in error or "connect" in error.lower()
    assert not list((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))
    published.is_dead = False
    assert rankings(client(None))
    (cached,) = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    assert cached.read_bytes() == weights.content
