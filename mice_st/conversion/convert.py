"""Turn a cross-encoder, an encoder or an embedding model into MICE.

Lower layers become the contextualisation layers, later ones the interaction layers; an interaction layer's
cross-attention starts as a copy of the same layer's self-attention. Every tensor of the source is placed, dropped by
name, or an error; every tensor of the result is placed, reported as fresh, or an error.
"""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import load_file_path
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig
from transformers.utils import logging

from mice_st.conversion.key_tables import KEY_TABLES, KeyTable, Origin
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.model_folder import write_hub_folder
from mice_st.modeling.configuration_mice import MiceConfig, facts_of, lower_layers, positions_of
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.modeling.st_mice import check_tokenizer, count_pair_separators

logger = logging.get_logger(__name__)

# Scale of the pooled residual beside the MaxSim residual's 20. Of 2, 4, 6 and 8, each with several match bonuses and document shares,
# it is within .0004 of the best mean nDCG@10 over seven development collections, and better than that one on covidqa, where BM25 is
# strong (all-MiniLM-L6-v2, before any training, see docs/choices.md).
POOLED_BESIDE_MAX_SIM = 4.0


@dataclass(frozen=True)
class ConversionReport:
    """What became of each tensor.

    Attributes:
        placed: Tensor of the result -> tensor of the source that it is a copy of.
        fresh: Tensors of the result that the source has nothing for, in the order of the model.
        dropped: Tensors of the source that MICE has no place for (layers above, an unused pooler, pre-training heads).
    """

    placed: dict[str, str]
    fresh: list[str]
    dropped: list[str]

    def __str__(self) -> str:
        return f"{len(self.placed)} tensors placed, {len(self.fresh)} fresh, {len(self.dropped)} of the source dropped"


@dataclass
class _Source:
    """A checkpoint, read: backbone tensors under the backbone's own names, and what stands on top."""

    config: PretrainedConfig
    tokenizer: Any
    backbone: dict[str, Tensor]
    classifier: dict[str, Tensor] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)  # in the file, without a place in the source's own model
    pooling: str | None = None
    max_length: int | None = None

    @property
    def keys(self) -> KeyTable:
        """The names of this type of checkpoint."""
        return KEY_TABLES[self.config.model_type]

    @property
    def head(self) -> dict[str, str]:
        """Module of the head -> its origin in this checkpoint."""
        if not self.classifier:
            return self.keys.encoder_head
        has_classifier = f"{self.keys.cross_encoder_head['classifier']}.weight" in self.classifier
        return {
            name: origin
            for name, origin in self.keys.cross_encoder_head.items()
            if has_classifier or name != "classifier"
        }

    @property
    def has_pooler(self) -> bool:
        """Whether all is there that stands between [CLS] and the classifier."""
        poolers = [origin for name, origin in self.head.items() if name.startswith("pooler")]
        return bool(poolers) and all(f"{origin}.weight" in self.backbone | self.classifier for origin in poolers)


