"""``mice-st ablate``: the base is an ordinary run, nothing is trained twice, and every fault of a grid is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.ablate import format_table
from mice_st.commands.ablation_grid import AblateOptions, read_grid
from mice_st.data.collection import Collection, write_beir
from mice_st.states import encoding
from mice_st.states.shards import encode_shard
from mice_st.training import TrainingRecipe, train
from mice_st.training.dev_sets import build_evaluator
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
    alone = train(TrainingRecipe.from_flat(model=start, output=str(tmp_path / "alone"), **base.train))
    assert rows[0]["dev_ndcg@10"] == alone.best_ndcg_at_10
    untrained = build_evaluator(TrainingRecipe.from_flat(model=start, output=str(tmp_path / "none"), **base.train))
    assert untrained is not None
    assert rows[0]["start"] == untrained(MiceCrossEncoder(start, device="cpu"))
    assert rows[0]["last_loss"] == pytest.approx(sum(entry["loss"] for entry in alone.history if "loss" in entry) / 2)
    monkeypatch.setattr(RerankerTrainer, "train", lambda *_, **__: pytest.fail("trained twice"))
    assert cli.main(["ablate", path]) == 0
    assert capsys.readouterr().out.splitlines() == table.splitlines()[-5:]
    assert cli.main(["ablate", path, "--max-steps", "3"]) == 2
    assert "was made with other fields" in capsys.readouterr().err


def test_a_product_has_every_combination(grid: Callable[..., str]) -> None:
    path = grid("[convert]", 'mode = "product"\n[convert]')
    Path(path).write_text(Path(path).read_text().replace("[true]", "[true, false]"))
    names = [variant.name for variant in read_grid(AblateOptions(path))[1]]
    assert names == ["exact_match=true, loss=lambda", "exact_match=false, loss=lambda"]


def test_the_table_says_how_far_a_variant_is_from_the_base() -> None:
    start = {"dev_ndcg@10": 0.25}
    rows = [
        {"variant": "base", "dev_ndcg@10": 0.5, "parameters": 1_000_000, "seconds": 9.4, "start": start},
        {"variant": "k=3", "dev_ndcg@10": 0.4525, "parameters": 1_500_000, "seconds": 12.0, "start": start},
    ]
    assert format_table(rows).splitlines()[-1] == "| k=3 | 0.2500 | 0.4525 | -0.0475 | 1.5M | 12 |"


def test_variants_whose_documents_go_the_same_way_share_their_states(
    grid: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grid("exact_match = [true]", "freeze_contextualization = [false]\nexact_match = [true]")
    text = Path(path).read_text().replace("[grid]", "freeze_contextualization = true\n[grid]")
    Path(path).write_text(text.replace("[grid]", "[grid]\ncontextualization_layers = [1]"))
    encoded: list[int] = []

    def count(shard: Any, *rest: Any) -> Any:
        encoded.append(1)
        return encode_shard(shard, *rest)

    monkeypatch.setattr(encoding, "encode_shard", count)
    assert cli.main(["ablate", path]) == 0
    rows = json.loads((tmp_path / "run" / "ablation.json").read_text())
    assert [row["variant"] for row in rows] == [
        "base",
        "contextualization_layers=1",
        "freeze_contextualization=false",
        "exact_match=true",
        "loss=lambda",
    ]
    assert len(list((tmp_path / "run" / "states").glob("*.sqlite"))) == len(encoded) == 2
    _, (base, *_) = read_grid(AblateOptions(path))
    alone = train(
        TrainingRecipe.from_flat(model=str(tmp_path / "run/base/start"), output=str(tmp_path / "alone"), **base.train)
    )
    assert rows[0]["dev_ndcg@10"] == alone.best_ndcg_at_10


def test_several_fields_change_together_and_an_empty_list_takes_one_away(grid: Callable[..., str]) -> None:
    path = grid("[grid]", "[[variants]]\nexact_match = true\nloss = []\nseed = 3\n[grid]")
    variant = read_grid(AblateOptions(path))[1][-1]
    assert variant.name == "exact_match=true, seed=3"
    assert variant.convert["exact_match"]
    assert variant.convert["seed"] == variant.train["seed"] == 3
    assert "loss" not in variant.train


def test_a_variant_that_cannot_be_made_ends_the_grid_before_anything_is_trained(
    grid: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ablate", grid("exact_match = [true]", "cls_attends_document = [false]")]) == 2
    assert "cls_attends_document=false: interaction_layers: at least 2" in capsys.readouterr().err
    assert (tmp_path / "run" / "base" / "start").is_dir()
    assert not (tmp_path / "run" / "base" / "variant.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("exact_match", "wings", "grid: 'wings' is no field"),
        ("[true]", "true", "grid: exact_match: must be a list of values"),
        ("[convert]", 'mode = "all"\n[convert]', "mode: must be each or product, got 'all'"),
        ("output", "place", "the field 'output' is missing"),
        ("[grid]", "[[variants]]\nwings = 2\n[grid]", "variants: 'wings' is no field of"),
        ("dev_data", "watch", "there is no flag --watch; did you mean --watch-data"),
    ],
)
def test_a_bad_grid_says_why(
    grid: Callable[..., str], old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ablate", grid(old, new)]) == 2
    assert message in capsys.readouterr().err
