"""MICE: Minimal Interaction Cross-Encoders. This code travels with every Hub repository.

A cross-encoder reads query and document together in every layer. MICE keeps the interactions that ranking needs
(arXiv 2602.16299): the lower layers of the backbone contextualise query and document apart, the document's states are
then frozen, and a few interaction layers let the query's tokens read those states, one way. The score is read off the
query's [CLS]. Documents never see a query, so their states can be computed once and stored.

This file and ``layers.py`` are the obvious reference: padded batches, one line of mathematics per line of code, in
the order of execution. ``interaction.py`` computes the same scores faster for one query and many documents.

Shape letters used in comments:
    B  pairs in a batch              N  texts in a batch (queries or documents)
    Q  query tokens, padded          D  document tokens, padded
    R  rows that ask (Q or 1)        S  states that are read (Q or D)
    H  attention heads               h  width of the states: the backbone's, or interaction_hidden_size
    k  interaction layers            s  width of the document states: h, or a multiple of it where layers read their own

References:
    - MICE: https://arxiv.org/abs/2602.16299
    - Exact-match heads ("Lex") and the ``cross_first`` order: the authors' later version of the same paper.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from .backbones import BertBackbone, backbone_of
from .config_checks import check_config, describe
from .interaction import CHUNK_DOCUMENTS, score_documents
from .layers import LayerSettings, MiceInteractionLayer, document_attention_mask, text_attention_mask
from .modernbert_layers import scale_normalised
from .residuals import MiceMatchResidual, MiceMaxSimResidual, average_matches, exact_matches
from .states import DocumentStates, EncodedTexts


class MiceConfig(PretrainedConfig):
    """Every choice that changes a score.

    Args:
        backbone_config: Configuration of the backbone, or its dictionary with ``model_type``. ``num_hidden_layers``
            in it is the number of contextualisation layers. Defaults to BERT's.
        document_contextualization_layers: Gives documents contextualisation layers of their own, this many; the
            backbone's are the query's then (MORES: 10 and 12). None: both sides pass the same ones.
        interaction_layers: Interaction layers on top of the contextualisation layers. At least 1; at least 2 where
            [CLS] may not read the document (information then needs one layer to reach the query's tokens and one
            more to reach [CLS]).
        interaction_hidden_size: Width of the interaction layers and of the states they read, where it is narrower than
            the backbone's: a Linear on both sides leads there (the paper's ``compress_dim``). A multiple of the
            backbone's width per head. None keeps the backbone's width.
        interaction_order: ``"cross_first"`` (cross-attention, self-attention, feed-forward; the paper's later
            version) or ``"self_first"`` (its first version).
        interaction_attention: ``"split"`` (self-attention and cross-attention, each with weights and a softmax of its
            own; the paper) or ``"joint"`` (one softmax over the query's and the document's keys with the weights of the
            self-attention, as in a cross-encoder).
        document_states: ``"frozen"`` (every interaction layer reads the document as the contextualisation layers left
            it; the paper) or ``"per_layer"`` (the document goes on, alone, through self-attention and feed-forward of
            the interaction layers, and each of them reads it as a backbone layer in its place would). The second
            keeps ``reading_layers`` states of a token side by side.
        interaction_key_value_heads: Heads of keys and values in the cross-attention, each shared by as many heads of
            queries: 1 is multi-query attention, whose stored keys and values are smaller than the states. None: no
            sharing.
        query_self_attention: Whether the query's tokens read each other in the interaction layers. The paper: yes.
        global_cls: Whether a learned vector takes [CLS]'s place before the interaction layers.
        query_attends_cls: Whether the query's other tokens may read [CLS] in the interaction layers. The paper: no.
        cls_attends_document: Whether [CLS] reads the document itself. The paper's first version: no.
        query_attends_document_sep: Whether the query reads the document's [SEP].
        contextualization_attends_cls: Whether a text's other tokens may read its own [CLS] while they are
            contextualised.
        sep_attends_itself_alone: Whether a text's [SEP] reads nothing but itself, in every layer.
        document_cls: Whether the document has a [CLS] of its own.
        document_token_type: Token type of the document's tokens; the query's is 0.
        interaction_layer_types: ``"full_attention"`` or ``"sliding_attention"`` for the self-attention of each interaction
            layer, where the backbone has both (ModernBERT); they differ in their window and in their rotary base. None
            takes full attention everywhere.
        document_layer_types: The same for contextualisation layers that documents have of their own. None takes the types
            of the query's.
        pooler: Whether the backbone's own dense layer stands between [CLS] and the classifier: BERT's pooler, the first
            layer of RoBERTa's and ELECTRA's classification heads, ModernBERT's prediction head.
        pooled_residual: Adds ``exp(s) * cos(pool(query), pool(document))`` to the score, so that a model converted
            from an embedding model starts as that embedding model. Off is the paper.
        pooling: How the pooled residual pools contextualised states: ``"mean"`` over all tokens, or ``"cls"``.
        exact_match: An exact-match head ("Lex") in every interaction layer.
        lexical_bias: A learned scalar per head and interaction layer, added to the logit with which a query token reads a
            document token of the same id; special tokens excluded.
        match_residual: Adds a learned weight of every exactly matched query token to the score. Off is the paper.
        max_sim_residual: Adds late interaction over the states: a weighted mean of the query tokens' greatest cosines with a
            document token (MaxSim, as in ColBERT), and the mean of the document tokens' greatest cosines. Off is the paper.
        query_max_length: Longest query, in tokens, [CLS] and [SEP] included. Longer ones are cut.
        document_max_length: Longest document, in tokens, [CLS] and [SEP] included. Longer ones are cut.
        cls_token_id: Token id that starts a text. None takes the backbone's own; 101 for BERT and ELECTRA.
        sep_token_id: Token id that ends a text. None takes the backbone's own; 102 for BERT and ELECTRA.
        pair_separators: Separators between query and document in a pair encoding: 1, or 2 as RoBERTa has them. None
            takes what is usual for the backbone.
        **kwargs: Passed to ``PretrainedConfig``.

    Raises:
        ValueError: If a choice is unknown or impossible; the message names the field.
    """

    model_type = "mice"
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        document_contextualization_layers: int | None = None,
        interaction_layers: int = 3,
        interaction_hidden_size: int | None = None,
        interaction_order: str = "cross_first",
        interaction_attention: str = "split",
        document_states: str = "frozen",
        interaction_key_value_heads: int | None = None,
        query_self_attention: bool = True,
        global_cls: bool = False,
        query_attends_cls: bool = False,
        cls_attends_document: bool = True,
        query_attends_document_sep: bool = True,
        contextualization_attends_cls: bool = True,
        sep_attends_itself_alone: bool = False,
        document_cls: bool = True,
        document_token_type: int = 0,
        interaction_layer_types: Sequence[str] | None = None,
        document_layer_types: Sequence[str] | None = None,
        pooler: bool = True,
        pooled_residual: bool = False,
        pooling: str = "mean",
        exact_match: bool = False,
        lexical_bias: bool = False,
        match_residual: bool = False,
        max_sim_residual: bool = False,
        query_max_length: int = 64,
        document_max_length: int = 512,
        cls_token_id: int | None = None,
        sep_token_id: int | None = None,
        pair_separators: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("num_labels", 1)
        super().__init__(**kwargs)
        if backbone_config is None:
            backbone_config = {"model_type": "bert"}
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        backbone: Any = backbone_config  # each type of backbone names its own fields
        self.backbone_config = backbone
        self.document_contextualization_layers = document_contextualization_layers
        self.interaction_layers = interaction_layers
        self.interaction_hidden_size = interaction_hidden_size
        self.interaction_order = interaction_order
        self.interaction_attention = interaction_attention
        self.document_states = document_states
        self.interaction_key_value_heads = interaction_key_value_heads
        self.query_self_attention = query_self_attention
        self.global_cls = global_cls
        self.query_attends_cls = query_attends_cls
        self.cls_attends_document = cls_attends_document
        self.query_attends_document_sep = query_attends_document_sep
        self.contextualization_attends_cls = contextualization_attends_cls
        self.sep_attends_itself_alone = sep_attends_itself_alone
        self.document_cls = document_cls
        self.document_token_type = document_token_type
        self.interaction_layer_types = None if interaction_layer_types is None else list(interaction_layer_types)
        self.document_layer_types = None if document_layer_types is None else list(document_layer_types)
        self.pooler = pooler
        self.pooled_residual = pooled_residual
        self.pooling = pooling
        self.exact_match = exact_match
        self.lexical_bias = lexical_bias
        self.match_residual = match_residual
        self.max_sim_residual = max_sim_residual
        self.query_max_length = query_max_length
        self.document_max_length = document_max_length
        own_ids = self.backbone.special_token_ids(backbone)
        self.cls_token_id = own_ids[0] if cls_token_id is None else cls_token_id
        self.sep_token_id = own_ids[1] if sep_token_id is None else sep_token_id
        self.pair_separators = self.backbone.pair_separators if pair_separators is None else pair_separators
        check_config(self)

    @property
    def backbone(self) -> BertBackbone:
        """What is particular to this type of backbone."""
        return backbone_of(self.backbone_config)

    @property
    def max_positions(self) -> int:
        """Tokens of the longest text that the backbone reads."""
        return self.backbone.positions(self.backbone_config)

    @property
    def head_pooling(self) -> str:
        """What the head reads of the query after the last layer: ``"cls"``, or the ``"mean"`` of its tokens."""
        return self.backbone.head_pooling(self.backbone_config)

    @property
    def layer_settings(self) -> LayerSettings:
        """What the blocks of an interaction layer take from the backbone's config."""
        return self.backbone.layer_settings(self.backbone_config)

    @property
    def contextualization_layers(self) -> int:
        """Layers that read the query, and the document if it has none of its own, apart."""
        return self.backbone_config.num_hidden_layers

    @property
    def name(self) -> str:
        """What the model is, from the config alone: ``mice-l4+3``, ``mice-l4-d6+3-self-lex``; see ``describe``."""
        return describe(self)

    @property
    def state_width(self) -> int:
        """Values that a document's state has for each token: one state, or one per layer that reads it, side by side."""
        return self.interaction_width * (self.reading_layers if self.document_states == "per_layer" else 1)

    @property
    def reading_layers(self) -> int:
        """Interaction layers that read the document.

        All of them; or all but the last one where only [CLS] is left to read and must not.
        """
        reads_by_cls = self.cls_attends_document or self.interaction_layers == 1
        reads_by_others = self.interaction_attention == "split" and self.interaction_order == "cross_first"
        is_reading = reads_by_cls or reads_by_others or self.exact_match or self.head_pooling == "mean"
        return self.interaction_layers - (0 if is_reading else 1)

    def special_tokens(self, side: str) -> tuple[list[int], list[int]]:
        """Ids that stand before and after the text of a ``"query"`` or a ``"document"``."""
        has_cls = side == "query" or self.document_cls
        return [self.cls_token_id] if has_cls else [], [self.sep_token_id]

    @property
    def interaction_width(self) -> int:
        """Width of the interaction layers."""
        return self.hidden_size if self.interaction_hidden_size is None else self.interaction_hidden_size

    @property
    def interaction_intermediate_size(self) -> int:
        """Inner width of an interaction layer's feed-forward, as much wider than the layer as the backbone's."""
        return self.backbone_config.intermediate_size * self.interaction_width // self.hidden_size

    @property
    def interaction_heads(self) -> int:
        """Attention heads of an interaction layer; each is as wide as the backbone's."""
        return self.backbone_config.num_attention_heads * self.interaction_width // self.hidden_size

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values in the attention that reads documents."""
        heads = self.interaction_key_value_heads
        return self.interaction_heads if heads is None else heads

    @property
    def hidden_size(self) -> int:
        """Width of the backbone."""
        return self.backbone_config.hidden_size

    @property
    def vocab_size(self) -> int:
        """Number of token ids, the backbone's."""
        return self.backbone_config.vocab_size


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
            ValueError: If the checkpoint lacks a tensor of the model, or holds one that has no place in it; the
                message names them.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        faults = [f"{kind}: {sorted(info[kind])}" for kind in ("missing_keys", "unexpected_keys") if info[kind]]
        if faults:
            raise ValueError(f"The checkpoint does not fit {cls.__name__}. {'; '.join(faults)}")
        return (model, info) if output_loading_info else model


