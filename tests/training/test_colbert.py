"""ColBERT trained on the same rows: its losses against formulas, what stays frozen, resuming, and the folder that it saves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import MultiVectorEncoder

from mice_st.commands import main as cli
from mice_st.data.collection import Collection
from mice_st.data.first_stage import BM25
from mice_st.evaluation import suites
from mice_st.evaluation.metrics import evaluate_run
from mice_st.evaluation.suites import SuiteSet
from mice_st.loading import model_kind
from mice_st.training import TrainingRecipe, TrainingResult, train
from mice_st.training.checkpoints import list_checkpoints
from mice_st.training.colbert import ColbertTrainer, build_colbert_loss, load_colbert

Recipe = Callable[..., TrainingRecipe]
Rows = Callable[..., str]

ROWS: list[dict[str, Any]] = [
    {"query": "cat dog", "positive": "the cat and the dog", "negatives": ["berlin", "a bird in the city"]},
    {"query": "berlin", "positive": "berlin is the capital", "negatives": ["river", "open the file and read"]},
]
SCORES = [[3.0, 1.0, -1.0], [2.0, 2.5, 0.0]]


@pytest.fixture
def colbert_recipe(recipe: Recipe, embedding_folder: Path) -> Recipe:
    return lambda **fields: recipe(architecture="colbert", model=str(embedding_folder), **fields)


def losses(result: TrainingResult) -> list[float]:
    return [entry["loss"] for entry in result.history if "loss" in entry]


def max_sim(model: MultiVectorEncoder, query: str, document: str) -> torch.Tensor:
    """Each query token's best cosine, added up."""
    found, wanted = model.encode_query(query), model.encode_document(document)
    return (found @ wanted.T).max(dim=1).values.sum()


def written_out(loss: str, model: MultiVectorEncoder) -> float:
    """The loss over all of ROWS in one batch, by its formula."""
    model.eval()
    scores = torch.stack(
        [
            torch.stack([max_sim(model, row["query"], text) for text in (row["positive"], *row["negatives"])])
            for row in ROWS
        ]
    )
    wanted = torch.tensor(SCORES)
    if loss == "list_net":
        teacher = torch.softmax(wanted, dim=1)
        return float((teacher * (teacher.log() - torch.log_softmax(scores, dim=1))).sum(dim=1).mean())
    if loss == "margin_mse":
        margins = (scores[:, :1] - scores[:, 1:]) - (wanted[:, :1] - wanted[:, 1:])
        return float((margins**2).mean())
    texts = [text for row in ROWS for text in (row["positive"], *row["negatives"])]
    logits = torch.stack([torch.stack([max_sim(model, row["query"], text) for text in texts]) for row in ROWS])
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3])))


@pytest.mark.parametrize("loss", ["list_net", "margin_mse", "mnrl"])
def test_the_first_loss_is_that_of_the_formula(
    loss: str, colbert_recipe: Recipe, write_rows: Rows, still_embedding_folder: Path
) -> None:
    rows = [{**row, "scores": scores} for row, scores in zip(ROWS, SCORES, strict=True)]
    run = colbert_recipe(train_data=write_rows(*rows), loss=loss, batch_size=2, max_steps=1)
    run.model = str(still_embedding_folder)
    torch.manual_seed(run.seed)  # the projection that training starts with
    start = load_colbert(run.model, "cpu")
    assert losses(train(run)) == [pytest.approx(written_out(loss, start), rel=1e-4)]


def test_it_learns(colbert_recipe: Recipe, write_rows: Rows, still_embedding_folder: Path) -> None:
    run = colbert_recipe(train_data=write_rows(*ROWS), loss="list_net", batch_size=2, max_steps=20, learning_rate=1e-2)
    run.model = str(still_embedding_folder)
    seen = losses(train(run))
    assert seen[-1] < seen[0] / 2


def test_it_keeps_its_best_checkpoint(colbert_recipe: Recipe, toy: Collection, toy_folder: Path) -> None:
    run = colbert_recipe(dev_data=[f"{toy_folder}:dev"], dev_top_k=10, max_steps=4, save_steps=2, loss="mnrl")
    result = train(run)
    figures = {entry["step"]: entry["eval_dev_ndcg@10"] for entry in result.history if "eval_dev_ndcg@10" in entry}
    assert list(figures) == [0, 2, 4]
    # At step 0 there is no checkpoint to keep.
    assert result.best_ndcg_at_10 == max(figures[2], figures[4])
    assert model_kind(run.output) == "colbert"
    saved = MultiVectorEncoder(run.output, device="cpu")
    assert saved.encode_document("the cat").shape == (4, 128)
    candidates = BM25(toy.corpus).search(toy.queries, 10)
    ranked = {
        query_id: {item: float(max_sim(saved, toy.queries[query_id], toy.corpus[item])) for item in items}
        for query_id, items in candidates.items()
    }
    assert evaluate_run(toy.qrels, ranked).ndcg_at_10 == pytest.approx(result.best_ndcg_at_10, abs=1e-6)


