"""MICE: Minimal Interaction Cross-Encoders. This code travels with every Hub repository.

A cross-encoder reads query and document together in every layer. MICE keeps the interactions that ranking needs
(arXiv 2602.16299): the lower layers of the backbone contextualise query and document apart, the document's states are
then frozen, and a few interaction layers let the query's tokens read those states, one way. The score is read off the
query's [CLS]. Documents never see a query, so their states can be computed once and stored.

This file is the obvious reference, from top to bottom in the order of execution: padded batches, one line of mathematics
per line of code, every module called. ``layers_mice.py`` holds the parts; ``interaction_mice.py`` computes the same scores
faster for one query and many documents.

Shape letters used in comments:
    B  pairs in a batch              N  texts in a batch (queries or documents)
    Q  query tokens, padded          D  document tokens, padded
    R  rows that read (Q or 1)       S  states that are read (Q or D)
    H  attention heads               d  width of a head, h / H
    h  width of the states: the backbone's, or interaction_hidden_size
    s  width of the document states: h, or a multiple of it where layers read their own

References:
    - MICE: https://arxiv.org/abs/2602.16299
    - Exact-match heads ("Lex") and the ``cross_first`` order: the authors' later version of the same paper.
"""

import json
import math
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

from .configuration_mice import MiceConfig
from .interaction_mice import CHUNK_DOCUMENTS, score_documents
from .layers_mice import (
    DocumentStates,
    EncodedTexts,
    MiceClassifier,
    MiceInteractionLayer,
    MiceLayerNorm,
    MiceMaxSimResidual,
    MicePooler,
    MicePredictionHead,
    average_matches,
    document_attention_mask,
    exact_matches,
    is_one_of,
    normalise,
    text_attention_mask,
    window_mask,
)

logger = logging.get_logger(__name__)

# transformers sets the process's default dtype while it loads a model: two loads at once give each other's.
_LOADING = threading.RLock()
# Cosines lie in [-1, 1]: 20 is the usual scale of embedding models' own losses.
POOLED_RESIDUAL_SCALE = 20.0
# Where torch keeps layers whose activations are scaled per batch: a document's score would depend on its neighbours.
SCALED_PER_BATCH = "torch.ao.nn.quantized.dynamic"


WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def remove_stale_weights(folder: Path) -> None:
    """Remove weights of an earlier save in another layout.

    transformers writes shards beside a ``model.safetensors`` that lies there, and reads that file first; and it leaves the index
    of shards that it removes. Whichever layout was saved last, all of its files are there.

    Raises:
        FileNotFoundError: If neither layout is whole; names a file that is missing.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        return
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    shards = {path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)}
    if named <= shards:
        stale = {WEIGHTS_FILE, *(shards - named)}
    elif (folder / WEIGHTS_FILE).is_file():
        stale = {INDEX_FILE, *shards}
    else:
        raise FileNotFoundError(f"{index}: names {min(named - shards)}, which is not there")
    for name in stale:
        (folder / name).unlink(missing_ok=True)


class MicePreTrainedModel(PreTrainedModel):
    """Loading that never leaves a tensor at its random start."""

    config_class = MiceConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [
        "BertLayer",
        "RobertaLayer",
        "XLMRobertaLayer",
        "ElectraLayer",
        "ModernBertEncoderLayer",
        "MiceInteractionLayer",
    ]

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but a missing or an unexpected tensor is an error.

        Raises:
            ValueError: If the checkpoint lacks a tensor of the model, or holds one that has no place in it, or a tensor
                came out in another dtype than the config says; the message names them.
        """
        with _LOADING:
            model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        faults = [f"{kind}: {sorted(info[kind])}" for kind in ("missing_keys", "unexpected_keys") if info[kind]]
        if faults:
            raise ValueError(f"The checkpoint does not fit {cls.__name__}. {'; '.join(faults)}")
        _check_dtypes(model)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in transformers; weights of an earlier save in another layout go, which the next load would take."""
        super().save_pretrained(save_directory, *args, **kwargs)
        remove_stale_weights(Path(save_directory))

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None, **kwargs: Any) -> None:
        """As in transformers, with a warning of what the adapter neither trains nor saves, and MICE has to learn."""
        super().add_adapter(adapter_config, adapter_name, **kwargs)
        named = set(getattr(adapter_config, "modules_to_save", None) or ())
        modules = [
            name for name in ("classifier", "pooler", "max_sim_residual") if getattr(self, name, None) is not None
        ]
        left_out = [name for name in modules if name not in named]
        hint = f" (name them: modules_to_save={modules})" if left_out else ""
        if self.config.pooled_residual:
            left_out.append("pooled_residual_log_scale")
        if left_out:
            logger.warning(
                f"The adapter trains and saves itself alone: {', '.join(left_out)} of the head and its residuals stay as "
                f"they are{hint}."
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MiceLayerNorm):
            init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, MiceInteractionLayer) and module.lexical_bias is not None:
            init.zeros_(module.lexical_bias)
        elif isinstance(module, MiceMaxSimResidual):
            init.zeros_(module.log_weights)
            init.constant_(module.log_scale, math.log(module.SCALE))
            init.constant_(module.match_bonus, module.MATCH_BONUS)
            init.constant_(module.document_share, module.DOCUMENT_SHARE)
        elif isinstance(module, MiceForSequenceClassification):
            if module.config.pooled_residual:
                init.constant_(module.pooled_residual_log_scale, math.log(POOLED_RESIDUAL_SCALE))
            if module.config.global_cls:
                init.normal_(module.global_cls)  # of a LayerNorm's size, as the other rows are


def _check_dtypes(model: PreTrainedModel) -> None:
    """Refuse a model that another thread's load gave its dtype.

    Raises:
        ValueError: If a tensor has another dtype than ``config.dtype``; names the first one.
    """
    wanted = getattr(model.config, "dtype", None)
    if not isinstance(wanted, torch.dtype) or getattr(model, "hf_quantizer", None) is not None:
        return
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != wanted:
            raise ValueError(
                f"{name} came out as {parameter.dtype}, the config says {wanted}: another model was loaded in another "
                "thread at the same time, which transformers does not support. Load it again, one model after the other."
            )


class MiceForSequenceClassification(MicePreTrainedModel):
    """The re-ranker. ``forward`` takes ordinary pair encodings; ``encode_*`` and ``score`` take it apart."""

    # ------------------------------------------------------------------------------------------------------------ building

    def __init__(self, config: MiceConfig) -> None:
        super().__init__(config)
        self.num_labels = 1
        self.reads_cls = config.head_pooling == "cls"  # otherwise the mean of the query's rows
        self.document_token_type = config.document_token_type
        self.pre_norm_eps = config.layer_settings.norm_eps if config.facts.pre_norm else None
        self.backbone: Any = self._build_backbone(config.backbone_config)
        own = config.document_contextualization_layers is not None
        self.document_backbone: Any = self._build_backbone(config.document_backbone_config()) if own else None
        # Free of bias, so that the mean of narrow states is the narrow mean: the pooled residual stays a cosine of means.
        narrow = config.interaction_hidden_size is not None
        self.query_projection: Any = self._build_projection() if narrow else None
        self.document_projection: Any = self._build_projection() if narrow else None
        layers = range(config.interaction_layers)
        self.interaction = nn.ModuleList(MiceInteractionLayer(config, index) for index in layers)
        # Pre-norm backbones end in a norm, which has its place after the interaction layers.
        self.final_norm = MiceLayerNorm(config) if config.facts.pre_norm else None
        self.pooler: Any = None
        if config.pooler and config.facts.pooler_activation is None:
            self.pooler = MicePredictionHead(config)
        elif config.pooler and config.facts.pooler_activation is not None:
            self.pooler = MicePooler(config.interaction_width, config.facts.pooler_activation)
        self.dropout = nn.Dropout(config.layer_settings.classifier_dropout)
        self.classifier = MiceClassifier(config.interaction_width, 1)
        if config.pooled_residual:
            self.pooled_residual_log_scale = nn.Parameter(torch.full((1,), math.log(POOLED_RESIDUAL_SCALE)))
        # An embedding model pools behind its last norm. Narrow states have none that would fit.
        has_norm = config.facts.pre_norm and config.pooled_residual and not narrow
        self.pooled_norm = MiceLayerNorm(config) if has_norm else None
        self.max_sim_residual: Any = MiceMaxSimResidual(config) if config.max_sim_residual else None
        if config.global_cls:
            self.global_cls = nn.Parameter(torch.randn(config.interaction_width))
        self.post_init()

    def _build_backbone(self, config: Any) -> Any:
        """Contextualisation layers, without a pooler and, where they are pre-norm, without the norm behind the last one."""
        fields: dict[str, Any] = {"add_pooling_layer": False} if self.config.facts.has_pooling_layer else {}
        # from_config would take the dtype of the backbone's own config, in place of the one that is being loaded.
        fields |= {"dtype": torch.get_default_dtype(), "attn_implementation": self.config._attn_implementation}
        backbone = AutoModel.from_config(config, **fields)
        if self.config.facts.pre_norm:
            backbone.final_norm = nn.Identity()
        return backbone

    def _build_projection(self) -> nn.Linear:
        return nn.Linear(self.config.hidden_size, self.config.interaction_width, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of queries; documents share them, unless they have layers of their own."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of queries."""
        self.backbone.set_input_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """As in transformers, and all else that has a row for each token: documents' own embeddings, MaxSim's weights."""
        embeddings: Any = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        tokens = embeddings.num_embeddings
        self.config.vocab_size = tokens
        if self.document_backbone is not None:
            self.document_backbone.resize_token_embeddings(tokens, mean_resizing=mean_resizing)
        if self.max_sim_residual is not None:
            self.max_sim_residual.resize(tokens)
        return embeddings

    def document_modules(self) -> dict[str, nn.Module]:
        """The modules that documents pass through on the way to their states, by name; queries may pass through them as well."""
        modules: dict[str, nn.Module] = {"backbone": self.backbone}
        if self.document_backbone is not None:
            modules = {"document_backbone": self.document_backbone}
        for name in ("document_projection", "pooled_norm"):
            if (module := getattr(self, name)) is not None:
                modules[name] = module
        for index, layer in enumerate(self._document_layers()):
            modules[f"interaction.{index}.self_attention"] = layer.self_attention
            modules[f"interaction.{index}.feed_forward"] = layer.feed_forward
            if layer.attention_norm is not None:
                modules[f"interaction.{index}.attention_norm"] = layer.attention_norm
        return modules

    def _document_layers(self) -> list[Any]:
        """Interaction layers that documents pass through, alone. The output of the last one that reads them is nobody's state."""
        if self.config.document_states == "frozen":
            return []
        return list(self.interaction[: self.config.reading_layers - 1])

    def freeze_contextualization(self) -> None:
        """Train nothing that documents pass through, so that their states can be stored and read while training."""
        for module in self.document_modules().values():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "MiceForSequenceClassification":
        """As in torch; what is frozen of the documents' way stays in evaluation mode, so that stored states stay true."""
        super().train(mode)
        for module in self.document_modules().values() if mode else ():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    # --------------------------------------------------------------------------------------------------- contextualisation

    def encode_queries(self, input_ids: Tensor, attention_mask: Tensor) -> EncodedTexts:
        """Contextualise queries ``[CLS] query [SEP]``, ``(N, Q)`` each; the first step of a score.

        Raises:
            ValueError: If an id lies outside the vocabulary, or layers are quantised so that scores depend on neighbours.
        """
        return self._encode(input_ids, attention_mask, "query", self.query_projection)

    def encode_documents(self, input_ids: Tensor, attention_mask: Tensor) -> EncodedTexts:
        """Contextualise documents, ``(N, D)`` each, without any query.

        Documents are ``[CLS] document [SEP]``, without the [CLS] where ``mask3_frame`` is on. Of the states ``(N, D, s)``,
        columns ``i * h`` to ``(i + 1) * h`` are what interaction layer ``i`` reads where each reads its own.

        Raises:
            ValueError: As ``encode_queries``.
        """
        encoded = self._encode(input_ids, attention_mask, "document", self.document_projection)
        if self.config.document_states == "frozen":
            return encoded._replace(states=self.readable(encoded.states))
        mask = self._text_mask(encoded.attention_mask, "document")  # (N, 1, D, D)
        states = [encoded.states]
        for layer in self._document_layers():
            states.append(layer.contextualize(states[-1], mask))  # (N, D, h)
        return encoded._replace(states=torch.cat([self.readable(rows) for rows in states], dim=-1))  # (N, D, s)

    def _encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        side: str,
        projection: nn.Module | None,
        hidden_states: list[Tensor] | None = None,
        attentions: list[Tensor] | None = None,
    ) -> EncodedTexts:
        """Contextualise texts; the lists take the backbone's hidden states and attention weights, as for ``forward``."""
        if not torch.compiler.is_compiling():
            self._check_input(input_ids)
        arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
        if self.config.mask3_frame:
            arguments["attention_mask"] = self._backbone_masks(self._text_mask(attention_mask.bool(), side))
        if side == "document" and self.document_token_type:
            arguments["token_type_ids"] = torch.full_like(input_ids, self.document_token_type)
        # Said in every call: a config that asks for these would have documents collect them for nothing.
        arguments["output_hidden_states"] = hidden_states is not None
        arguments["output_attentions"] = attentions is not None
        is_apart = side == "document" and self.document_backbone is not None
        output = (self.document_backbone if is_apart else self.backbone)(**arguments, return_dict=True)
        states = output.last_hidden_state
        if hidden_states is not None:
            hidden_states += output.hidden_states
        if attentions is not None:
            attentions += output.attentions
        if projection is not None:
            states = projection(self.readable(states))
        return EncodedTexts(states, attention_mask.bool(), input_ids)

    def _check_input(self, input_ids: Tensor) -> None:
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise ValueError(
                f"input_ids: ids from {int(input_ids.min())} to {int(input_ids.max())} do not fit a vocabulary of "
                f"{self.config.vocab_size}; is this the model's own tokenizer?"
            )
        if any(type(module).__module__.startswith(SCALED_PER_BATCH) for module in self.modules()):
            raise ValueError(
                "Layers of quantize_dynamic scale their input per batch, so that a document's score would depend on its "
                "neighbours: quantise weights alone, or scale activations per token."
            )

    def _text_mask(self, attention_mask: Tensor, side: str) -> Tensor:
        """Which tokens of texts ``(N, S)`` read which of their own text while they are contextualised, ``(N, 1, S, S)``."""
        mask3 = self.config.mask3_frame
        return text_attention_mask(
            attention_mask, attends_cls=not mask3 or side == "document", sep_attends_itself_alone=mask3
        )

    def _backbone_masks(self, mask: Tensor) -> Any:
        """A mask of our own, ``(N, 1, S, S)``, bool, as the backbone takes it; one per type of layer where it has several."""
        backbone = self.config.backbone_config
        window = (
            window_mask(mask.shape[-1], backbone.sliding_window, mask.device)
            if self.config.facts.has_layer_types
            else None
        )
        local = mask if window is None else mask & window
        if self.config._attn_implementation == "eager":  # adds its mask to the logits
            blocked = torch.finfo(self.dtype).min
            mask, local = (
                torch.zeros_like(part, dtype=self.dtype).masked_fill(~part, blocked) for part in (mask, local)
            )
        return mask if window is None else {"full_attention": mask, "sliding_attention": local}

    def readable(self, states: Tensor) -> Tensor:
        """States ``(..., h)`` as layers read them, up to a layer's own scale: normalised where the backbone is pre-norm.

        Document states are kept like this.
        """
        return states if self.pre_norm_eps is None else normalise(states, self.pre_norm_eps)

    # --------------------------------------------------------------------------------------------------------------- score

    def score(
        self,
        queries: EncodedTexts,
        documents: EncodedTexts,
        hidden_states: list[Tensor] | None = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """Score query i against document i.

        Args:
            queries: B contextualised queries.
            documents: B contextualised documents.
            hidden_states: A list that takes the query's rows after each interaction layer, ``(B, Q, h)``; of the last layer
                ``(B, 1, h)`` where the head reads [CLS] alone. None to keep none.
            attentions: A list that takes the weights with which each layer reads the document, ``(B, H, R, D)``.

        Returns:
            ``(B, 1)``, float32, logits: higher is more relevant.

        Raises:
            ValueError: If a score is not finite (outside training, where the trainer decides); names the rows.
        """
        config = self.config
        query_mask = text_attention_mask(queries.attention_mask, config.query_attends_cls, config.mask3_frame)
        document_mask = document_attention_mask(queries.attention_mask, documents.attention_mask, config)
        matches = matched = None
        if config.exact_match or config.lexical_bias:
            matches = exact_matches(queries, documents, config.unmatched_ids)  # (B, Q, D)
            matched = average_matches(matches, documents.states) if config.exact_match else None  # (B, Q, s)
        rows = self.replace_cls(queries.states)
        for index, layer in enumerate(self.interaction):
            states, means = (self.layer_states(part, index) for part in (documents.states, matched))
            rows = layer(rows, states, query_mask, document_mask, means, matches, attentions)
            if hidden_states is not None:
                hidden_states.append(rows)
        logits = self.head(rows, queries.attention_mask)
        if config.pooled_residual:
            logits = logits + self.residual(self.pool_queries(queries), self.pool(documents))
        if self.max_sim_residual is not None:
            first: Any = self.layer_states(documents.states, 0)
            readable = queries._replace(states=self.readable(queries.states))
            logits = logits + self.max_sim_residual(readable, documents._replace(states=first))
        is_word = documents.attention_mask & ~is_one_of(documents.input_ids, (config.cls_token_id, config.sep_token_id))
        return self.finish(logits, ~is_word.any(-1))

    def replace_cls(self, rows: Tensor) -> Tensor:
        """Contextualised queries ``(..., Q, h)`` as the interaction layers find them: [CLS] is learned with ``global_cls``."""
        if not self.config.global_cls:
            return rows
        cls_row = self.global_cls.to(rows.dtype).expand(*rows.shape[:-2], 1, -1)
        return torch.cat([cls_row, rows[..., 1:, :]], dim=-2)

    def layer_states(self, states: Tensor | None, index: int) -> Tensor | None:
        """The part of ``states`` ``(..., s)`` that interaction layer ``index`` reads: a view, ``(..., h)``.

        A last layer that reads nothing gets what the one before it reads.
        """
        if states is None or self.config.document_states == "frozen":
            return states
        width, index = self.config.interaction_width, min(index, self.config.reading_layers - 1)
        return states[..., index * width : (index + 1) * width]

    # ---------------------------------------------------------------------------------------------------------------- head

    def head(self, rows: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The query's rows after the last layer to logits.

        Args:
            rows: ``(B, R, h)``; [CLS] alone is read, or their mean.
            attention_mask: ``(B, R)``, bool, False at padding; None where there is none.

        Returns:
            ``(B, 1)``, float32.
        """
        rows = rows[:, :1] if self.reads_cls else rows
        rows = rows if self.final_norm is None else self.final_norm(rows)
        if self.reads_cls:
            pooled = rows[:, 0]
        elif attention_mask is None:
            pooled = rows.mean(1)
        else:
            mask = attention_mask.unsqueeze(-1)
            pooled = (rows * mask).sum(1) / mask.sum(1)
        return self.classifier(self.dropout(pooled if self.pooler is None else self.pooler(pooled)))

    def pool(self, documents: EncodedTexts) -> Tensor:
        """One vector per document, ``(N, h)``, float32: the embedding that the pooled residual compares."""
        first: Any = self.layer_states(documents.states, 0)
        states = first.float()
        if self.config.pooling == "cls":
            return self.scale_pooled(states[:, 0])
        mask = documents.attention_mask.unsqueeze(-1)
        return self.scale_pooled((states * mask).sum(1) / mask.sum(1))

    def pool_queries(self, queries: EncodedTexts) -> Tensor:
        """The same per query."""
        return self.pool(queries._replace(states=self.readable(queries.states)))

    def scale_pooled(self, pooled: Tensor) -> Tensor:
        """The scale of the embedding model's last norm, on the mean ``(N, h)`` of normalised states: the mean is linear."""
        return pooled if self.pooled_norm is None else self.pooled_norm(pooled, is_normalised=True)

    def residual(self, pooled_queries: Tensor, pooled_documents: Tensor) -> Tensor:
        """``exp(s) * cos``, ``(B, 1)``, float32, of pooled vectors ``(B, h)``."""
        cosine = F.cosine_similarity(pooled_queries.float(), pooled_documents.float(), dim=-1)
        return (self.pooled_residual_log_scale.float().exp() * cosine).unsqueeze(-1)

    def finish(self, logits: Tensor, is_empty: Tensor) -> Tensor:
        """Scale logits ``(B, 1)``, and give documents without a word their own score, outside training.

        Args:
            logits: The sum of head and residuals.
            is_empty: Which documents hold nothing but special tokens, ``(B,)``, bool.

        Raises:
            ValueError: If a score is not finite outside training; names the rows.
        """
        logits = logits * self.config.score_scale
        if self.training:
            return logits
        logits = logits.masked_fill(is_empty.unsqueeze(-1), self.config.empty_document_score)
        if not torch.compiler.is_compiling() and not bool(logits.isfinite().all()):
            rows = (~logits.isfinite()).any(-1).nonzero().flatten().tolist()
            raise ValueError(f"Scores are not finite in rows {rows[:10]}: the weights or the document states hold NaN.")
        return logits

    # --------------------------------------------------------------------------------------------------------------- pairs

    def score_documents(self, query: EncodedTexts, documents: Any, chunk_documents: int = CHUNK_DOCUMENTS) -> Tensor:
        """``score`` for one query and many documents, many times faster; see ``interaction_mice.score_documents``."""
        return score_documents(self, query, documents, chunk_documents)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        queries: EncodedTexts | None = None,
        documents: EncodedTexts | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Score pair encodings ``[CLS] query [SEP] document [SEP]`` as any tokenizer of the backbone makes them.

        RoBERTa's have two [SEP] between query and document, see ``pair_separators``.

        Args:
            input_ids: ``(B, L)``, int64. Split inside at the first [SEP].
            attention_mask: ``(B, L)``; all ones where it is left out.
            token_type_ids: Accepted and not needed: both sides are encoded apart, each with its own token type.
            position_ids: Refused: both sides count from 0.
            inputs_embeds: Refused: a pair is split at its [SEP], which needs its ids.
            labels: ``(B,)``; with them, ``loss`` is the mean squared error of the logits, as transformers has it
                for one label.
            queries: B contextualised queries, with ``documents`` in place of ``input_ids``.
            documents: B contextualised documents.
            output_hidden_states: Whether to return ``hidden_states``, all of the query: its embeddings, its states after each
                contextualisation layer and after each interaction layer, ``(B, Q, h)``, after the last one ``(B, 1, h)``
                where the head reads [CLS] alone. Or a place among them, or several; the others are None then.
            output_attentions: Whether to return ``attentions``: per contextualisation layer the weights with which the query
                reads itself, ``(B, H, Q, Q)``, and per interaction layer those with which it reads the document, ``(B, H,
                R, D)`` (of joint attention ``(B, H, R, Q + D)``). As in transformers, with eager attention alone.
            return_dict: False gives a tuple.
            **kwargs: Accepted as in transformers' classifiers, and of no effect.

        Returns:
            ``logits`` ``(B, 1)``, float32, ``loss`` with ``labels``, and what else was asked for.

        Raises:
            ValueError: If a row does not start with [CLS] or its [SEP] are not where they belong; names the row.
        """
        for name, value in (("inputs_embeds", inputs_embeds), ("position_ids", position_ids)):
            if value is not None:
                raise ValueError(
                    f"{name}: MICE splits a pair at its [SEP] and encodes both sides apart: give input_ids."
                )
        config = self.config
        wanted = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states: list[Any] | None = None if wanted is None or wanted is False else []
        has_weights = config._attn_implementation == "eager"
        if output_attentions is None:
            output_attentions = config.output_attentions
        attentions: list[Tensor] | None = [] if output_attentions and has_weights else None
        if queries is None or documents is None:
            if input_ids is None:
                raise ValueError("input_ids: expected pair encodings, or contextualised queries and documents.")
            query_side, document_side = split_pairs(config, input_ids, attention_mask)
            queries = self._encode(*query_side, "query", self.query_projection, hidden_states, attentions)
            documents = self.encode_documents(*document_side)
        logits = self.score(queries, documents, hidden_states, attentions)
        if hidden_states is not None and not isinstance(wanted, bool):
            places = range(len(hidden_states))
            chosen = {
                places[place]
                for place in ([wanted] if isinstance(wanted, int) else wanted)
                if -len(places) <= place < len(places)
            }
            hidden_states = [state if place in chosen else None for place, state in enumerate(hidden_states)]
        loss = None if labels is None else F.mse_loss(logits.squeeze(-1), labels.float().view(-1))
        output = SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
        )
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class MiceModel(MicePreTrainedModel):
    """The name under which ``AutoModel``, and so ``SentenceTransformer``, looks for a model of MICE: it has no embedding."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Say what the folder holds.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{args[0] if args else 'This folder'} holds a MICE re-ranker, which scores (query, document) pairs and gives no "
            "embeddings: load it with CrossEncoder or AutoModelForSequenceClassification."
        )


def split_pairs(
    config: MiceConfig, input_ids: Tensor, attention_mask: Tensor | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cut pair encodings ``(B, L)`` into queries and documents, each ``(input_ids, attention_mask)``.

    Each side is cut to its own maximum length and keeps its [SEP]; the document gets a [CLS] of its own, unless
    ``mask3_frame`` is on.

    Args:
        config: The model's.
        input_ids: ``(B, L)``, int64.
        attention_mask: ``(B, L)``; all ones where it is None.

    Raises:
        ValueError: If a row does not start with [CLS] or its [SEP] are not where they belong; names the row.
    """
    cls_id, sep_id, between = config.cls_token_id, config.sep_token_id, config.pair_separators
    form = f"[CLS] query {' '.join(['[SEP]'] * between)} document [SEP]"
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    queries, documents = [], []
    for row, (ids, mask) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
        tokens = ids[mask]
        separators = (tokens == sep_id).nonzero().flatten().tolist()
        has_form = len(separators) > between and tokens[0] == cls_id and separators[-1] == len(tokens) - 1
        if not has_form or separators[between - 1] != separators[0] + between - 1:
            raise ValueError(
                f"input_ids: MICE is a re-ranker of (query, document) pairs, and row {row} is not of the form {form} with ids "
                f"{cls_id} and {sep_id}: give pairs, as the model's own tokenizer joins them."
            )
        query, document = tokens[1 : separators[0]], tokens[separators[0] + between : -1]
        queries.append(_frame(config, query, "query", config.query_max_length))
        documents.append(_frame(config, document, "document", config.document_max_length))
    return _pad(queries), _pad(documents)


def _frame(config: MiceConfig, tokens: Tensor, side: str, max_length: int) -> Tensor:
    before, after = map(tokens.new_tensor, config.special_tokens(side))
    return torch.cat([before, tokens[: max_length - len(before) - len(after)], after])


def _pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return ids, torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)


__all__ = [
    "DocumentStates",
    "EncodedTexts",
    "MiceForSequenceClassification",
    "MiceModel",
]

MiceForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