class MiceForSequenceClassification(MicePreTrainedModel):
    """The re-ranker. ``forward`` takes ordinary pair encodings; ``encode_*`` and ``score`` take it apart."""

    def __init__(self, config: MiceConfig) -> None:
        super().__init__(config)
        self.backbone = config.backbone.build(config.backbone_config, config._attn_implementation)
        own = config.document_contextualization_layers
        self.document_backbone: Any = None
        if own is not None:
            kept = config.backbone.document_config(config)
            self.document_backbone = config.backbone.build(kept, config._attn_implementation)
        # Free of bias, so that the mean of narrow states is the narrow mean: the pooled residual stays a cosine of means.
        narrow = config.interaction_hidden_size is not None
        self.query_projection: Any = (
            nn.Linear(config.hidden_size, config.interaction_width, bias=False) if narrow else None
        )
        self.document_projection: Any = (
            nn.Linear(config.hidden_size, config.interaction_width, bias=False) if narrow else None
        )
        self.interaction = nn.ModuleList(
            MiceInteractionLayer(config, index) for index in range(config.interaction_layers)
        )
        self.final_norm = config.backbone.build_final_norm(config)
        self.pooler = config.backbone.build_pooler(config) if config.pooler else None
        self.classifier = nn.Linear(config.interaction_width, 1)
        if config.pooled_residual:
            # Cosines lie in [-1, 1]: 20 is the usual scale of embedding models' own losses.
            self.pooled_residual_log_scale = nn.Parameter(torch.full((1,), math.log(20.0)))
        # An embedding model pools behind its last norm. Narrow states have none that would fit.
        self.pooled_norm = config.backbone.build_final_norm(config) if config.pooled_residual and not narrow else None
        self.match_residual = MiceMatchResidual(config) if config.match_residual else None
        self.max_sim_residual: Any = MiceMaxSimResidual(config) if config.max_sim_residual else None
        if config.global_cls:
            # Of a LayerNorm's size at its start, as the other rows are.
            self.global_cls = nn.Parameter(torch.randn(config.interaction_width))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of queries; documents share them, unless they have layers of their own."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of queries."""
        self.backbone.set_input_embeddings(value)

    def document_modules(self) -> dict[str, nn.Module]:
        """What documents pass through on the way to their states, by name; queries may pass through it as well."""
        modules: dict[str, nn.Module] = {"backbone": self.backbone}
        if self.document_backbone is not None:
            modules = {"document_backbone": self.document_backbone}
        for name in ("document_projection", "pooled_norm"):
            if (module := getattr(self, name)) is not None:
                modules[name] = module
        if self.config.document_states == "per_layer":
            # The output of the last layer that reads the document is nobody's document.
            layers: list[Any] = list(self.interaction[: self.config.reading_layers - 1])
            for index, layer in enumerate(layers):
                modules[f"interaction.{index}.self_attention"] = layer.self_attention
                modules[f"interaction.{index}.feed_forward"] = layer.feed_forward
                if layer.attention_norm is not None:
                    modules[f"interaction.{index}.attention_norm"] = layer.attention_norm
        return modules

    def freeze_contextualization(self) -> None:
        """Train nothing that documents pass through, so that their states can be stored and read while training."""
        for module in self.document_modules().values():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "MiceForSequenceClassification":
        """As in torch; what is frozen of the documents' way stays in evaluation mode, so that stored states stay true."""
        super().train(mode)
        for module in self.document_modules().values():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def encode_queries(self, input_ids: Tensor, attention_mask: Tensor) -> EncodedTexts:
        """Contextualise queries ``[CLS] query [SEP]``, ``(N, Q)`` each; the first step of a score."""
        return self._encode(input_ids, attention_mask, "query", self.query_projection)

    def encode_documents(self, input_ids: Tensor, attention_mask: Tensor) -> EncodedTexts:
        """Contextualise documents, ``(N, D)`` each, without any query.

        Documents are ``[CLS] document [SEP]``, without the [CLS] where ``document_cls`` is False. Of the states
        ``(N, D, s)``, columns ``i * h`` to ``(i + 1) * h`` are what interaction layer ``i`` reads where each reads its own.
        """
        encoded = self._encode(input_ids, attention_mask, "document", self.document_projection)
        if self.config.document_states == "frozen":
            return encoded._replace(states=self.readable(encoded.states))
        mask = self._text_mask(encoded.attention_mask, "document")  # (N, 1, D, D)
        states = [encoded.states]
        layers: list[Any] = list(self.interaction[: self.config.reading_layers - 1])
        for layer in layers:
            states.append(layer.contextualize(states[-1], mask))  # (N, D, h)
        return encoded._replace(states=torch.cat([self.readable(rows) for rows in states], dim=-1))  # (N, D, s)

    def _encode(
        self, input_ids: Tensor, attention_mask: Tensor, side: str, projection: nn.Module | None
    ) -> EncodedTexts:
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise ValueError(
                f"input_ids: ids from {int(input_ids.min())} to {int(input_ids.max())} do not fit a vocabulary of "
                f"{self.config.vocab_size}; is this the model's own tokenizer?"
            )
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
        if self.config.sep_attends_itself_alone or not self.config.contextualization_attends_cls:
            mask = self._text_mask(attention_mask.bool(), side)
            if self.config._attn_implementation == "eager":  # adds its mask to the logits
                mask = torch.zeros(mask.shape, device=mask.device, dtype=self.dtype).masked_fill(
                    ~mask, torch.finfo(self.dtype).min
                )
            arguments["attention_mask"] = self.config.backbone.layer_masks(self.config.backbone_config, mask)
        if side == "document" and self.config.document_token_type:
            arguments["token_type_ids"] = torch.full_like(input_ids, self.config.document_token_type)
        is_apart = side == "document" and self.document_backbone is not None
        states = (self.document_backbone if is_apart else self.backbone)(**arguments).last_hidden_state
        if projection is not None:
            states = projection(self.readable(states))
        return EncodedTexts(states, attention_mask.bool(), input_ids)

    def readable(self, states: Tensor) -> Tensor:
        """What layers read of states ``(..., h)`` as they run between layers, up to a layer's own scale.

        Document states are kept like this.
        """
        return self.config.backbone.readable(self.config.backbone_config, states)

    def _text_mask(self, attention_mask: Tensor, side: str) -> Tensor:
        """What the tokens of texts ``(N, S)`` read of their own text while they are contextualised, ``(N, 1, S, S)``."""
        has_cls = side == "query" or self.config.document_cls
        attends_cls = self.config.contextualization_attends_cls or not has_cls
        return text_attention_mask(attention_mask, attends_cls, self.config.sep_attends_itself_alone)

    def score(self, queries: EncodedTexts, documents: EncodedTexts) -> Tensor:
        """Score query i against document i.

        Args:
            queries: B contextualised queries.
            documents: B contextualised documents.

        Returns:
            ``(B, 1)``, float32, logits: higher is more relevant.

        Raises:
            ValueError: If a score is not finite (outside training, where the trainer decides); names the rows.
        """
        config = self.config
        query_mask = text_attention_mask(
            queries.attention_mask, config.query_attends_cls, config.sep_attends_itself_alone
        )  # (B, 1, Q, Q)
        document_mask = document_attention_mask(
            queries.attention_mask, documents.attention_mask, config
        )  # (B, 1, Q or 1, D)
        matches, matched_states, is_matched = None, None, None
        if config.exact_match or config.match_residual or config.lexical_bias:
            matches = exact_matches(queries, documents, (config.cls_token_id, config.sep_token_id))  # (B, Q, D)
        if matches is not None and (config.exact_match or config.match_residual):
            matched_states, is_matched = average_matches(matches, documents.states)
        rows = self.replace_cls(queries.states)
        for index, layer in enumerate(self.interaction):
            states, matched = (self.layer_states(part, index) for part in (documents.states, matched_states))
            rows = layer(rows, states, query_mask, document_mask, matched, matches)
        logits = self.head(self.read_out(rows, queries.attention_mask))
        if self.config.pooled_residual:
            logits = logits + self.residual(self.pool_queries(queries), self.pool(documents))
        if self.match_residual is not None:
            logits = logits + self.match_residual(
                self.readable(queries.states), self.layer_states(matched_states, 0), is_matched
            )
        if self.max_sim_residual is not None:
            first: Any = self.layer_states(documents.states, 0)
            readable = queries._replace(states=self.readable(queries.states))
            logits = logits + self.max_sim_residual(readable, documents._replace(states=first))
        self.check_finite(logits)
        return logits

    def score_documents(self, query: EncodedTexts, documents: Any, chunk_documents: int = CHUNK_DOCUMENTS) -> Tensor:
        """``score`` for one query and many documents, many times faster; see ``interaction.score_documents``."""
        return score_documents(self, query, documents, chunk_documents)

    def replace_cls(self, rows: Tensor) -> Tensor:
        """Contextualised queries ``(..., Q, h)`` as the interaction layers find them: [CLS] is learned with ``global_cls``."""
        if not self.config.global_cls:
            return rows
        cls_row = self.global_cls.to(rows.dtype).expand(*rows.shape[:-2], 1, -1)
        return torch.cat([cls_row, rows[..., 1:, :]], dim=-2)

    def layer_states(self, states: Tensor | None, index: int) -> Tensor | None:
        """What interaction layer ``index`` reads of ``states`` ``(..., s)``: a view, ``(..., h)``.

        A last layer that reads nothing gets what the one before it reads.
        """
        if states is None or self.config.document_states == "frozen":
            return states
        width, index = self.config.interaction_width, min(index, self.config.reading_layers - 1)
        return states[..., index * width : (index + 1) * width]

    def read_out(self, rows: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the head reads of the query's rows ``(B, R, h)`` after the last layer, ``(B, h)``: [CLS] or their mean.

        ``attention_mask`` ``(B, R)``, bool, is False at padding; None where there is none.
        """
        if self.config.head_pooling == "cls":
            rows = rows[:, :1]
        if self.final_norm is not None:
            rows = self.final_norm(rows)
        if self.config.head_pooling == "cls":
            return rows[:, 0]
        if attention_mask is None:
            return rows.mean(1)
        mask = attention_mask.unsqueeze(-1)
        return (rows * mask).sum(1) / mask.sum(1)

    def head(self, cls_rows: Tensor) -> Tensor:
        """``(B, h)`` from ``read_out`` to ``(B, 1)`` logits; the classifier runs in float32 always."""
        if self.pooler is not None:
            cls_rows = self.pooler(cls_rows)
        with torch.autocast(cls_rows.device.type, enabled=False):
            return F.linear(cls_rows.float(), self.classifier.weight.float(), self.classifier.bias.float())

    def pool(self, documents: EncodedTexts) -> Tensor:
        """One vector per document, ``(N, h)``, float32: the embedding that the pooled residual compares."""
        states = documents.states[..., : self.config.interaction_width].float()
        if self.config.pooling == "cls":
            return self.scale_pooled(states[:, 0])
        mask = documents.attention_mask.unsqueeze(-1)
        return self.scale_pooled((states * mask).sum(1) / mask.sum(1))

    def pool_queries(self, queries: EncodedTexts) -> Tensor:
        """The same per query."""
        return self.pool(queries._replace(states=self.readable(queries.states)))

    def scale_pooled(self, pooled: Tensor) -> Tensor:
        """The scale of the embedding model's last norm, on the mean ``(N, h)`` of normalised states: the mean is linear."""
        return pooled if self.pooled_norm is None else scale_normalised(self.pooled_norm, pooled)

    def residual(self, pooled_queries: Tensor, pooled_documents: Tensor) -> Tensor:
        """``exp(s) * cos``, ``(B, 1)``, float32, of pooled vectors ``(B, h)``."""
        cosine = F.cosine_similarity(pooled_queries.float(), pooled_documents.float(), dim=-1)
        return (self.pooled_residual_log_scale.float().exp() * cosine).unsqueeze(-1)

    def check_finite(self, logits: Tensor) -> None:
        """Refuse NaN and infinite scores outside training, naming the rows of ``logits`` ``(B, 1)``."""
        if self.training or torch.compiler.is_compiling() or bool(logits.isfinite().all()):
            return
        rows = (~logits.isfinite()).any(-1).nonzero().flatten().tolist()
        raise ValueError(f"Scores are not finite in rows {rows[:10]}: the weights or the document states hold NaN.")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Score pair encodings ``[CLS] query [SEP] document [SEP]`` as any tokenizer of the backbone makes them.

        RoBERTa's have two [SEP] between query and document, see ``pair_separators``.

        Args:
            input_ids: ``(B, L)``, int64. Split inside at the first [SEP].
            attention_mask: ``(B, L)``; all ones where it is left out.
            token_type_ids: Accepted and not needed: both sides are encoded apart, each with its own token type.
            labels: ``(B,)``; with them, ``loss`` is the mean squared error of the logits, as transformers has it
                for one label.
            return_dict: False gives a tuple.

        Returns:
            ``logits`` ``(B, 1)``, float32, and ``loss`` with ``labels``.

        Raises:
            ValueError: If a row does not start with [CLS] or its [SEP] are not where they belong; names the row.
        """
        queries, documents = self.split_pairs(input_ids, attention_mask)
        logits = self.score(self.encode_queries(*queries), self.encode_documents(*documents))
        loss = None if labels is None else F.mse_loss(logits.squeeze(-1), labels.float())
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def split_pairs(
        self, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Cut pair encodings ``(B, L)`` into queries and documents, each ``(input_ids, attention_mask)``.

        Each side is cut to its own maximum length and keeps its [SEP]; the document gets a [CLS] of its own, unless
        ``document_cls`` is False.
        """
        cls_id, sep_id, between = self.config.cls_token_id, self.config.sep_token_id, self.config.pair_separators
        form = f"[CLS] query {' '.join(['[SEP]'] * between)} document [SEP]"
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        queries, documents = [], []
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
            tokens = ids[mask]
            separators = (tokens == sep_id).nonzero().flatten().tolist()
            has_form = len(separators) > between and tokens[0] == cls_id and separators[-1] == len(tokens) - 1
            if not has_form or separators[between - 1] != separators[0] + between - 1:
                raise ValueError(f"input_ids: row {row} is not of the form {form}.")
            query, document = tokens[1 : separators[0]], tokens[separators[0] + between : -1]
            queries.append(self._frame(query, "query", self.config.query_max_length))
            documents.append(self._frame(document, "document", self.config.document_max_length))
        return self._pad(queries), self._pad(documents)

    def _frame(self, tokens: Tensor, side: str, max_length: int) -> Tensor:
        before, after = map(tokens.new_tensor, self.config.special_tokens(side))
        return torch.cat([before, tokens[: max_length - len(before) - len(after)], after])

    def _pad(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        return ids, torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)


__all__ = [
    "DocumentStates",
    "EncodedTexts",
    "MiceConfig",
    "MiceForSequenceClassification",
    "MicePreTrainedModel",
]

MiceConfig.register_for_auto_class()
MiceForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
