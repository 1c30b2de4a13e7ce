"""The configuration of MICE: every choice that changes a score, under the name that a Hub repository gives it."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig
from transformers.configuration_utils import PretrainedConfig

from .attention import LayerSettings
from .backbones import backbone_of
from .bert_backbones import BertBackbone
from .config_checks import check_config, describe


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


__all__ = ["MiceConfig"]

MiceConfig.register_for_auto_class()
