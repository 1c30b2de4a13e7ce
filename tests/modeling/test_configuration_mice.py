"""The configuration: what it refuses, by the name of the field, and its file."""

from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, DistilBertConfig

from mice_st.modeling.configuration_mice import MiceConfig
from tests.modeling.small_model import BACKBONE, VOCABULARY

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    (
        {"backbone_config": DistilBertConfig()},
        "backbone_config: a backbone of type 'distilbert' is not one of .*'bert'.*'electra'",
    ),
    ({"num_labels": 2}, "num_labels: .* got 2"),
    ({"backbone_config": BertConfig(**BACKBONE | {"num_hidden_layers": 0})}, "contextualization_layers: at least 1"),
    ({"interaction_order": "cross"}, "interaction_order: 'cross'"),
    ({"pooling": "max"}, "pooling: 'max'"),
    ({"interaction_layers": 0}, "interaction_layers: at least 1 .* got 0"),
    ({"interaction_layers": 1, "cls_attends_document": False}, "interaction_layers: at least 2 .* got 1"),
    ({"query_max_length": 2}, "query_max_length: .* got 2"),
    ({"query_max_length": 41}, "query_max_length: .* 40 positions, got 41"),
    ({"document_max_length": 2}, "document_max_length: .* got 2"),
    ({"document_max_length": 41}, "document_max_length: .* 40 positions, got 41"),
    ({"cls_token_id": VOCABULARY}, f"cls_token_id: {VOCABULARY} .* vocabulary of {VOCABULARY}"),
    ({"sep_token_id": -1}, "sep_token_id: -1 "),
]
POSSIBLE = {
    "query_max_length": 3,
    "document_max_length": 40,
    "cls_token_id": 0,
    "sep_token_id": VOCABULARY - 1,
    "interaction_layers": 1,
}


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
def test_an_impossible_configuration_names_its_field(fields: dict[str, Any], message: str) -> None:
    MiceConfig(**{"backbone_config": BertConfig(**BACKBONE)} | POSSIBLE)
    with pytest.raises(ValueError, match=message):
        MiceConfig(**{"backbone_config": BertConfig(**BACKBONE)} | POSSIBLE | fields)


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "interaction_layers": 4,
        "interaction_order": "self_first",
        "query_attends_cls": True,
        "cls_attends_document": False,
        "pooler": False,
        "pooled_residual": True,
        "pooling": "cls",
        "exact_match": True,
        "query_max_length": 7,
        "document_max_length": 9,
        "cls_token_id": 5,
        "sep_token_id": 6,
    }
    MiceConfig(BertConfig(**BACKBONE), **fields).save_pretrained(tmp_path)
    loaded = MiceConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert isinstance(loaded.backbone_config, BertConfig)
    assert {name: getattr(loaded.backbone_config, name) for name in BACKBONE} == BACKBONE
    assert (loaded.contextualization_layers, loaded.hidden_size, loaded.vocab_size) == (2, 16, VOCABULARY)
