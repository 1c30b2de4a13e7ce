"""One small cross-encoder per type of backbone, with a tokenizer that frames and joins texts as that type does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
WORDS = (
    "the of in on to and is was who what where how many people live berlin city museum population river bridge "
    "capital germany list sort file read write open close path string number function returns python cat dog bird"
)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY_SIZE = 5 + len(WORDS.split()) + 2 * len(CHARACTERS)
LAYERS = 4
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_labels": 1,
}
# Windows of two tokens to either side, narrower than most texts; layers 0 and 3 are global, 1 and 2 local.
MODERNBERT = {
    "local_attention": 4,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
BIASES = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
ROBERTA = {"max_position_embeddings": 42, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}


@dataclass(frozen=True)
class SmallBackbone:
    """A type of backbone.

    Attributes:
        model_type: transformers' name of it.
        fields: Of its config, over ``SIZES``.
        layers: Path of its layers in a cross-encoder.
        special_tokens: Names of the tokens that pad, stand for the unknown, start, end and mask.
        separators: Between the texts of a pair.
    """

    model_type: str
    fields: dict[str, Any]
    layers: str
    special_tokens: tuple[str, ...] = BERT_TOKENS
    separators: int = 1


BACKBONES = {
    "bert": SmallBackbone("bert", {}, "bert.encoder.layer"),
    "roberta": SmallBackbone("roberta", ROBERTA, "roberta.encoder.layer", ROBERTA_TOKENS, 2),
    "xlm-roberta": SmallBackbone("xlm-roberta", ROBERTA, "roberta.encoder.layer", ROBERTA_TOKENS, 2),
    "electra": SmallBackbone("electra", {"embedding_size": 16}, "electra.encoder.layer"),
    # Every bias that the config allows and mean pooling; then none and [CLS], as Ettin has it.
    "modernbert": SmallBackbone("modernbert", MODERNBERT | BIASES | {"classifier_pooling": "mean"}, "model.layers"),
    "ettin": SmallBackbone("modernbert", MODERNBERT, "model.layers"),
}


def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words and characters; special tokens and pairs are those of the backbone."""
    backbone = BACKBONES[name]
    ids = {token: place for place, token in enumerate((*backbone.special_tokens, *WORDS.split()))}
    for character in CHARACTERS:
        ids |= {token: len(ids) + place for place, token in enumerate((character, f"##{character}"))}
    if backbone.special_tokens is ROBERTA_TOKENS:
        cls, pad, sep, unknown, mask = ROBERTA_TOKENS
    else:
        pad, unknown, cls, sep, mask = BERT_TOKENS
    backend = Tokenizer(WordPiece(ids, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {' '.join([sep] * backbone.separators)} $B {sep}",
        special_tokens=[(token, ids[token]) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unknown,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_config(name: str, **fields: Any) -> Any:
    """The config of a small cross-encoder."""
    return AutoConfig.for_model(BACKBONES[name].model_type, **SIZES | BACKBONES[name].fields | fields)


def make_cross_encoder(name: str, shake: Callable[..., None], **fields: Any) -> PreTrainedModel:
    """A cross-encoder whose every parameter is off its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(make_config(name, **fields)).eval()
    shake(model, seed=4, scale=0.2)
    return model


def save_cross_encoder(name: str, folder: Path, shake: Callable[..., None], **fields: Any) -> Path:
    """Save it with its tokenizer."""
    make_cross_encoder(name, shake, **fields).save_pretrained(folder)
    make_tokenizer(name).save_pretrained(folder)
    return folder


def layers_of(name: str, cross_encoder: PreTrainedModel) -> list[Any]:
    """Its layers, from the bottom."""
    return list(cross_encoder.get_submodule(BACKBONES[name].layers))


@torch.no_grad()
def hidden_states(name: str, cross_encoder: PreTrainedModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """transformers' own, ``(N, S, h)`` each: the embeddings, then the output of every layer, before any last norm."""
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for layer in layers_of(name, cross_encoder)
    ]
    states = cross_encoder.base_model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    outputs = [output[0] if isinstance(output, tuple) else output for output in outputs]
    assert all(torch.equal(*pair) for pair in zip(outputs[:-1], states[1:-1], strict=True))
    return [states[0], *outputs]


def normalised(name: str, states: Tensor) -> Tensor:
    """What MICE keeps of a document's hidden states: those of a pre-norm backbone with zero mean and unit variance."""
    if BACKBONES[name].model_type != "modernbert":
        return states
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + make_config(name).norm_eps).sqrt()
