"""What is refused before anything is loaded: names of models, devices, output that exists; and code beside a peer's weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder
from torch.nn import Identity

from mice_st.commands import main as cli
from mice_st.commands.registry import COMMANDS
from mice_st.evaluation.systems import list_systems

ROWS = '{"query": "who", "positive": "people", "negatives": ["cat", "dog"]}\n' * 4


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused(*words)``: the one line that a command ends with."""

    def run(*words: object) -> str:
        assert cli.main([str(word) for word in words]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        return printed

    return run


@pytest.mark.parametrize(
    ("name", "near"),
    [("mice-mni", "mice-mini"), ("./mice-mini-narow", "mice-mini-narrow"), ("all-MiniLM-L6", "all-MiniLM-L6-v2")],
)
def test_a_name_that_no_model_has_lists_those_that_are_known(
    name: str, near: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the Hub"))
    for words in (
        ["rank", "q", "--documents", "d", "--model", name],
        ["evaluate", "--model", "bm25", name, "--suite", "folder:x", "--output", "o.json"],
        ["label", "--teacher", name, "--data", "d", "--output", "o"],
        ["train", "--model", name, "--train-data", "d", "--output", "o"],
        ["mask", "--model", name],
    ):
        message = refused(*words)
        assert f"{name}: there is no such folder, it is no Hub id (owner/name)" in message
        assert "mice-mini, mice-mini-narrow, all-MiniLM-L6-v2; did you mean " in message
        assert near in message.partition("did you mean")[2]


def test_a_device_that_is_not_there_is_one_line(refused: Callable[..., str]) -> None:
    words = ["evaluate", "--model", "bm25", "--suite", "folder:x", "--output", "o.json", "--device"]
    assert "device: abacus cannot be used here" in refused(*words, "abacus")
    assert "device: cuda:99 cannot be used here" in refused(*words, "cuda:99")


def test_a_mice_model_is_no_plain_cross_encoder(refused: Callable[..., str], mice_folder: Path) -> None:
    assert "is MICE already; mask takes a plain cross-encoder" in refused("mask", "--model", mice_folder)


def test_rank_says_which_models_it_takes(
    refused: Callable[..., str], embedding_folder: Path, cross_encoder_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "d.txt").write_text("cat\ndog\n")
    rank = ["rank", "cat", "--documents", tmp_path / "d.txt", "--model"]
    assert "is of the kind bi_encoder; rank takes MICE or" in refused(*rank, embedding_folder)
    passages = ["--long-documents", "passages"]
    assert "only MICE scores passages" in refused(*rank, cross_encoder_folder, *passages)


# Command -> its words in front of the output, and what lies there already.
WRITERS = {
    "convert": ["--model", "{cross_encoder}", "--interaction-layers", "1"],
    "merge": ["--model", "{mice}"],
    "train": ["--model", "{mice}", "--train-data", "{rows}", "--max-steps", "1", "--batch-size", "2", "--cpu"],
    "mine": ["--data", "python-docs"],
    "label": ["--teacher", "{mice}", "--data", "{rows}"],
    "compare": ["results.json"],
    "plot": ["results.json"],
    "mask": ["--model", "{cross_encoder}"],
    "trim": ["--model", "{mice}", "--data", "python-docs"],
    "bench": [],
    "push": ["--model", "{mice}", "--repo", "org/name", "--dry-run"],
    "demo": [],
    "evaluate": ["--model", "bm25", "--suite", "folder:x"],
}
FOLDERS = {"convert": "config.json", "merge": "x", "train": "config.json", "trim": "x", "push": "x", "demo": "x"}
FOLDERS |= {"plot": "quality.csv", "mask": "results.json"}


@pytest.mark.parametrize("name", list(WRITERS))
def test_output_that_exists_is_left_alone(
    name: str, refused: Callable[..., str], mice_folder: Path, cross_encoder_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    places = {"{mice}": mice_folder, "{cross_encoder}": cross_encoder_folder, "{rows}": tmp_path / "rows.jsonl"}
    output = tmp_path / "output"
    kept = output / FOLDERS[name] if name in FOLDERS else output
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("{}")
    message = refused(name, *(places.get(word, word) for word in WRITERS[name]), "--output", output)
    assert message.startswith(f"mice-st {name}: output: {output}")
    assert kept.read_text() == "{}"


def test_every_command_with_an_output_is_tried() -> None:
    resuming = {"ablate", "submit", "store"}  # each refuses what is not its own, and has tests of that
    with_output = {name for name in COMMANDS if "--output " in _help(name)}
    assert with_output - resuming == WRITERS.keys()
    assert {name for name, command in COMMANDS.items() if command.overwrites} == WRITERS.keys() - {"push"}


def _help(name: str) -> str:
    from mice_st.commands.parser import format_help

    return format_help(name)


def test_overwriting_is_a_flag(
    mice_folder: Path, cross_encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made"
    shutil.copytree(mice_folder, output)
    words = [
        "convert",
        "--model",
        str(cross_encoder_folder),
        "--output",
        str(output),
        "--contextualization-layers",
        "2",
    ]
    assert cli.main([*words, "--overwrite"]) == 0, capsys.readouterr().err
    assert json.loads((output / "training.json").read_text())["command"] == "convert"


def test_training_into_its_own_model_needs_the_flag(
    refused: Callable[..., str], mice_folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(mice_folder, own)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    words = ["train", "--model", own, "--train-data", tmp_path / "rows.jsonl", "--output", own, "--cpu"]
    assert "is the folder of the model that training starts from" in refused(*words)
    run = [*map(str, words), "--max-steps", "1", "--batch-size", "2", "--overwrite"]
    assert cli.main(run) == 0
    assert "holds checkpoints of an earlier run; go on with" in refused(*run), "checkpoints are hours of work"
    assert cli.main([*run[:-1], "--resume"]) == 2, "it would go on from a model that is another one now"


def test_an_evaluation_renews_its_own_output_and_no_other(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "figures.json"
    before = {"model": ["bm25", "runs/mice"], "suite": "folder:pets", "top_k": 100, "queries": None, "seed": 0}
    output.write_text(json.dumps({"options": {**before, "first_stage": "bm25", "max_length": None}}))
    monkeypatch.setattr("mice_st.commands.evaluate.run_evaluate", lambda options: 0)
    (tmp_path / "runs" / "mice").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    same = ["evaluate", "--output", str(output), "--suite", "folder:pets", "--model", "bm25", "runs/mice"]
    assert cli.main(same) == 0
    assert cli.main([*same, "other"]) == 0
    assert "also holds figures of mice" in refused(*same[:-1])
    assert "holds figures with another top_k, seed" in refused(*same, "--top-k", 5, "--seed", 3)
    assert cli.main([*same, "--top-k", "5", "--overwrite"]) == 0


PEER = {
    "configuration_peer.py": "from transformers import BertConfig\nclass PeerConfig(BertConfig):\n    model_type = 'peer'\n",
    "modeling_peer.py": "from transformers import BertForSequenceClassification\nfrom .configuration_peer import PeerConfig\n"
    "class PeerModel(BertForSequenceClassification):\n    config_class = PeerConfig\n",
}


@pytest.fixture
def peer(cross_encoder_folder: Path, tmp_path: Path) -> Path:
    """A cross-encoder of another author, whose code lies beside its weights."""
    folder = tmp_path / "peer"
    shutil.copytree(cross_encoder_folder, folder)
    for name, text in PEER.items():
        (folder / name).write_text(text)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {
        "AutoConfig": "configuration_peer.PeerConfig",
        "AutoModelForSequenceClassification": "modeling_peer.PeerModel",
    }
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "peer", "auto_map": auto_map}))
    return folder


def test_code_of_others_runs_only_where_it_is_trusted(
    peer: Path,
    cross_encoder_folder: Path,
    refused: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ["the city of berlin", "cat and dog"]
    (tmp_path / "d.txt").write_text("\n".join(texts))
    rank = ["rank", "berlin", "--documents", str(tmp_path / "d.txt"), "--model", str(peer), "--json"]
    assert "trust_remote_code" in refused(*rank)
    assert cli.main([*rank, "--trust-remote-code"]) == 0
    scores = {line["text"]: line["score"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    plain = CrossEncoder(str(cross_encoder_folder), activation_fn=Identity(), device="cpu")
    assert [scores[text] for text in texts] == pytest.approx(
        plain.predict([("berlin", text) for text in texts]), abs=1e-5
    )
    (tmp_path / "rows.jsonl").write_text(ROWS)
    label = ["label", "--teacher", str(peer), "--data", str(tmp_path / "rows.jsonl"), "--device", "cpu"]
    label += ["--output", str(tmp_path / "labelled.jsonl")]
    assert "trust_remote_code" in refused(*label)
    assert cli.main([*label, "--trust-remote-code"]) == 0
    labelled = json.loads((tmp_path / "labelled.jsonl").read_text().splitlines()[0])
    expected = plain.predict([("who", text) for text in ("people", "cat", "dog")])
    assert labelled["scores"] == pytest.approx(expected, abs=1e-5)
    (system,) = list_systems([str(peer)], ["fp16"], "cpu", None, trust_remote_code=True)
    assert system.load().predict([("who", "people")])[0] == pytest.approx(expected[0], abs=1e-5)
