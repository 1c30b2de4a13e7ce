"""Merged weights, against the mean computed by hand, and what a merge is refused for."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mice_st import MiceCrossEncoder
from mice_st.commands.main import main
from mice_st.commands.merge import MergeOptions
from mice_st.conversion.convert import convert
from mice_st.conversion.merge import merge_weights


@pytest.fixture(scope="module")
def folders(cross_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    names = []
    for seed in (0, 1):
        model, _ = convert(cross_encoder_folder, 1, 1, seed=seed, seeded=False, max_sim_residual=True)
        names.append(str(tmp_path_factory.mktemp("models") / f"seed-{seed}"))
        model.mice.config.pad_token_id = seed  # as a trainer leaves it
        model.save(names[-1])
    return names


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_command_writes_the_weighted_mean(folders: list[str], tmp_path: Path, dtype: str) -> None:
    output = tmp_path / "merged"
    main(["merge", "--model", *folders, "--weights", "3", "1", "--output", str(output), "--dtype", dtype])
    parts = [load_file(Path(folder) / "model.safetensors") for folder in folders]
    found = load_file(output / "model.safetensors")
    assert found.keys() == parts[0].keys()
    for name, tensor in found.items():
        assert str(tensor.dtype) == f"torch.{dtype}"
        expected = 0.75 * parts[0][name] + 0.25 * parts[1][name]
        torch.testing.assert_close(tensor.float(), expected, rtol=2e-3 if dtype == "float16" else 1e-6, atol=1e-5)
    model = MiceCrossEncoder(str(output))
    assert {tensor.dtype for tensor in model.mice.state_dict().values()} == {torch.float32}
    assert json.loads((output / "training.json").read_text())["command"] == "merge"


def test_models_of_another_kind_are_refused_by_field(folders: list[str], cross_encoder_folder: Path) -> None:
    other, _ = convert(cross_encoder_folder, 1, 1)
    with pytest.raises(ValueError, match=r"model 1: .*max_sim_residual"):
        merge_weights([MiceCrossEncoder(folders[0]), other], [1, 1])


def test_broken_weights_are_refused_by_name(folders: list[str]) -> None:
    broken = MiceCrossEncoder(folders[1])
    broken.mice.classifier.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"model 1: \['classifier.bias'\]"):
        merge_weights([MiceCrossEncoder(folders[0]), broken], [1, 1])


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [math.nan, 1.0]])
def test_weights_that_do_not_fit_are_refused(folders: list[str], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        MergeOptions(model=folders, output="unused", weights=weights)
