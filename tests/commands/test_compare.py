"""Significance: p values against sums over all flips, a formula and Holm's own procedure; the command over files."""

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mice_st.commands import main as cli
from mice_st.evaluation.per_query import QUERY_METRICS
from mice_st.evaluation.significance import compare_queries, compare_sets, holm

stats = pytest.importorskip("scipy.stats")


def by_query(figures: list[float]) -> dict[str, float]:
    return {f"q{place}": figure for place, figure in enumerate(figures)}


def test_p_values_of_few_queries_are_exact() -> None:
    first = [0.1, 0.5, 0.3, 0.9, 0.0, 0.4, 0.2, 0.6]
    second = [0.4, 0.6, 0.9, 0.8, 0.5, 0.9, 0.2, 0.9]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    found = compare_queries(by_query(first), by_query(second))
    observed = abs(sum(differences))
    flips = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=8)
    ]
    assert found.randomisation == pytest.approx(sum(abs(flip) >= observed - 1e-12 for flip in flips) / len(flips))
    mean = sum(differences) / 8
    error = math.sqrt(sum((difference - mean) ** 2 for difference in differences) / 7 / 8)
    assert found.t_test == pytest.approx(2 * stats.t.sf(mean / error, 7))
    assert found.mean == pytest.approx(mean)
    assert (found.queries, found.better, found.worse) == (8, 6, 1)


def test_p_values_of_many_queries() -> None:
    generator = np.random.default_rng(0)
    first = generator.random(80)
    noise = generator.normal(0, 0.1, 80)
    alike = compare_queries(by_query(list(first)), by_query(list(first + noise - noise.mean() + 0.005)))
    apart = compare_queries(by_query(list(first)), by_query(list(first + noise - noise.mean() + 0.05)))
    # With many queries both tests say nearly the same.
    assert alike.randomisation == pytest.approx(alike.t_test, abs=0.02)
    assert alike.randomisation > 0.2
    assert apart.randomisation < 2e-4
    assert compare_queries(by_query(list(first)), by_query(list(first))).randomisation == 1.0


def test_a_mean_over_sets_counts_each_set_alike() -> None:
    first = [[0.1, 0.5, 0.3, 0.9], [0.4, 0.2]]
    second = [[0.4, 0.6, 0.9, 0.8], [0.5, 0.9]]
    differences = [np.subtract(b, a) for a, b in zip(first, second, strict=True)]
    found = compare_sets([by_query(list(one)) for one in first], [by_query(list(one)) for one in second])
    mean = (differences[0].mean() + differences[1].mean()) / 2
    assert found.mean == pytest.approx(mean)
    assert (found.queries, found.better, found.worse) == (6, 5, 1)
    flips = [
        (np.dot(signs[:4], differences[0]) / 4 + np.dot(signs[4:], differences[1]) / 2) / 2
        for signs in itertools.product((1, -1), repeat=6)
    ]
    assert found.randomisation == pytest.approx(sum(abs(flip) >= abs(mean) - 1e-12 for flip in flips) / len(flips))
    # Welch's t-test of one sample against another that is mirrored: the same variances and degrees of freedom.
    welch = stats.ttest_ind(differences[0], -differences[1], equal_var=False)
    assert found.t_test == pytest.approx(welch.pvalue)


def test_queries_have_to_be_the_same() -> None:
    with pytest.raises(ValueError, match="1 queries are only in one of the two; the first: 'q2'"):
        compare_queries(by_query([0.1, 0.2]), by_query([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="needs two queries"):
        compare_queries(by_query([0.1]), by_query([0.2]))


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2, 0.5])
def test_holm_rejects_what_his_procedure_rejects(level: float) -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        p_values = list(generator.random(6) ** 3)
        rejected = set()
        for rank, place in enumerate(sorted(range(6), key=lambda place: p_values[place])):
            if p_values[place] > level / (6 - rank):
                break
            rejected.add(place)
        assert {place for place, corrected in enumerate(holm(p_values)) if corrected <= level} == rejected


@pytest.fixture
def write_figures(tmp_path: Path) -> Callable[..., Path]:
    """``write_figures(name, system=figures, ...)``: a file of per-query figures of the set ``tiny``."""

    def write(name: str, **systems: list[float]) -> Path:
        path = tmp_path / f"{name}.per_query.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["system", "group", "set", "query", *QUERY_METRICS])
            for system, figures in systems.items():
                writer.writerows(
                    [system, "g", "tiny", query, *[figure] * 5] for query, figure in by_query(figures).items()
                )
        return tmp_path / f"{name}.json"

    return write


def test_the_command(write_figures: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_figures("first", bm25=[0.1, 0.2, 0.3, 0.1, 0.2, 0.3], mice=[0.5, 0.7, 0.4, 0.6, 0.5, 0.8])
    second = write_figures("second", colbert=[0.5, 0.7, 0.4, 0.6, 0.5, 0.7])
    output = tmp_path / "table.csv"
    assert cli.main(["compare", str(first), str(second), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "Holm-corrected over the 3 rows" in printed
    rows = {(row["system"], row["against"]): row for row in csv.DictReader(output.open(newline=""))}
    assert list(rows) == [("mice", "bm25"), ("colbert", "bm25"), ("colbert", "mice")]
    # All six differences have one sign: 2 of 64 flips are as far out, times 3 for the smallest of three.
    assert float(rows["mice", "bm25"]["p randomisation"]) == pytest.approx(3 * 2 / 64)
    assert float(rows["colbert", "mice"]["p randomisation"]) == 1.0
    assert cli.main(["compare", str(first), str(second), "--baseline", "mice"]) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    assert [line.split(" | ")[1:3] for line in lines] == [["bm25", "mice"], ["colbert", "mice"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["absent.json"],
            "absent.json: there is no absent.per_query.csv beside it, the figures of every query; evaluate again",
        ),
        (["--metric", "p@3"], "metric: there is no 'p@3'; there are ndcg@10"),
        (["--baseline", "x"], "baseline: there is no 'x'; there are bm25"),
        ([], "there are no two systems that were measured on the same set"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, write_figures: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = write_figures("one", bm25=[0.1, 0.2])
    assert cli.main(["compare", *([] if "absent.json" in arguments else [str(given)]), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_files_that_contradict_each_other(
    write_figures: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = write_figures("one", bm25=[0.1, 0.2]), write_figures("other", bm25=[0.1, 0.3])
    assert cli.main(["compare", str(one), str(other)]) == 2
    assert "line 3: another file has 0.2 for query 'q1' of bm25 on tiny, not 0.3" in capsys.readouterr().err
