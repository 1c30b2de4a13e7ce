"""``mice-st label``: scores of teachers, put together for each query, and runs that are cut off."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from mice_st.commands import main as cli
from mice_st.commands.label import LabelOptions
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.states.engines import open_store
from mice_st.states.fingerprint import fingerprint_of
from mice_st.training import labelling
from mice_st.training.labelling import LabelJob, label
from mice_st.training.parquet_rows import ParquetRows
from mice_st.training.rows import RowFile
from mice_st.training.teachers import Teachers, standardize

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

ROWS: list[dict[str, Any]] = [
    {"query": "how many people", "positive": "three people", "negatives": ["a cat", "a dog in berlin"], "source": "x"},
    {"query": "the river", "documents": ["a bridge", "the river of berlin"]},
    {"query": "who", "positive": "a dog in berlin", "negatives": ["cat"]},
]


@pytest.fixture
def options(cross_encoder_folder: Path, tmp_path: Path) -> Callable[..., LabelJob]:
    """``options(**fields)``: the rows above, two to a shard, scored by a cross-encoder."""
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")

    def make(**fields: Any) -> LabelJob:
        defaults = {
            "teacher": [str(cross_encoder_folder)],
            "data": [str(tmp_path / "rows.jsonl")],
            "output": str(tmp_path / "labelled.jsonl"),
            "shard_rows": 2,
            "device": "cpu",
        }
        return LabelJob(**{**defaults, **fields})

    return make


def read(options: LabelJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(options.output).read_text().splitlines()]


def texts(row: dict[str, Any]) -> list[str]:
    return row.get("documents") or [row["positive"], *row["negatives"]]


def test_a_row_keeps_its_fields_and_gets_the_teachers_raw_scores(
    options: Callable[..., LabelJob], cross_encoder_folder: Path
) -> None:
    made = options()
    assert label(made) == 3
    teacher = CrossEncoder(str(cross_encoder_folder), device="cpu", activation_fn=torch.nn.Identity())
    for row, labelled in zip(ROWS, read(made), strict=True):
        scores = labelled.pop("scores")
        assert labelled == row
        assert scores == pytest.approx([float(teacher.predict((row["query"], text))) for text in texts(row)], abs=1e-5)
    assert len(RowFile(Path(made.output), 7)) == 3, "what is written can be trained on"
    assert not Path(f"{made.output}.parts").exists()


@pytest.mark.parametrize("kind", ["cross_encoder_folder", "mice_folder", "embedding_folder"])
def test_mixed_precision_gives_nearly_the_same_scores(
    options: Callable[..., LabelJob], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    teacher = [str(request.getfixturevalue(kind))]
    exact, rough = (
        options(teacher=teacher, bf16=bf16, output=str(tmp_path / f"{bf16}.jsonl")) for bf16 in (False, True)
    )
    label(exact)
    label(rough)
    pairs = [(row["scores"], other["scores"]) for row, other in zip(read(exact), read(rough), strict=True)]
    assert any(scores != others for scores, others in pairs)
    for scores, others in pairs:
        assert others == pytest.approx(scores, abs=0.05)


def test_scores_of_several_teachers_are_standardised_per_query_and_averaged(
    options: Callable[..., LabelJob], cross_encoder_folder: Path, embedding_folder: Path
) -> None:
    made = options(teacher=[str(cross_encoder_folder), str(embedding_folder)])
    label(made)
    first = CrossEncoder(str(cross_encoder_folder), device="cpu", activation_fn=torch.nn.Identity())
    second = SentenceTransformer(str(embedding_folder), device="cpu")
    for row in read(made):
        pairs = [(row["query"], text) for text in texts(row)]
        raw = [first.predict(pairs).tolist(), (second.encode(texts(row)) @ second.encode(row["query"])).tolist()]
        equal = [[(value - fmean(scores)) / pstdev(scores) for value in scores] for scores in raw]
        assert row["scores"] == pytest.approx([fmean(pair) for pair in zip(*equal, strict=True)], abs=1e-4)


def test_parquet_holds_the_rows_of_json_lines(
    options: Callable[..., LabelJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines, table = options(), options(output=str(tmp_path / "labelled.parquet"))
    label(lines)
    with monkeypatch.context() as patch:  # killed with one of two shards done
        score = Teachers.score
        patch.setattr(Teachers, "score", lambda self, *rest: score(self, *rest) if len(rest[0]) == 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            label(table)
    assert not Path(table.output).exists()
    monkeypatch.setattr("mice_st.training.parquet_rows.GROUP_ROWS", 2)
    assert label(table) == 3
    assert not Path(f"{table.output}.parts").exists()
    # pandas' and pyarrow's own reader sees the columns; what a row lacks is null.
    rows = pyarrow.parquet.read_table(table.output).to_pylist()
    assert [{name: value for name, value in row.items() if value is not None} for row in rows] == read(lines)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    trained, expected = ParquetRows(Path(table.output), 7), RowFile(Path(lines.output), 7)
    assert [replace(row, source="") for row in trained] == [replace(row, source="") for row in expected]
    assert trained[2].source == "labelled.parquet, row 2"
    assert (trained.has_scores, trained.sizes().tolist()) == (True, expected.sizes().tolist())
    assert trained.uneven is not None
    assert trained.uneven.startswith("labelled.parquet, row 1: negatives: 1")
    assert ParquetRows(Path(table.output), 1).sha256 != trained.sha256


def test_bad_parquet_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 no more than its first letters")
    with pytest.raises(ValueError, match=r"rows\.parquet: this is no Parquet file"):
        ParquetRows(path, 7)
    good = {"query": "who", "positive": "a cat", "negatives": ["a dog"], "scores": [1.0, 0.0]}
    for fault, message in (
        ({"scores": [1.0, float("nan")]}, "row 1: scores: number 1 is nan"),
        ({"scores": None}, "row 1: .*scores: given in one of this row and that of rows"),
        ({"query": None}, "row 1: the field 'query' is missing"),
        ({"negatives": []}, "row 1: negatives: must be a list of at least one text"),
    ):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([good, {**good, **fault}]), path)
        with pytest.raises(ValueError, match=message):
            ParquetRows(path, 7)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(200) + whole[204:])
    with pytest.raises(ValueError, match=r"rows\.parquet: the file cannot be read"):
        ParquetRows(path, 7)


def test_fields_that_no_column_holds_are_refused_for_parquet(options: Callable[..., LabelJob]) -> None:
    rows = [{**ROWS[0], "source": "x"}, {**ROWS[2], "source": 3}]
    Path(options().data[0]).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"do not fit into one table.*write JSON Lines instead"):
        label(options(output=str(Path(options().output).with_suffix(".parquet"))))


def test_equal_scores_are_standardised_to_zero() -> None:
    assert standardize([2.5, 2.5]) == [0.0, 0.0]
    assert standardize([1.0, 3.0]) == [-1.0, 1.0]


def test_a_killed_run_labels_nothing_twice(options: Callable[..., LabelJob], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = options(output=f"{options().output}.whole")
    label(whole)
    seen: list[list[str]] = []
    score = Teachers.score

    def count(self: Teachers, queries: list[str], documents: Any) -> Any:
        seen.append(queries)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return score(self, queries, documents)

    monkeypatch.setattr(Teachers, "score", count)
    with pytest.raises(KeyboardInterrupt):
        label(options())
    assert label(options()) == 3
    assert seen == [["how many people", "the river"], ["who"], ["who"]]
    assert Path(options().output).read_bytes() == Path(whole.output).read_bytes()


def test_parts_of_another_job_are_refused(options: Callable[..., LabelJob], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "label_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            label(options())
    with pytest.raises(ValueError, match=r"parts of another job \(standardize changed\)"):
        label(options(standardize=True))
    (Path(options().data[0])).write_text(json.dumps(ROWS[0]))
    with pytest.raises(ValueError, match=r"data_sha256 changed"):
        label(options())


def test_only_the_first_rows(options: Callable[..., LabelJob]) -> None:
    assert label(options(limit=1)) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("{", r"rows\.jsonl, line 2: Expecting property name"),
        ({"positive": "a", "negatives": ["b"]}, r"rows\.jsonl, line 2: the field 'query' is missing"),
        ({"query": "q", "positive": "a"}, r"rows\.jsonl, line 2: the field 'negatives' is missing"),
        ({"query": "q", "documents": ["a", 3]}, r"rows\.jsonl, line 2: documents: text 1 is of type int"),
    ],
)
def test_a_bad_line_is_named(options: Callable[..., LabelJob], fault: Any, message: str) -> None:
    line = fault if isinstance(fault, str) else json.dumps(fault)
    Path(options().data[0]).write_text(f"{json.dumps(ROWS[0])}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        label(options())


def test_a_score_that_is_not_finite_names_teacher_query_and_document(
    options: Callable[..., LabelJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teachers, "_score_pairs", lambda *_: [[0.0, float("nan"), 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"rows\.jsonl, lines 1 to 2: teacher .*'how many people'.*'a cat'.* is nan"):
        label(options())


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_positive_among_its_own_negatives_is_dropped_and_counted(
    options: Callable[..., LabelJob], processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = options(processes=processes)
    rows = [
        {"query": "who", "positive": "cat", "negatives": ["cat", "a dog in berlin", "cat"]},
        {"query": "where", "positive": "cat", "negatives": ["cat"]},
        {"query": "what", "positive": "cat", "negatives": ["a dog in berlin"]},
    ]
    Path(made.data[0]).write_text("\n".join(map(json.dumps, rows)))
    assert label(made) == 2
    assert [(row["query"], row["negatives"], len(row["scores"])) for row in read(made)] == [
        ("who", ["a dog in berlin"], 2),
        ("what", ["a dog in berlin"], 2),
    ]
    assert "3 negatives have the text of their row's positive and are dropped; 1 rows have no other" in caplog.text


def test_files_that_are_missing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", "owner/teacher", "--data", "absent.jsonl", "--output", "o", "--processes", "1"]
    assert cli.main(["label", *arguments]) == 2
    assert "data: there is no file absent.jsonl" in capsys.readouterr().err


def die(*_: Any) -> None:
    os._exit(9)


@pytest.mark.slow
def test_two_processes_write_what_one_writes_and_a_killed_one_is_an_error(
    options: Callable[..., LabelJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = options(shard_rows=1), options(shard_rows=1, processes=2, output=f"{options().output}.two")
    label(one)
    label(two)
    assert Path(one.output).read_bytes() == Path(two.output).read_bytes()
    monkeypatch.setattr(labelling, "_label_in_worker", die)
    with pytest.raises(ChildProcessError, match="was killed"):
        label(options(shard_rows=1, processes=2, output=f"{options().output}.three"))


def test_a_positive_gets_its_bonus_and_nothing_else_does(options: Callable[..., LabelJob], tmp_path: Path) -> None:
    plain, raised = options(), options(positive_bonus=2.5, output=str(tmp_path / "raised.jsonl"))
    label(plain)
    label(raised)
    for before, after in zip(read(plain), read(raised), strict=True):
        bonus = 0.0 if "documents" in before else 2.5
        assert after["scores"] == pytest.approx([before["scores"][0] + bonus, *before["scores"][1:]], abs=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bonus_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="positive_bonus: must be finite"):
        LabelOptions(teacher=["t"], data=["d"], output="o", positive_bonus=value)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_mice_teacher_scores_the_same_from_a_store_that_training_then_reads(
    options: Callable[..., LabelJob], mice_folder: Path, tmp_path: Path, processes: int
) -> None:
    store = str(tmp_path / "states.sqlite")
    plain = options(teacher=[str(mice_folder)])
    stored = options(
        teacher=[str(mice_folder)], output=str(tmp_path / "b.jsonl"), stored_states_file=store, processes=processes
    )
    label(plain)
    label(stored)
    for before, after in zip(read(plain), read(stored), strict=True):
        assert after["scores"] == pytest.approx(before["scores"], abs=5e-3)  # float16 states
    different = {text for row in ROWS for text in texts(row)}
    model = MiceCrossEncoder(str(mice_folder), device="cpu")
    with open_store(store, fingerprint_of(model, "fp16"), read_only=True) as made:
        assert {text for _, text in made.texts()} == different


def test_a_store_needs_one_mice_among_the_teachers(
    options: Callable[..., LabelJob], mice_folder: Path, tmp_path: Path
) -> None:
    for teacher, count in ([], 0), ([str(mice_folder)] * 2, 2):
        made = options(
            teacher=[*options().teacher, *teacher],
            stored_states_file=str(tmp_path / "states.sqlite"),
            output=str(tmp_path / f"{count}.jsonl"),
        )
        with pytest.raises(ValueError, match=f"stored_states_file: needs one MICE among the teachers, got {count}"):
            label(made)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_with_one_line(mice_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS * 5000)))
    words = ["--teacher", str(mice_folder), "--data", "rows.jsonl", "--output", "out.jsonl", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mice_st", "label", *words, "--processes", "2", "--shard-rows", "4"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to a whole group of processes
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    parts = tmp_path / "out.jsonl.parts"
    while process.poll() is None and not list(parts.glob("*.jsonl")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), printed
    lines = [line for line in printed.splitlines() if "torchao" not in line and "pytree" not in line]
    assert len(lines) == 1, printed
    assert "interrupted; " in lines[0]
    assert f"finished parts lie in {parts.name}, the same command goes on from there" in lines[0]
