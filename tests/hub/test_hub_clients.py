"""Users of a published model: fresh processes with empty caches, sentence-transformers alone, against the loopback Hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mice_st import MiceCrossEncoder, cli
from tests.loopback_hub import LoopbackHub
from tests.loopback_repositories import READER, WRITER

pytestmark = pytest.mark.slow  # each test starts several processes, and each of them imports torch

RunPython = Callable[..., str]
QUERY, DOCUMENTS = "where is berlin", ["a river and a bridge in the city", "the capital of germany", "a dog"]

CLIENT = """
import json, sys
from sentence_transformers import CrossEncoder
options = json.loads(sys.argv[1])
model = CrossEncoder("org/mice-base", trust_remote_code=True, device="cpu", **options)
print(json.dumps({"rank": model.rank(*json.loads(sys.argv[2])), "mark": getattr(sys.modules[type(model[0]).__module__], "MARK", None)}))
"""


@pytest.fixture
def client(run_python: RunPython, hub: LoopbackHub, tmp_path: Path) -> Callable[..., str]:
    """``client(**options)``: what a process prints, or its error; its cache is the test's own."""

    def run(code: str = CLIENT, *, online: bool = True, token: str = "", fails: bool = False, **options: str) -> str:
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0" if online else "1", "HF_TOKEN": token}
        environment |= {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "" if token else "1"}
        arguments = (json.dumps(options), json.dumps([QUERY, DOCUMENTS]))
        return run_python(code, *arguments, without_mice_st=True, environment=environment, fails=fails)

    return run


@pytest.fixture
def published(online: LoopbackHub, folder: Path) -> LoopbackHub:
    """The tiny model as v1.0.0."""
    assert cli.main(["push", "--model", str(folder), "--repo", "org/mice-base"]) == 0
    return online


def ranking(printed: str) -> list[tuple[int, float]]:
    return [(hit["corpus_id"], round(hit["score"], 4)) for hit in json.loads(printed.splitlines()[-1])["rank"]]


def test_rank_online_then_offline_then_two_versions(
    client: Callable[..., str], published: LoopbackHub, folder: Path, mice: MiceCrossEncoder
) -> None:
    expected = [(hit["corpus_id"], round(hit["score"], 4)) for hit in mice.rank(QUERY, DOCUMENTS)]
    assert ranking(client()) == expected
    published.requests.clear()
    assert ranking(client(online=False)) == expected
    assert published.requests == []

    # The second version has other code and other scores.
    second = MiceCrossEncoder(str(folder), device="cpu")
    second.mice.classifier.bias.data.add_(1.0)
    second.save(str(folder))
    (folder / "st_mice.py").write_text((folder / "st_mice.py").read_text() + '\nMARK = "second"\n')
    (folder / "verification.json").unlink()
    assert cli.main(["push", "--model", str(folder), "--repo", "org/mice-base", "--tag", "v2"]) == 0
    moved = [(place, round(score + 1, 4)) for place, score in expected]
    for revision, scores, mark in (("v1.0.0", expected, None), ("v2", moved, "second")):
        for printed in (client(revision=revision), client(revision=revision, online=False)):
            assert ranking(printed) == pytest.approx(scores)
            assert json.loads(printed.splitlines()[-1])["mark"] == mark


def test_blocks_of_the_card_run(run_python: RunPython, published: LoopbackHub, tmp_path: Path) -> None:
    commit = published["org/mice-base"].tags["v1.0.0"]
    card = published["org/mice-base"].commits[commit]["README.md"].content.decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 4
    script = tmp_path / "card.py"
    script.write_text("\n".join(blocks))
    environment = {"HF_ENDPOINT": published.url, "HF_HUB_OFFLINE": "0"}
    printed = run_python(script, without_mice_st=False, environment=environment).splitlines()
    shown = re.findall(r"```text\n(.*?)```", card, re.DOTALL)[0].splitlines()
    assert [line.split("  ")[1] for line in printed[: len(shown)]] == [line.split("  ")[1] for line in shown]
    scores = [float(line.split()[0]) for line in printed[: len(shown)]]
    assert scores == pytest.approx([float(line.split()[0]) for line in shown], abs=0.0101)
    states, logits, ours = (json.loads(line) for line in printed[len(shown) :])
    assert states == ours == sorted(range(len(logits)), key=lambda place: -logits[place])


def test_a_gated_model_without_a_token_is_a_clear_error(client: Callable[..., str], published: LoopbackHub) -> None:
    published["org/mice-base"].gated = True
    for token in ("", READER):
        error = client(token=token, fails=True)
        assert "gated repo" in error
        assert "org/mice-base" in error
    assert ranking(client(token=WRITER))


def test_a_server_that_dies_leaves_no_half_model(
    client: Callable[..., str], published: LoopbackHub, tmp_path: Path
) -> None:
    weights = published["org/mice-base"].commits[published["org/mice-base"].tags["v1.0.0"]]["model.safetensors"]
    published.dies_after["model.safetensors"] = len(weights.content) // 2
    error = client(fails=True)
    assert "model.safetensors" in error or "connect" in error.lower()
    error = client(fails=True, online=False)
    assert "org/mice-base" in error
    assert not list((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))
    published.is_dead = False
    assert ranking(client())
    (cached,) = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    assert cached.read_bytes() == weights.content


def test_a_download_that_breaks_off_is_resumed(client: Callable[..., str], published: LoopbackHub) -> None:
    published.breaks_after["model.safetensors"] = 1000
    assert ranking(client())
    assert sum(request.startswith("GET /lfs-content/") for request in published.requests) >= 2
