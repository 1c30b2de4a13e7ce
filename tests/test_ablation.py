"""``mice-st ablate``: the base is an ordinary run, nothing is trained twice, and every fault of a grid is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mice_st import cli
from mice_st.ablation import AblateOptions, format_table, read_grid
from mice_st.collection import Collection, write_beir
from mice_st.training import TrainingRecipe, train
from mice_st.training.reranker_trainer import RerankerTrainer

GRID = """
output = "{folder}/run"

[convert]
source = "{source}"
contextualization_layers = 2
interaction_layers = 1

[train]
train_data = ["{folder}/pets"]
dev_data = ["{folder}/pets:train"]
dev_top_k = 5
batch_size = 2
negatives = 2
max_steps = 2
cpu = true

[grid]
exact_match = [true]
loss = ["lambda"]
"""


@pytest.fixture
def grid(tmp_path: Path, cross_encoder_folder: Path) -> Callable[..., str]:
    """``grid(old=new)``: a grid file with words replaced."""
    corpus = {
        f"d{place}": f"{word} {place} city"
        for place, word in enumerate(["cat", "dog", "bird", "river", "bridge", "museum"])
    }
    queries = {f"q{place}": corpus[f"d{place}"].split()[0] + " city" for place in range(4)}
    qrels = {query: {f"d{place}": 1} for place, query in enumerate(queries)}
    write_beir(Collection("pets", corpus, queries, qrels), tmp_path / "pets", "train")

    def write(old: str = "", new: str = "") -> str:
        text = GRID.format(folder=tmp_path, source=cross_encoder_folder)
        (tmp_path / "grid.toml").write_text(text.replace(old, new) if old else text)
        return str(tmp_path / "grid.toml")

    return write


def test_variants_are_compared_with_a_base_that_is_an_ordinary_run(
    grid: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid()
    assert cli.main(["ablate", path]) == 0
    table = capsys.readouterr().out
    rows = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert [row["variant"] for row in rows] == ["base", "exact_match=true", "loss=lambda"]
    assert rows[1]["parameters"] > rows[0]["parameters"] == rows[2]["parameters"]
    assert [line.split(" | ")[0] for line in table.splitlines()[-3:]] == [f"| {row['variant']}" for row in rows]
    assert (tmp_path / "run" / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    _, (base, *_) = read_grid(AblateOptions(path))
    start = str(tmp_path / "run" / "base" / "start")
    alone = train(TrainingRecipe(model=start, output=str(tmp_path / "alone"), **base.train))
    assert rows[0]["dev_ndcg@10"] == alone.best_ndcg_at_10
    assert rows[0]["last_loss"] == pytest.approx(sum(entry["loss"] for entry in alone.history if "loss" in entry) / 2)
    monkeypatch.setattr(RerankerTrainer, "train", lambda *_, **__: pytest.fail("trained twice"))
    assert cli.main(["ablate", path]) == 0
    assert capsys.readouterr().out.splitlines() == table.splitlines()[-5:]
    assert cli.main(["ablate", path, "--max_steps", "3"]) == 2
    assert "was made with other fields" in capsys.readouterr().err


def test_a_product_has_every_combination(grid: Callable[..., str]) -> None:
    path = grid("[convert]", 'mode = "product"\n[convert]')
    Path(path).write_text(Path(path).read_text().replace("[true]", "[true, false]"))
    names = [variant.name for variant in read_grid(AblateOptions(path))[1]]
    assert names == ["exact_match=true, loss=lambda", "exact_match=false, loss=lambda"]


def test_the_table_says_how_far_a_variant_is_from_the_base() -> None:
    rows = [
        {"variant": "base", "dev_ndcg@10": 0.5, "parameters": 1_000_000, "seconds": 9.4},
        {"variant": "k=3", "dev_ndcg@10": 0.4525, "parameters": 1_500_000, "seconds": 12.0},
    ]
    assert format_table(rows).splitlines()[-1] == "| k=3 | 0.4525 | -0.0475 | 1.5M | 12 |"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("exact_match", "wings", "grid: 'wings' is no field"),
        ("[true]", "true", "grid: exact_match: must be a list of values"),
        ("[convert]", 'mode = "all"\n[convert]', "mode: must be each or product, got 'all'"),
        ("output", "place", "the field 'output' is missing"),
        ("dev_data", "watch", "unknown flags --watch"),
    ],
)
def test_a_bad_grid_says_why(
    grid: Callable[..., str], old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ablate", grid(old, new)]) == 2
    assert message in capsys.readouterr().err
