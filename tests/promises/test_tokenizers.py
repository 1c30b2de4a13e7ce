"""A tokenizer that is not the model's own is refused: ids beyond the vocabulary, or almost no words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from mice_st import MiceCrossEncoder, convert
from mice_st.commands import main as cli
from tests.promises.one_score import QUERY

Load = Callable[..., CrossEncoder]
NOT_ITS_OWN = r"tokenizer"


def lose_words(folder: Path) -> Path:
    """Without its tokenizer.json a BertTokenizer is made of five special tokens, without a word about it."""
    for path in folder.rglob("tokenizer_config.json"):
        settings = json.loads(path.read_text())
        path.write_text(json.dumps(settings | {"tokenizer_class": "BertTokenizer"}))
    for path in folder.rglob("tokenizer.json"):
        path.unlink()
    return folder


@pytest.fixture
def without_words(mice_folder: Path, tmp_path: Path) -> Path:
    """A folder that has lost its tokenizer.json."""
    return lose_words(Path(shutil.copytree(mice_folder, tmp_path / "without-words")))


@pytest.fixture
def beyond(mice_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A folder whose tokenizer has a token more than the model has embeddings."""
    folder = Path(shutil.copytree(mice_folder, tmp_path / "beyond"))
    larger: Any = AutoTokenizer.from_pretrained(mice_folder, trust_remote_code=True)
    larger.add_tokens(["pizza", "museums"])
    larger.save_pretrained(folder)
    return folder


@pytest.fixture(params=["without_words", "beyond"])
def spoiled(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_both_classes_refuse_it(load_either: Load, spoiled: Path) -> None:
    with pytest.raises(ValueError, match=NOT_ITS_OWN) as caught:
        load_either(spoiled)
    assert str(caught.value).count("\n") == 0


def test_transformers_alone_refuses_ids_beyond_the_vocabulary_when_it_scores(beyond: Path) -> None:
    """Loading the model reads no tokenizer."""
    network = AutoModelForSequenceClassification.from_pretrained(beyond, trust_remote_code=True).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(beyond, trust_remote_code=True)
    with torch.no_grad(), pytest.raises(ValueError, match=NOT_ITS_OWN):
        network(**tokenizer("where is pizza", "the museums of berlin", return_tensors="pt"))


def test_transformers_alone_refuses_a_tokenizer_of_five_words_when_it_scores(
    released_folder: Path, tmp_path: Path
) -> None:
    """Its [CLS] and [SEP] have other ids than the model's: that is how the model can tell."""
    network = AutoModelForSequenceClassification.from_pretrained(released_folder, trust_remote_code=True).eval()
    for name in ("config.json", "configuration_mice.py", "tokenizer_config.json"):
        shutil.copy(released_folder / name, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(lose_words(tmp_path), trust_remote_code=True)
    assert len(tokenizer) < 10
    with torch.no_grad(), pytest.raises(ValueError, match=NOT_ITS_OWN):
        network(**tokenizer("where is berlin", "the museums of berlin", return_tensors="pt"))


@pytest.mark.parametrize("fault", ["without words", "beyond"])
def test_convert_refuses_it(cross_encoder_folder: Path, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(cross_encoder_folder, tmp_path / "source"))
    if fault == "without words":
        lose_words(folder)
    else:
        larger: Any = AutoTokenizer.from_pretrained(folder)
        larger.add_tokens(["pizza", "museums"])
        larger.save_pretrained(folder)
    with pytest.raises(ValueError, match=NOT_ITS_OWN):
        convert(folder, 2, 2)


def test_evaluate_refuses_it_in_one_line(
    without_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite"
    (suite / "qrels").mkdir(parents=True)
    (suite / "queries.jsonl").write_text('{"_id": "q", "text": "where is berlin"}\n')
    (suite / "corpus.jsonl").write_text('{"_id": "d", "text": "berlin is the capital of germany"}\n')
    (suite / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    arguments = ["evaluate", "--model", str(without_words), "--suite", f"folder:{suite}"]
    status = cli.main([*arguments, "--output", str(tmp_path / "out.json")])
    printed = capsys.readouterr().err
    assert status != 0
    assert "tokenizer" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("kind", ["cross-encoder", "bi-encoder"])
def test_evaluate_refuses_other_models_that_lost_their_words(
    cross_encoder_folder: Path, embedding_folder: Path, tmp_path: Path, kind: str
) -> None:
    """Every ranking model that is measured, not MICE alone: figures of a model that reads [UNK] are worse than none."""
    from mice_st.loading import load_model

    source = cross_encoder_folder if kind == "cross-encoder" else embedding_folder
    folder = lose_words(Path(shutil.copytree(source, tmp_path / "copy")))
    with pytest.raises(ValueError, match=NOT_ITS_OWN):
        load_model(str(folder))


# --- what is fine ---


def test_a_padded_vocabulary_is_fine(load: Load, tmp_path: Path) -> None:
    """Embeddings are often padded to a multiple of 64: fewer words than rows, by a few."""
    model: Any = load()
    model.mice.resize_token_embeddings(model.mice.config.vocab_size + 1, pad_to_multiple_of=64)
    model.save(str(tmp_path))
    MiceCrossEncoder(str(tmp_path), device="cpu").predict((QUERY, "a dog"))


def test_a_vocabulary_with_holes_is_fine(load: Load, tmp_path: Path) -> None:
    """More than half of the words is enough."""
    model: Any = load()
    words = len(model.tokenizer)
    model.mice.resize_token_embeddings(2 * words - 2)
    model.save(str(tmp_path / "fine"))
    MiceCrossEncoder(str(tmp_path / "fine"), device="cpu").predict((QUERY, "a dog"))
    model.mice.resize_token_embeddings(2 * words + 2)
    model.save(str(tmp_path / "too-few"))
    with pytest.raises(ValueError, match=NOT_ITS_OWN):
        MiceCrossEncoder(str(tmp_path / "too-few"), device="cpu")
