"""``dropout`` of a recipe takes the place of the model's own, wherever a layer keeps it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mice_st.training import TrainingRecipe, train

Recipe = Callable[..., TrainingRecipe]


@pytest.fixture
def with_dropout(tmp_path: Path) -> Callable[[Path, float], str]:
    """``with_dropout(folder, share)``: a copy of a model folder whose config drops this share."""

    def copy(folder: Path, share: float) -> str:
        shutil.copytree(folder, tmp_path / f"dropout-{share}")
        path = tmp_path / f"dropout-{share}" / "config.json"
        config: dict[str, Any] = json.loads(path.read_text())
        backbone = config.get("backbone_config", config)
        backbone |= {"hidden_dropout_prob": share, "attention_probs_dropout_prob": share, "classifier_dropout": share}
        path.write_text(json.dumps(config))
        return str(path.parent)

    return copy


@pytest.mark.parametrize("kind", ["mice_folder", "cross_encoder_folder"])
def test_a_model_trains_as_one_whose_config_says_the_same(
    kind: str,
    with_dropout: Callable[[Path, float], str],
    recipe: Recipe,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(kind)
    loud, still = with_dropout(folder, 0.4), with_dropout(folder, 0.0)

    def weights(name: str, **fields: Any) -> dict[str, torch.Tensor]:
        return train(recipe(output=str(tmp_path / name), max_steps=3, **fields)).model.state_dict()

    expected = weights("still", model=still)
    for name, tensor in weights("told", model=loud, dropout=0.0).items():
        assert torch.equal(tensor, expected[name]), name
    own = weights("own", model=loud)
    assert any(not torch.equal(tensor, expected[name]) for name, tensor in own.items())
