"""Tiny cross-encoders of four families, each with a tokenizer that writes pairs as that family does."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "num_labels": 1,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
WINDOW = {"local_attention": 8, "global_attn_every_n_layers": 2}  # a token reads 4 on each side in every second layer
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bert": (BertForSequenceClassification, BertConfig, {}),
    "roberta": (RobertaForSequenceClassification, RobertaConfig, {"bos_token_id": 2, "eos_token_id": 3}),
    "electra": (ElectraForSequenceClassification, ElectraConfig, {"embedding_size": 16}),
    "modernbert": (
        ModernBertForSequenceClassification,
        ModernBertConfig,
        {**WINDOW, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
}


@pytest.fixture(scope="session")
def family_folder(
    tokenizer: PreTrainedTokenizerFast, shake: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``family_folder(name)``: a saved cross-encoder of that family."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            kind, config, fields = FAMILIES[name]
            own = copy.deepcopy(tokenizer)
            if name not in {"bert", "electra"}:
                own.model_input_names = ["input_ids", "attention_mask"]
            if name == "roberta":
                ids = [("[CLS]", own.cls_token_id), ("[SEP]", own.sep_token_id)]
                own.backend_tokenizer.post_processor = processors.TemplateProcessing(
                    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ids
                )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = kind(config(vocab_size=len(own), **SIZE, **fields))
            shake(model, seed=4)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            own.save_pretrained(made[name])
        return made[name]

    return make
