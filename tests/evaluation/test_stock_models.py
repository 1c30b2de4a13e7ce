"""Models of other kinds in an evaluation: candidates alone are encoded, and scores that are no numbers are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.data.collection import write_beir
from mice_st.data.first_stage import BM25
from mice_st.evaluation import suites
from mice_st.evaluation.reranking import RerankingEvaluator, rerank
from mice_st.evaluation.suites import SuiteSet
from tests.evaluation.made import make_collection

TINY = make_collection("tiny", 0, documents=40, queries=4)
CANDIDATES = BM25(TINY.corpus).search(TINY.queries, 3)


class Counting(SentenceTransformer):
    """Remembers the texts that it encodes."""

    texts: list[str]

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.texts += [inputs] if isinstance(inputs, str) else list(inputs)
        return super().encode(inputs, *args, **kwargs)


def test_a_bi_encoder_encodes_the_candidates_alone_and_each_once(embedding_folder: Path) -> None:
    model = Counting(str(embedding_folder), device="cpu")
    model.texts = []
    run = rerank(model, TINY, CANDIDATES, ["fp32"])["fp32"]
    wanted = {TINY.corpus[item] for items in CANDIDATES.values() for item in items}
    documents = [text for text in model.texts if text not in TINY.queries.values()]
    assert set(documents) == wanted
    assert len(documents) == len({item for items in CANDIDATES.values() for item in items}) < len(TINY.corpus)
    assert sorted(text for text in model.texts if text not in wanted) == sorted(TINY.queries.values())
    assert {query: set(scores) for query, scores in run.items()} == {q: set(items) for q, items in CANDIDATES.items()}


def test_mteb_re_ranks_with_a_bi_encoder_over_the_candidates_alone(
    embedding_folder: Path, mice_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mteb")
    write_beir(TINY, tmp_path / "tiny", "test")
    seen: list[str] = []
    encode = SentenceTransformer.encode

    def count(self: SentenceTransformer, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend([inputs] if isinstance(inputs, str) else inputs)
        return encode(self, inputs, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", count)
    arguments = ["--suite", f"folder:{tmp_path / 'tiny'}", "--top-k", "3", "--output", str(tmp_path / "o.json")]
    models = [str(embedding_folder), str(mice_folder)]
    assert cli.main(["evaluate", "--model", *models, "--device", "cpu", "--stock", *arguments]) == 0
    wanted = {TINY.corpus[item] for items in CANDIDATES.values() for item in items}
    assert {text for text in seen if text not in TINY.queries.values()} == wanted


def break_weights(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))


@pytest.mark.parametrize("kind", ["bi_encoder", "cross_encoder", "mice"])
def test_a_score_that_is_no_number_is_refused(
    kind: str,
    embedding_folder: Path,
    cross_encoder_folder: Path,
    mice_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make: dict[str, Callable[[], Any]] = {
        "bi_encoder": lambda: SentenceTransformer(str(embedding_folder), device="cpu"),
        "cross_encoder": lambda: CrossEncoder(str(cross_encoder_folder), device="cpu"),
        "mice": lambda: MiceCrossEncoder(str(mice_folder), device="cpu"),
    }
    model = make[kind]()
    break_weights(model)
    message = "the score is nan" if kind != "mice" else "not finite"
    with pytest.raises(ValueError, match=message):
        rerank(model, TINY, CANDIDATES, ["fp32"])
    with pytest.raises(ValueError, match=message):
        RerankingEvaluator(TINY, CANDIDATES)(model)
    monkeypatch.setitem(suites.SUITES, "own", (SuiteSet("tiny:test", "tiny"),))
    write_beir(TINY, tmp_path / "tiny", "test")
    model.save(str(tmp_path / "broken"))
    arguments = ["--suite", "own", "--data", str(tmp_path), "--output", str(tmp_path / "o.json"), "--time-queries", "0"]
    assert cli.main(["evaluate", "--model", str(tmp_path / "broken"), "--device", "cpu", *arguments]) == 2
    assert "broken on tiny:" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()


def test_rank_refuses_a_stock_model_without_numbers(
    cross_encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = CrossEncoder(str(cross_encoder_folder), device="cpu")
    break_weights(model)
    model.save(str(tmp_path / "broken"))
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    arguments = ["--model", str(tmp_path / "broken"), "--documents", str(tmp_path / "texts.txt")]
    assert cli.main(["rank", "cat", *arguments]) == 2
    assert "document '0': the score is nan" in capsys.readouterr().err


def test_an_activation_that_makes_no_numbers_is_refused(mice: MiceCrossEncoder) -> None:
    pairs = [("cat", "a cat"), ("cat", "a dog")]
    for broken in (lambda scores: scores * float("nan"), lambda scores: scores / 0):
        with pytest.raises(ValueError, match=r"not finite in rows \[0, 1\]"):
            mice.predict(pairs, activation_fn=broken)
        with pytest.raises(ValueError, match="not finite"):
            mice.predict(pairs[0], activation_fn=broken)
        with pytest.raises(ValueError, match="not finite"):
            mice.rank("cat", ["a cat"], activation_fn=broken)
