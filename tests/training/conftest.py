"""Recipes for the collection that a tiny model can learn."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mice_st.training import TrainingRecipe


@pytest.fixture(scope="session")
def still_mice_folder(mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mice_folder`` without dropout: its losses can be compared to the last digits."""
    folder = tmp_path_factory.mktemp("still") / "mice"
    shutil.copytree(mice_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def still_embedding_folder(embedding_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``embedding_folder`` without dropout."""
    folder = tmp_path_factory.mktemp("still-embedding") / "model"
    shutil.copytree(embedding_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def recipe(mice_folder: Path, toy_folder: Path, tmp_path: Path) -> Callable[..., TrainingRecipe]:
    """``recipe(**fields)``: a short run over the toy collection."""

    def make(**fields: Any) -> TrainingRecipe:
        defaults = {
            "model": str(mice_folder),
            "train_data": str(toy_folder),
            "output": str(tmp_path / "output"),
            "batch_size": 8,
            "negatives": 3,
            "learning_rate": 1e-3,
            "interaction_learning_rate_factor": 1.0,
            "head_learning_rate_factor": 1.0,
            "residual_learning_rate_factor": 1.0,
            "cpu": True,
        }
        return TrainingRecipe.from_flat(**{**defaults, **fields})

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """``write_rows(*rows)``: a JSON Lines file of them; a string is a line as it is."""

    def write(*rows: Any) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write