def test_a_frozen_backbone_leaves_only_the_projection_to_train(colbert_recipe: Recipe) -> None:
    run = colbert_recipe(freeze_contextualization=True, max_steps=3, bf16=True)
    result = train(run)
    torch.manual_seed(run.seed)
    start = load_colbert(run.model, "cpu").state_dict()
    moved = {name for name, tensor in result.model.state_dict().items() if not tensor.equal(start[name])}
    assert moved == {"1.linear.weight"}


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(colbert_recipe: Recipe, tmp_path: Path) -> None:
    whole = train(colbert_recipe(output=str(tmp_path / "whole"), max_steps=5, save_steps=2))
    cut = colbert_recipe(output=str(tmp_path / "cut"), max_steps=5, save_steps=2)
    train(cut)
    for checkpoint in list_checkpoints(Path(cut.output) / "checkpoints")[1:]:
        (checkpoint / "optimizer.pt").unlink()
    resumed = train(colbert_recipe(output=cut.output, max_steps=5, save_steps=2, resume=True))
    assert losses(resumed) == losses(whole)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_the_projection_learns_faster_than_the_backbone(
    colbert_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int]] = []
    create = ColbertTrainer.create_optimizer

    def spy(self: ColbertTrainer, *arguments: Any) -> Any:
        optimizer = create(self, *arguments)
        seen.extend((group["lr"], len(group["params"])) for group in optimizer.param_groups if group["params"])
        return optimizer

    monkeypatch.setattr(ColbertTrainer, "create_optimizer", spy)
    train(colbert_recipe(max_steps=1, learning_rate=1e-4, head_learning_rate_factor=10.0))
    assert [count for rate, count in seen if rate == pytest.approx(1e-3)] == [1]
    assert sum(count for rate, count in seen if rate == pytest.approx(1e-4)) > 10


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (ROWS, {"loss": "lambda"}, "ColBERT is trained with list_net, margin_mse, mnrl, not with lambda"),
        (ROWS, {"loss": "margin_mse"}, "line 1: scores: loss margin_mse needs a teacher's scores"),
        (ROWS, {"loss": "mnrl", "temperature": 2.0}, "temperature: loss mnrl has none"),
        ([ROWS[0], {**ROWS[1], "negatives": ["river"]}], {}, "line 2: negatives: 1, the first row has 2"),
        (
            [{"query": "cat", "document": "dog", "score": 1.0}] * 2,
            {"loss": "list_net"},
            "line 1: negatives: there are none",
        ),
    ],
)
def test_what_it_cannot_be_trained_with_is_refused(
    rows: list[dict[str, Any]], fields: dict[str, Any], message: str, colbert_recipe: Recipe, write_rows: Rows
) -> None:
    with pytest.raises(ValueError, match=message):
        train(colbert_recipe(train_data=write_rows(*rows), batch_size=2, max_steps=1, **fields))


def test_a_loss_that_is_not_finite_names_the_rows(
    colbert_recipe: Recipe, write_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, model: MultiVectorEncoder, temperature: float) -> torch.nn.Module:
        with torch.no_grad():
            model[1].linear.weight.fill_(float("nan"))
        return build_colbert_loss(name, model, temperature)

    monkeypatch.setattr("mice_st.training.trainer.build_colbert_loss", broken)
    with pytest.raises(ValueError, match=r"step 1: the loss is nan; the rows are rows\.jsonl, line [12]; rows\.jsonl"):
        train(colbert_recipe(train_data=write_rows(*ROWS), batch_size=2, max_steps=1))


def test_the_command_trains_a_folder_that_evaluate_measures(
    embedding_folder: Path,
    toy_folder: Path,
    write_rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "colbert"
    flags = ["--architecture", "colbert", "--model", str(embedding_folder), "--train-data", write_rows(*ROWS)]
    flags += ["--negatives", "1", "--batch-size", "2", "--max-steps", "3", "--cpu", "--output", str(output)]
    assert cli.main(["train", *flags]) == 0
    assert "3 steps" in capsys.readouterr().out
    monkeypatch.setitem(suites.SUITES, "tiny", (SuiteSet(f"{toy_folder.name}:dev", "toy"),))
    flags = ["--model", str(output), "--suite", "tiny", "--data", str(toy_folder.parent), "--device", "cpu"]
    assert cli.main(["evaluate", *flags, "--output", str(tmp_path / "figures.json")]) == 0
    assert "| colbert |" in capsys.readouterr().out