def convert(
    source: str | Path,
    contextualization_layers: int | None = None,
    interaction_layers: int | Sequence[int] | None = None,
    *,
    seeded: bool = True,
    seed: int = 0,
    **config_fields: Any,
) -> tuple[MiceCrossEncoder, ConversionReport]:
    """Convert a checkpoint to MICE.

    From a cross-encoder, pooler and classifier are kept. From an encoder, the classifier is fresh. From an embedding
    model, its pooling becomes the pooled residual, the classifier starts at zero, and all its layers contextualise by
    default, with interaction layers that are copies of its last ones: the result starts as that embedding model.

    Args:
        source: Folder or Hub id.
        contextualization_layers: Lower layers to keep; all of them by default for an embedding model.
        interaction_layers: Layers above them: how many, or which of the backbone's, from 0. A number takes those that
            follow the contextualisation layers, or an embedding model's last ones where none are left. None takes all
            that follow, or an embedding model's last two.
        seeded: Whether interaction layers start as copies of these; False draws them at random.
        seed: Of the generator that draws fresh tensors.
        **config_fields: Any other field of ``MiceConfig``.

    Returns:
        The model, and the report of what was placed.

    Raises:
        FileNotFoundError: If ``source`` is a path that does not exist.
        ValueError: If the backbone is of an unknown type, has too few layers, gives several labels, if a config field
            is unknown, or if a tensor is missing or left over; the message names it.
    """
    known = set(inspect.signature(MiceConfig).parameters) - {"backbone_config", "kwargs"}
    if unknown := sorted(set(config_fields) - known):
        raise ValueError(f"MiceConfig has no field {unknown}; known are {sorted(known)}.")
    read = _read_source(str(source))
    config, seeds = _plan(read, contextualization_layers, interaction_layers, config_fields)
    check_tokenizer(read.tokenizer, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Whatever the default dtype of the process is.
        model: Any = MiceForSequenceClassification._from_config(config, dtype=torch.float32)
        if model.query_projection is not None and model.document_projection is not None:
            # One orthogonal map on both sides: cosines of narrow states start near those of wide ones.
            torch.nn.init.orthogonal_(model.document_projection.weight)
            model.query_projection.weight.data.copy_(model.document_projection.weight.data)
    if config.pooled_residual or config.max_sim_residual:
        torch.nn.init.zeros_(model.classifier.weight)  # the score starts as what is beside the head
    if model.max_sim_residual is not None and config.pooled_residual:
        model.pooled_residual_log_scale.data.fill_(math.log(POOLED_BESIDE_MAX_SIM))
    report = _place(model, read, seeds if seeded else [])
    logger.info(f"Converted {source}: {report}")
    with tempfile.TemporaryDirectory() as folder:
        write_hub_folder(model, read.tokenizer, Path(folder))
        return MiceCrossEncoder(folder, local_files_only=True), report


def _read_source(source: str) -> _Source:
    if not Path(source).exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise FileNotFoundError(f"{source}: there is no such folder")  # transformers would call it a bad Hub id
    config = AutoConfig.from_pretrained(source)
    facts_of(config)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ValueError(f"{source}: the tokenizer has no [CLS] or no [SEP] token.")
    count_pair_separators(tokenizer)
    architecture = (config.architectures or [""])[0]
    is_embedding_model = load_file_path(source, "modules.json") is not None
    is_classifier = architecture.endswith("ForSequenceClassification")
    is_headed = architecture in KEY_TABLES[config.model_type].pretrained_with_head and not is_embedding_model
    loader = AutoModelForSequenceClassification if is_classifier or is_headed else AutoModel
    labels = {"num_labels": 1} if is_headed else {}
    model, info = loader.from_pretrained(source, output_loading_info=True, dtype=torch.float32, **labels)
    optional = ("pooler.", "classifier.") if is_headed else ("pooler.",)
    without = {key for key in info["missing_keys"] if key.startswith(optional)}
    if missing := sorted(set(info["missing_keys"]) - without):
        raise ValueError(f"{source}: the checkpoint lacks {missing}.")
    tensors = {key: tensor for key, tensor in model.state_dict().items() if key not in without}
    unread = sorted(info["unexpected_keys"])
    if not (is_classifier or is_headed):
        read = _Source(config, tokenizer, tensors, unread=unread)
        if is_embedding_model:
            _read_pooling(source, read)
        return read
    if is_classifier and config.num_labels != 1:
        raise ValueError(f"{source}: its classifier gives {config.num_labels} labels, a re-ranker needs one.")
    prefix = model.base_model_prefix + "."
    backbone = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    classifier = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
    return _Source(config, tokenizer, backbone, classifier, unread)


def _read_pooling(source: str, read: _Source) -> None:
    """Take pooling and maximum length from the modules of an embedding model."""
    model = SentenceTransformer(source, device="cpu")
    names = [type(module).__name__ for module in model]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"{source}: modules {names}; only Transformer, Pooling and Normalize become a pooled residual."
        )
    read.pooling = model[1].pooling_mode
    read.max_length = model.max_seq_length


def _plan(
    read: _Source, below: int | None, above: int | Sequence[int] | None, fields: dict[str, Any]
) -> tuple[MiceConfig, list[int]]:
    """The config of the result, and the backbone layer that seeds each interaction layer."""
    depth = read.config.num_hidden_layers
    if below is None:
        if read.pooling is None:
            raise ValueError("contextualization_layers: must be given for a source that is not an embedding model.")
        below = depth
    for name, layers in (
        ("contextualization_layers", below),
        ("document_contextualization_layers", fields.get("document_contextualization_layers")),
    ):
        if layers is not None and not 1 <= layers <= depth:
            raise ValueError(f"{name}: must lie between 1 and the backbone's {depth} layers, got {layers}.")
    is_full = below == depth and read.pooling is not None
    if isinstance(above, Sequence):
        seeds = list(above)
    elif above is None:
        seeds = list(range(max(depth - 2, 0) if is_full else below, depth))
    else:
        first = depth - above if is_full else below
        seeds = list(range(first, first + above))
    if not all(0 <= layer < depth for layer in seeds):
        raise ValueError(
            f"interaction_layers: {len(seeds)} layers from {seeds} do not fit a backbone of {depth} layers, "
            f"{below} of which contextualise; ask for fewer, or name them."
        )
    backbone = lower_layers(read.config, below)
    positions = positions_of(backbone)
    defaults = {
        "pooled_residual": read.pooling is not None,
        "pooling": read.pooling or "mean",
        "pooler": read.pooling is None and read.has_pooler,
        "query_max_length": min(64, positions),
        "document_max_length": min(read.max_length or 512, positions),
        "cls_token_id": read.tokenizer.cls_token_id,
        "sep_token_id": read.tokenizer.sep_token_id,
        "unk_token_id": read.tokenizer.unk_token_id,
        "pair_separators": count_pair_separators(read.tokenizer),
    }
    if seeds and min(seeds) < read.keys.lowest_seed:
        raise ValueError(
            f"interaction_layers: layer 0 of {read.config.model_type!r} has no attention norm, choose among those above."
        )
    if facts_of(read.config).has_layer_types:  # layers are of the types of those that they copy
        own = fields.get("document_contextualization_layers")
        defaults["interaction_layer_types"] = [read.config.layer_types[layer] for layer in seeds]
        defaults["document_layer_types"] = None if own is None else read.config.layer_types[:own]
    return MiceConfig(backbone_config=backbone, interaction_layers=len(seeds), **defaults | fields), seeds


