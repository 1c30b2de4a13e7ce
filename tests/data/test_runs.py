"""Run files: what is written reads back, scores alone decide, bad lines are named."""

import math
import random
from pathlib import Path

import pytest

from mice_st.data.runs import read_run, write_run


def write_lines(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding=encoding)
    return path


def test_run_reads_back(tmp_path: Path) -> None:
    run = {"q2": {"é": 1 / 3, "b": -2.5e-300}, "q1": {"b": 7.0}}
    write_run(run, tmp_path / "run.txt", tag="tag")
    assert (tmp_path / "run.txt").read_text(encoding="utf-8").splitlines()[2] == "q1 Q0 b 1 7.0 tag"
    assert read_run(tmp_path / "run.txt") == run


def test_run_is_written_best_first(tmp_path: Path) -> None:
    write_run({"q": {"low": 1.0, "also": 2.0, "tie": 2.0, "high": 3.0}}, tmp_path / "run.txt")
    written = [line.split()[2:4] for line in (tmp_path / "run.txt").read_text().splitlines()]
    assert written == [["high", "1"], ["also", "2"], ["tie", "3"], ["low", "4"]]


def test_run_in_any_order_of_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "run.txt", "q\tQ0\tb\t2\t1\tx", "", "q Q0 a 1 1.5 x")
    assert list(read_run(tmp_path / "run.txt")["q"].items()) == [("a", 1.5), ("b", 1.0)]


@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (0, 0, 0, 0), (4, 3, 2, 1), (7, 7, 1, 1), ("-", "2.5", "x", "0")])
def test_the_score_decides_and_never_the_rank(tmp_path: Path, ranks: tuple[object, ...]) -> None:
    scores = {"b": 0.5, "d10": 2.0, "d9": 2.0, "a": -1.0}
    lines = [f"q Q0 {item} {rank} {scores[item]} x" for item, rank in zip(scores, ranks, strict=True)]
    random.Random(0).shuffle(lines)
    # Of equal scores the larger id, as strings: trec_eval's rule.
    assert list(read_run(write_lines(tmp_path / "run.txt", *lines))["q"]) == ["d9", "d10", "b", "a"]


def test_scores_that_differ_in_64_bits_are_no_tie(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "run.txt", "q Q0 b 1 1.0 x", f"q Q0 a 2 {1 + 1e-12!r} x")
    assert list(read_run(file)["q"]) == ["a", "b"]


def test_the_order_is_the_one_that_trec_eval_measures(tmp_path: Path) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    generator = random.Random(1)
    scores = {f"d{place}": float(generator.randint(0, 3)) for place in range(12)}
    lines = [f"q Q0 {item} {generator.randint(0, 5)} {score} x" for item, score in scores.items()]
    first = list(read_run(write_lines(tmp_path / "run.txt", *lines))["q"])
    for place, item in enumerate(first, start=1):
        (figures,) = pytrec_eval.RelevanceEvaluator({"q": {item: 1}}, {"recip_rank"}).evaluate({"q": scores}).values()
        assert figures["recip_rank"] == pytest.approx(1 / place)


def test_a_byte_order_mark_is_no_part_of_the_first_query(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "run.txt", "q Q0 a 1 1.0 x", encoding="utf-8-sig")
    assert read_run(file) == {"q": {"a": 1.0}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 a 2 1.0 x", "document 'a' is there twice for query 'q', first in line 1"),
        ("q Q0 b 2 nan x", "document 'b' for query 'q' is nan"),
        ("q Q0 b 2 -inf x", "document 'b' for query 'q' is -inf"),
        ("q Q0 b 2 1e999 x", "document 'b' for query 'q' is 1e999"),
        ("q Q0 b 2 high x", "number, not 'high'"),
        ("q Q0 b 2 1.0", "found 5"),
    ],
)
def test_bad_run_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    write_lines(tmp_path / "run.txt", "q Q0 a 1 2.0 x", line)
    with pytest.raises(ValueError, match=rf"run\.txt, line 2: .*{message}"):
        read_run(tmp_path / "run.txt")


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_bytes(b"q Q0 a 1 2.0 x\nq Q0 \xff 2 1.0 x\n")
    with pytest.raises(ValueError, match=r"run\.txt, line 2: 'utf-8' codec"):
        read_run(tmp_path / "run.txt")


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q": {"a": 1.0, "b": math.nan}}, "x", "query 'q', document 'b': the score is nan"),
        ({"q": {"a b": 1.0}}, "x", "document id 'a b'"),
        ({"": {"a": 1.0}}, "x", "query id ''"),
        ({"q": {"a": 1.0}}, "my model", "tag 'my model'"),
    ],
)
def test_run_that_the_format_cannot_hold(
    tmp_path: Path, run: dict[str, dict[str, float]], tag: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_run(run, tmp_path / "run.txt", tag)
    assert not (tmp_path / "run.txt").exists()
