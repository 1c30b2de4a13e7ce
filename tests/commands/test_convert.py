"""``mice-st convert``: a folder that loads, a flag for every choice, layers by number or by name."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from mice_st import MiceCrossEncoder
from mice_st.commands import main as cli
from mice_st.commands.convert import ConvertOptions, read_layers
from mice_st.modeling.configuration_mice import MiceConfig


def test_convert_writes_a_folder_that_loads(
    embedding_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mice"
    arguments = ["--model", str(embedding_folder), "--output", str(output), "--interaction_layers", "1"]
    assert cli.main(["convert", *arguments, "--exact-match", "--query-max-length", "20"]) == 0
    assert "tensors placed" in capsys.readouterr().out
    config = MiceCrossEncoder(str(output), device="cpu").mice.config
    assert (config.interaction_layers, config.exact_match, config.query_max_length) == (1, True, 20)
    assert config.pooled_residual, "a flag that is not given leaves convert's own default"


def test_convert_has_a_flag_for_every_choice() -> None:
    # Read off the source or its tokenizer, or set once a model is trained.
    given = {
        "num_labels",
        "backbone_config",
        "cls_token_id",
        "sep_token_id",
        "unk_token_id",
        "pair_separators",
        "kwargs",
    }
    given |= {"interaction_layer_types", "document_layer_types", "score_scale", "empty_document_score"}
    fields = set(inspect.signature(MiceConfig).parameters) - given
    assert fields <= {option.name for option in dataclasses.fields(ConvertOptions)}


@pytest.mark.parametrize(("text", "layers"), [("3", 3), ("4,5,11", [4, 5, 11]), ("2,", [2])])
def test_layers_are_a_number_or_named(text: str, layers: Any) -> None:
    assert read_layers(text) == layers


def test_layers_that_are_neither_are_refused(
    cross_encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(cross_encoder_folder), "--output", str(tmp_path), "--contextualization_layers", "2"]
    assert cli.main(["convert", *arguments, "--interaction_layers", "all"]) == 2
    assert "interaction_layers: expected a number" in capsys.readouterr().err