def _place(model: MiceForSequenceClassification, read: _Source, seeds: list[int]) -> ConversionReport:
    """Copy the source's tensors into the model and account for every one of both."""
    target, tensors = model.state_dict(), read.backbone | read.classifier
    # Tensor of the result -> tensor of the source, and the part of it.
    wanted = {name: (key, Origin("")) for name, key in _contextualization(read, model.config)}
    is_narrow = model.config.interaction_hidden_size is not None  # then nothing of the backbone's width fits on top
    for name, origin in ({} if is_narrow else _origins(read, seeds, model.config)).items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in target or f"{origin.module}.{kind}" in tensors:
                wanted[f"{name}.{kind}"] = f"{origin.module}.{kind}", origin
    used = {key for key, _ in wanted.values()}
    if missing := sorted(used - set(tensors)):
        raise ValueError(f"The source lacks {missing}.")
    if astray := sorted(set(wanted) - set(target)):
        raise ValueError(f"MICE has no place for {[wanted[key][0] for key in astray]} of the source.")
    droppable = [read.keys.layers, "pooler."]
    droppable += [origin for name, origin in read.head.items() if is_narrow or name.startswith("pooler")]
    droppable += read.classifier if is_narrow else []
    dropped = sorted(set(tensors) - used)
    unknown = [key for key in dropped if not key.startswith(tuple(droppable))]
    unknown += [key for key in read.unread if not key.startswith(read.keys.droppable)]
    if unknown:
        raise ValueError(f"Left over of the source: {unknown}.")
    fresh = [key for key in target if key not in wanted]
    known = ["classifier.", "pooled_residual_log_scale", "max_sim_residual.", "global_cls"]
    if is_narrow:
        known += ["pooler.", "final_norm.", "query_projection.", "document_projection."]
    if is_narrow or not seeds:
        known += ["interaction."]
    new = (".exact_match.", ".lexical_bias")
    if lost := [key for key in fresh if not key.startswith(tuple(known)) and not any(part in key for part in new)]:
        raise ValueError(f"The source has nothing for {lost}.")
    copies = {key: part.of(tensors[name]) for key, (name, part) in wanted.items()}
    model.load_state_dict(copies, strict=False)
    return ConversionReport({key: name for key, (name, _) in wanted.items()}, fresh, dropped + read.unread)


def _contextualization(read: _Source, config: MiceConfig) -> Iterator[tuple[str, str]]:
    """Each tensor of the contextualisation layers, and the tensor of the source that it is a copy of."""
    prefix, own = read.keys.layers, config.document_contextualization_layers
    for key in read.backbone:
        layer = int(key.removeprefix(prefix).split(".")[0]) if key.startswith(prefix) else -1
        if key.rpartition(".")[0] in {"pooler.dense", *read.head.values()}:
            continue
        if layer < config.contextualization_layers:
            yield f"backbone.{key}", key
        if own is not None and layer < own:
            yield f"document_backbone.{key}", key


def _origins(read: _Source, seeds: list[int], config: MiceConfig) -> dict[str, Origin]:
    """Module above the contextualisation layers -> where it comes from; cross-attention starts as self-attention."""
    origins = {}
    for place, layer in enumerate(seeds):
        for name, origin in read.keys.layer_tensors.items():
            origin = origin._replace(module=f"{read.keys.layers}{layer}.{origin.module}")
            block, _, part = name.partition(".")
            if block != "self_attention" or config.query_self_attention:
                origins[f"interaction.{place}.{name}"] = origin
            # One attention over query and document has the weights of the self-attention, and no others.
            if block == "self_attention" and config.interaction_attention == "split":
                origins[f"interaction.{place}.cross_attention.{part}"] = origin
    absent = [name for name, has in (("pooler", config.pooler), ("pooled_norm", config.pooled_residual)) if not has]
    head = {name: Origin(module) for name, module in read.head.items() if not name.startswith(tuple(absent))}
    return origins | head
