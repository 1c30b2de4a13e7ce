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

# Fields of a config that say where it comes from, and no score passes through.
UNSCORED = frozenset({"_name_or_path", "transformers_version", "auto_map", "architectures"})

# Model or tokenizer -> (what it looked like, its hash): hashing 90 MB of weights takes longer than ranking.
_known: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def module_of(model: Any) -> MiceTransformer:
    """The sentence-transformers module of a ``MiceCrossEncoder``; a module itself as it is."""
    return model if hasattr(model, "tokenize_side") else model.module


def model_name(model: Any) -> str:
    """What a model is called in messages and in stores: the Hub id or the folder that it was loaded from; else empty."""
    return str(getattr(module_of(model).model.config, "_name_or_path", "") or "")


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


def scoring_hash(model: Any) -> str:
    """SHA-256 over all that a score comes from, the side of the query included: two models with one hash score alike.

    That is every tensor of the model, adapters as far as they are active, its configuration, its tokenizer, its prompts and its activation.
    Where the model lies, and on which device, does not count.

    Args:
        model: A ``MiceCrossEncoder``.
    """
    config = {name: value for name, value in model.mice.config.to_dict().items() if name not in UNSCORED}
    choices: list[Any] = [config, dict(model.prompts), model.default_prompt_name, repr(model.activation_fn)]
    choices.append([model.max_seq_length, _tokenizer_hash(model.tokenizer)])
    tensors: dict[str, Tensor] = {}
    _collect(model.mice, "", tensors, choices)
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        _update(digest, name, tensors[name].detach())
    return digest.hexdigest()


def _weights_hash(model: Any) -> str:
    """SHA-256 over the tensors that documents pass through, and choices that change states; computed again after training."""
    config, backbone = model.config, model.config.backbone_config
    choices = [getattr(backbone, name) for name in ("model_type", *config.facts.state_choices)]
    choices += [config.document_layer_types, config.document_states]
    # Mask3's frame, as the four fields that it was when stores began to be bound to it.
    choices += [not config.mask3_frame, config.document_token_type, not config.mask3_frame, config.mask3_frame]
    if config.document_states == "per_layer":
        choices.append(config.interaction_layer_types)
    tensors: dict[str, Tensor] = {}
    for part, module in model.document_modules().items():
        _collect(module, f"{part}.", tensors, choices)
    look = (json.dumps(choices), *((name, *_identity(tensor)) for name, tensor in tensors.items()))
    if _known.get(model, (None, ""))[0] == look:
        return _known[model][1]
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True).encode())
    for name in sorted(tensors):
        _update(digest, name, tensors[name].detach())
    _known[model] = (look, digest.hexdigest())
    return digest.hexdigest()


def _collect(module: Any, prefix: str, tensors: dict[str, Tensor], choices: list[Any]) -> None:
    """Put the tensors that a module computes from into ``tensors``, by name, and settings beside them into ``choices``.

    Of adapters (peft) those count that are active and enabled, with their scale; a model without any, or with all of them
    disabled, gives what the bare model gives.
    """
    if hasattr(module, "modules_to_save") and hasattr(
        module, "original_module"
    ):  # a module that was trained as a whole
        active = next((name for name in module.active_adapters if name in module.modules_to_save), None)
        is_original = active is None or module.disable_adapters
        _collect(module.original_module if is_original else module.modules_to_save[active], prefix, tensors, choices)
        return
    if hasattr(module, "base_layer") and hasattr(module, "adapter_layer_names"):  # LoRA and its like
        _collect_adapter(module, prefix, tensors, choices)
        return
    hook = getattr(module, "_hf_hook", None)
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is None or name in module._non_persistent_buffers_set:
            continue
        if tensor.device.type == "meta":  # accelerate offloaded it
            offloaded = getattr(hook, "weights_map", None)
            if offloaded is None:
                raise ValueError(
                    f"{prefix}{name} has no values here (device meta): stores need a model with its weights."
                )
            tensor = offloaded[name]
        tensors[f"{prefix}{name}"] = tensor
    for name, child in module._modules.items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", tensors, choices)


def _collect_adapter(module: Any, prefix: str, tensors: dict[str, Tensor], choices: list[Any]) -> None:
    """The layer below an adapter, and of its adapters those that are active and not merged into it."""
    _collect(module.base_layer, prefix, tensors, choices)
    names = (
        []
        if module.disable_adapters
        else [name for name in module.active_adapters if name not in module.merged_adapters]
    )
    for place, adapter in enumerate(names):
        for kind in module.adapter_layer_names:
            parts = getattr(module, kind, None)
            if parts is None or adapter not in parts:
                continue
            if isinstance(parts[adapter], Tensor):
                tensors[f"{prefix}{kind}.{place}"] = parts[adapter]
            else:
                _collect(parts[adapter], f"{prefix}{kind}.{place}.", tensors, choices)
        scaling = getattr(module, "scaling", {})
        if adapter in scaling:
            choices.append([f"{prefix}scaling.{place}", scaling[adapter]])


def _identity(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies and how often it was changed: equal ones need not be hashed again."""
    if hasattr(tensor, "__tensor_flatten__"):  # a quantised weight, which has no memory of its own
        return id(tensor), tensor._version
    return tensor.data_ptr(), tensor._version


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    """Hash a tensor's name, dtype, shape and values; of a quantised weight those of its parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        parts, settings = tensor.__tensor_flatten__()
        digest.update(f"{name} {type(tensor).__name__} {settings}".encode())
        for part in parts:
            _update(digest, f"{name}.{part}", getattr(tensor, part))
        return
    tensor = tensor.cpu().contiguous()
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


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
