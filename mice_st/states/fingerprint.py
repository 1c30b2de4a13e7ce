"""The fingerprint of a model: a hash of exactly what a document passes through on its way to stored states."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .identity import Fingerprint

if TYPE_CHECKING:
    from mice_st.modeling.st_mice import MiceTransformer

# Choices of MICE that change states without changing a weight; the backbone names its own.
_DOCUMENT_CHOICES = (
    "document_layer_types",
    "document_states",
    "document_cls",
    "document_token_type",
    "contextualization_attends_cls",
    "sep_attends_itself_alone",
)

# Model or tokenizer -> (what it looked like, its hash): hashing 90 MB of weights takes longer than ranking.
_known: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def module_of(model: Any) -> MiceTransformer:
    """The sentence-transformers module of a ``MiceCrossEncoder``; a module itself as it is."""
    return model if hasattr(model, "tokenize_side") else model.module


def fingerprint_of(model: Any, codec: str, prompt: str = "") -> Fingerprint:
    """What binds a store to this model.

    Weights that only queries pass through (interaction layers, head) are left out: they may be trained on while the stored states stay true.
    So are choices that concern queries alone.

    Args:
        model: A ``MiceCrossEncoder``, or its ``MiceTransformer``.
        codec: How the states are stored, see ``mice_st.states.codecs``.
        prompt: Text put before each document.

    Raises:
        ValueError: If there is no such codec.
    """
    module = module_of(model)
    config = module.model.config
    return Fingerprint(
        weights_sha256=_weights_hash(module.model),
        tokenizer_sha256=_tokenizer_hash(module.tokenizer),
        layer=config.document_contextualization_layers or config.contextualization_layers,
        max_length=config.document_max_length,
        prompt=prompt,
        dtype=str(module.model.dtype).removeprefix("torch."),
        codec=codec,
        width=config.state_width,
    )


def _weights_hash(model: Any) -> str:
    """SHA-256 over the tensors that documents pass through, and choices that change states; computed again after training."""
    tensors = _document_tensors(model)
    backbone = model.config.backbone_config
    choices = [getattr(backbone, name) for name in ("model_type", *model.config.backbone.state_choices)]
    choices += [getattr(model.config, name) for name in _DOCUMENT_CHOICES]
    if model.config.document_states == "per_layer":
        choices.append(model.config.interaction_layer_types)
    look = (*choices, *((name, tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()))
    if _known.get(model, (None, ""))[0] == look:
        return _known[model][1]
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    _known[model] = (look, digest.hexdigest())
    return digest.hexdigest()


def _document_tensors(model: Any) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor
        for part, module in model.document_modules().items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def _tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of the tokenizer's definition, without padding and truncation, which calls leave behind in it."""
    look = len(tokenizer)
    if _known.get(tokenizer, (None, ""))[0] == look:
        return _known[tokenizer][1]
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition = {name: value for name, value in definition.items() if name not in ("padding", "truncation")}
    digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
    _known[tokenizer] = (look, digest)
    return digest
