"""The configuration of MICE: every choice that changes a score, and the facts of each backbone as data.

This file imports no other file of the repository. Shape letters are those of ``modeling_mice.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import AutoConfig
from transformers.configuration_utils import PretrainedConfig


@dataclass(frozen=True)
class BackboneFacts:
    """How one type of backbone names its choices and builds its layers.

    Attributes:
        norm_eps: Field of the backbone's config with the epsilon of its norms.
        norm_bias: Field that says whether norms have a shift; None: they always have one.
        attention_bias: Likewise for the projections of an attention.
        feed_forward_bias: Likewise for a feed-forward.
        attention_dropout: Field with the probability of dropping a weight of the softmax.
        output_dropout: Field with that of dropping a value of an attention's output.
        feed_forward_dropout: Field with that of a feed-forward's.
        classifier_dropout: Field with that before the classifier; where the field is None, ``output_dropout`` holds.
        activation: Field with the feed-forward's activation.
        pre_norm: Whether blocks normalise their input (ModernBERT) instead of their output (BERT).
        pooler_activation: Activation of the dense layer before the classifier; None where the backbone has a
            prediction head of its own.
        has_pooling_layer: Whether transformers' class takes ``add_pooling_layer``.
        pooling_field: Field that says what the head reads, ``"cls"`` or ``"mean"``; None: [CLS].
        special_tokens: Fields with the ids of [CLS], [SEP] and the unknown token, or the ids themselves.
        pair_separators: Separators between query and document in a pair encoding.
        positions_after_padding: Whether positions up to the padding token's id are not used (RoBERTa).
        has_layer_types: Whether layers differ in what they read, everything or a window.
        state_choices: Fields that change document states without changing a weight.
    """

    norm_eps: str = "layer_norm_eps"
    norm_bias: str | None = None
    attention_bias: str | None = None
    feed_forward_bias: str | None = None
    attention_dropout: str = "attention_probs_dropout_prob"
    output_dropout: str = "hidden_dropout_prob"
    feed_forward_dropout: str = "hidden_dropout_prob"
    classifier_dropout: str = "classifier_dropout"
    activation: str = "hidden_act"
    pre_norm: bool = False
    pooler_activation: str | None = "tanh"
    has_pooling_layer: bool = True
    pooling_field: str | None = None
    special_tokens: tuple[str | int, str | int, str | int] = (101, 102, 100)  # of BERT's own vocabularies
    pair_separators: int = 1
    positions_after_padding: bool = False
    has_layer_types: bool = False
    state_choices: tuple[str, ...] = ("num_attention_heads", "hidden_act", "layer_norm_eps")


_BERT = BackboneFacts()
_ROBERTA = BackboneFacts(
    special_tokens=("bos_token_id", "eos_token_id", 3),
    pair_separators=2,
    positions_after_padding=True,
    state_choices=(*_BERT.state_choices, "pad_token_id"),
)
# By the ``model_type`` of the backbone's config.
BACKBONES: dict[str, BackboneFacts] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": BackboneFacts(pooler_activation="gelu", has_pooling_layer=False),
    "modernbert": BackboneFacts(
        norm_eps="norm_eps",
        norm_bias="norm_bias",
        attention_bias="attention_bias",
        feed_forward_bias="mlp_bias",
        attention_dropout="attention_dropout",
        output_dropout="attention_dropout",
        feed_forward_dropout="mlp_dropout",
        activation="hidden_activation",
        pre_norm=True,
        pooler_activation=None,
        has_pooling_layer=False,
        pooling_field="classifier_pooling",
        special_tokens=("cls_token_id", "sep_token_id", 50280),  # [UNK] of its own vocabulary
        has_layer_types=True,
        state_choices=(
            "num_attention_heads",
            "hidden_activation",
            "norm_eps",
            "layer_types",
            "local_attention",
            "rope_parameters",
        ),
    ),
}


class LayerSettings(NamedTuple):
    """Settings of the blocks of an interaction layer: the backbone's, under one name for all backbones."""

    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    feed_forward_bias: bool
    attention_dropout: float
    output_dropout: float
    feed_forward_dropout: float
    classifier_dropout: float
    activation: str


LAYER_TYPES = ("full_attention", "sliding_attention")
CHOICES = {
    "interaction_order": ("cross_first", "self_first"),
    "interaction_attention": ("split", "joint"),
    "document_states": ("frozen", "per_layer"),
    "pooling": ("mean", "cls"),
}
# (field, value) that do not go with (field, value): the first would have no effect, or nothing to work with.
EXCLUDED = [
    ("interaction_order", "self_first", "interaction_attention", "joint"),
    ("interaction_order", "self_first", "query_self_attention", False),
    ("interaction_attention", "joint", "query_self_attention", False),
    ("document_states", "per_layer", "query_self_attention", False),
    ("cls_attends_document", False, "query_self_attention", False),
    ("query_attends_cls", True, "query_self_attention", False),
]
# What a name says of a field that is not as the paper's later version has it.
SUFFIXES = [
    ("interaction_order", "self_first", "self"),
    ("interaction_attention", "joint", "joint"),
    ("document_states", "per_layer", "perlayer"),
    ("query_self_attention", False, "noself"),
    ("cls_attends_document", False, "blindcls"),
    ("query_attends_cls", True, "readcls"),
    ("mask3_frame", True, "mask3"),
    ("global_cls", True, "gcls"),
    ("exact_match", True, "lex"),
    ("lexical_bias", True, "lexbias"),
    ("pooler", False, "nopooler"),
    ("pooled_residual", True, "pooled"),
    ("pooling", "cls", "clspool"),
    ("max_sim_residual", True, "maxsim"),
]
# Fields of earlier versions, and the one value of theirs that means what the model does today.
REMOVED = {"interaction_key_value_heads": None, "match_residual": False}
# Five more, which are the one field ``mask3_frame`` today: their values with it off, and with it on. Backbones without
# token types had 0 for the last one with the frame on, too.
MASK3_FIELDS = {
    "query_attends_document_sep": (True, False),
    "contextualization_attends_cls": (True, False),
    "sep_attends_itself_alone": (False, True),
    "document_cls": (True, False),
    "document_token_type": (0, 1),
}
EMPTY_DOCUMENT_SCORE = -100.0  # released heads lie within [-8, 8], unscaled sums of residuals within about 40


def _backbone_property(name: str) -> property:
    """A property of ``MiceConfig`` that reads and sets a field of the backbone's config."""

    def get(config: Any) -> Any:
        return getattr(config.backbone_config, name)

    def put(config: Any, value: Any) -> None:
        setattr(config.backbone_config, name, value)

    return property(get, put, doc=f"The backbone's ``{name}``.")


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
        query_self_attention: Whether the query's tokens read each other in the interaction layers. The paper: yes.
        global_cls: Whether a learned vector takes [CLS]'s place before the interaction layers.
        query_attends_cls: Whether the query's other tokens may read [CLS] in the interaction layers. The paper: no.
        cls_attends_document: Whether [CLS] reads the document itself. The paper's first version: no.
        mask3_frame: Whether special tokens are as Mask3 leaves them in a pair (arXiv 2602.16299): the document has no
            [CLS] and the second token type, each [SEP] reads itself alone and the query does not read the document's,
            and nothing reads a text's own [CLS] while it is contextualised. A masked cross-encoder converts without
            loss only so. The paper's MICE: no.
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
        max_sim_residual: Adds late interaction over the states: a weighted mean of the query tokens' greatest cosines with a
            document token (MaxSim, as in ColBERT), and the mean of the document tokens' greatest cosines. Off is the paper.
        score_scale: What every logit is multiplied by. It changes no order; heads are published with a scale that keeps
            logits within about [-8, 8], because a float32 sigmoid reaches exactly 1.0 at 16.7 and makes ties.
        empty_document_score: Score of a document without any token between its special ones, whatever the query: far
            below any other, and finite.
        query_max_length: Longest query, in tokens, [CLS] and [SEP] included. Longer ones are cut.
        document_max_length: Longest document, in tokens, [CLS] and [SEP] included. Longer ones are cut.
        cls_token_id: Token id that starts a text. None takes the backbone's own; 101 for BERT and ELECTRA.
        sep_token_id: Token id that ends a text. None takes the backbone's own; 102 for BERT and ELECTRA.
        unk_token_id: Token id that stands for words the vocabulary lacks: two of them are not the same word. None takes
            what is usual for the backbone, if its vocabulary has that id.
        pair_separators: Separators between query and document in a pair encoding: 1, or 2 as RoBERTa has them. None
            takes what is usual for the backbone.
        **kwargs: Passed to ``PretrainedConfig``; fields of earlier versions at the value that changes nothing.

    Raises:
        ValueError: If a choice is unknown or impossible, or a field of an earlier version asks for what is no longer
            there; the message names the field.
    """

    model_type = "mice"
    sub_configs = {"backbone_config": AutoConfig}

    # Numbers that libraries look for in any config: the backbone's.
    hidden_size = _backbone_property("hidden_size")
    vocab_size = _backbone_property("vocab_size")
    num_attention_heads = _backbone_property("num_attention_heads")
    num_hidden_layers = _backbone_property("num_hidden_layers")
    initializer_range = _backbone_property("initializer_range")

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        document_contextualization_layers: int | None = None,
        interaction_layers: int = 3,
        interaction_hidden_size: int | None = None,
        interaction_order: str = "cross_first",
        interaction_attention: str = "split",
        document_states: str = "frozen",
        query_self_attention: bool = True,
        global_cls: bool = False,
        query_attends_cls: bool = False,
        cls_attends_document: bool = True,
        mask3_frame: bool = False,
        interaction_layer_types: Sequence[str] | None = None,
        document_layer_types: Sequence[str] | None = None,
        pooler: bool = True,
        pooled_residual: bool = False,
        pooling: str = "mean",
        exact_match: bool = False,
        lexical_bias: bool = False,
        max_sim_residual: bool = False,
        score_scale: float = 1.0,
        empty_document_score: float = EMPTY_DOCUMENT_SCORE,
        query_max_length: int = 64,
        document_max_length: int = 512,
        cls_token_id: int | None = None,
        sep_token_id: int | None = None,
        unk_token_id: int | None = None,
        pair_separators: int | None = None,
        **kwargs: Any,
    ) -> None:
        mask3_frame = _read_removed_fields(kwargs, mask3_frame)
        if backbone_config is None:
            backbone_config = {"model_type": "bert"}
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config: Any = backbone_config  # Any: each type of backbone names its own fields
        kwargs.setdefault("num_labels", 1)
        super().__init__(**kwargs)
        self.document_contextualization_layers = document_contextualization_layers
        self.interaction_layers = interaction_layers
        self.interaction_hidden_size = interaction_hidden_size
        self.interaction_order = interaction_order
        self.interaction_attention = interaction_attention
        self.document_states = document_states
        self.query_self_attention = query_self_attention
        self.global_cls = global_cls
        self.query_attends_cls = query_attends_cls
        self.cls_attends_document = cls_attends_document
        self.mask3_frame = mask3_frame
        self.interaction_layer_types = None if interaction_layer_types is None else list(interaction_layer_types)
        self.document_layer_types = None if document_layer_types is None else list(document_layer_types)
        self.pooler = pooler
        self.pooled_residual = pooled_residual
        self.pooling = pooling
        self.exact_match = exact_match
        self.lexical_bias = lexical_bias
        self.max_sim_residual = max_sim_residual
        self.score_scale = score_scale
        self.empty_document_score = empty_document_score
        self.query_max_length = query_max_length
        self.document_max_length = document_max_length
        cls_id, sep_id, unk_id = self._usual_token_ids()
        self.cls_token_id = cls_id if cls_token_id is None else cls_token_id
        self.sep_token_id = sep_id if sep_token_id is None else sep_token_id
        self.unk_token_id = unk_id if unk_token_id is None else unk_token_id
        self.pair_separators = self.facts.pair_separators if pair_separators is None else pair_separators
        check_config(self)

    @property
    def facts(self) -> BackboneFacts:
        """The facts of this type of backbone."""
        return facts_of(self.backbone_config)

    def _usual_token_ids(self) -> tuple[int, int, int | None]:
        cls_id, sep_id, unk_id = (
            getattr(self.backbone_config, item) if isinstance(item, str) else item for item in self.facts.special_tokens
        )
        return cls_id, sep_id, unk_id if unk_id < self.vocab_size else None

    @property
    def layer_settings(self) -> LayerSettings:
        """Norms, biases, dropout and activation of the interaction layers: the backbone's."""
        facts, backbone = self.facts, self.backbone_config

        def has(field: str | None) -> bool:
            return True if field is None else bool(getattr(backbone, field))

        dropout = getattr(backbone, facts.output_dropout)
        classifier_dropout = getattr(backbone, facts.classifier_dropout, None)
        return LayerSettings(
            norm_eps=getattr(backbone, facts.norm_eps),
            norm_bias=has(facts.norm_bias),
            attention_bias=has(facts.attention_bias),
            feed_forward_bias=has(facts.feed_forward_bias),
            attention_dropout=getattr(backbone, facts.attention_dropout),
            output_dropout=dropout,
            feed_forward_dropout=getattr(backbone, facts.feed_forward_dropout),
            classifier_dropout=dropout if classifier_dropout is None else classifier_dropout,
            activation=getattr(backbone, facts.activation),
        )

    @property
    def name(self) -> str:
        """The model in a word: ``mice-l4+3``, then every choice that is not the paper's later version.

        ``-d6``: documents have 6 contextualisation layers of their own. ``+3``: interaction layers. Then the suffixes of
        ``SUFFIXES``, in that order, and ``-wW`` (interaction width).
        """
        own, width = self.document_contextualization_layers, self.interaction_hidden_size
        name = f"mice-l{self.contextualization_layers}{'' if own is None else f'-d{own}'}+{self.interaction_layers}"
        name += "".join(f"-{suffix}" for field, value, suffix in SUFFIXES if getattr(self, field) == value)
        return name if width is None else f"{name}-w{width}"

    def special_tokens(self, side: str) -> tuple[list[int], list[int]]:
        """Ids that stand before and after the text of a ``"query"`` or a ``"document"``."""
        has_cls = side == "query" or not self.mask3_frame
        return [self.cls_token_id] if has_cls else [], [self.sep_token_id]

    @property
    def unmatched_ids(self) -> list[int]:
        """Ids whose equality says nothing of two texts: special tokens, and the one for unknown words."""
        ids = [self.cls_token_id, self.sep_token_id, self.unk_token_id]
        return [token for token in ids if token is not None]

    @property
    def document_token_type(self) -> int:
        """Token type of the document's tokens, the query's is 0."""
        return 1 if self.mask3_frame and getattr(self.backbone_config, "type_vocab_size", 1) > 1 else 0

    @property
    def head_pooling(self) -> str:
        """The part of the query that the head reads after the last layer: ``"cls"``, or the ``"mean"`` of its tokens."""
        field = self.facts.pooling_field
        return "cls" if field is None else getattr(self.backbone_config, field)

    @property
    def max_positions(self) -> int:
        """Tokens of the longest text that the backbone reads."""
        return positions_of(self.backbone_config)

    @property
    def contextualization_layers(self) -> int:
        """Layers that read the query, and the document if it has none of its own, apart."""
        return self.backbone_config.num_hidden_layers

    @property
    def reading_layers(self) -> int:
        """Interaction layers that read the document.

        All of them; or all but the last one where only [CLS] is left to read and must not.
        """
        reads_by_cls = self.cls_attends_document or self.interaction_layers == 1
        reads_by_others = self.interaction_attention == "split" and self.interaction_order == "cross_first"
        is_reading = reads_by_cls or reads_by_others or self.exact_match or self.head_pooling == "mean"
        return self.interaction_layers - (0 if is_reading else 1)

    @property
    def state_width(self) -> int:
        """Values that a document's state has for each token: one state, or one per layer that reads it, side by side."""
        return self.interaction_width * (self.reading_layers if self.document_states == "per_layer" else 1)

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
        return self.num_attention_heads * self.interaction_width // self.hidden_size

    def self_attention_types(self) -> list[str]:
        """Type of each interaction layer's self-attention."""
        types = self.interaction_layer_types
        return ["full_attention"] * self.interaction_layers if types is None else types

    def document_backbone_config(self) -> PretrainedConfig:
        """Config of the contextualisation layers that documents have of their own."""
        layers = self.document_contextualization_layers
        if layers is None:
            raise ValueError("document_contextualization_layers is None: documents have no layers of their own.")
        return lower_layers(self.backbone_config, layers, self.document_layer_types)


def facts_of(config: PretrainedConfig) -> BackboneFacts:
    """The facts of a backbone, by its config.

    Raises:
        ValueError: If its type is unknown; the message lists the known ones.
    """
    if config.model_type not in BACKBONES:
        raise ValueError(
            f"backbone_config: a backbone of type {config.model_type!r} is not one of {tuple(BACKBONES)}. MICE needs an "
            "encoder, whose tokens read in both directions; decoder-only models are none."
        )
    return BACKBONES[config.model_type]


def positions_of(config: Any) -> int:
    """Tokens of the longest text that a backbone reads, by its config."""
    positions: int = config.max_position_embeddings
    return positions - config.pad_token_id - 1 if facts_of(config).positions_after_padding else positions


def lower_layers(config: Any, layers: int, layer_types: Sequence[str] | None = None) -> PretrainedConfig:
    """A backbone's config with its lowest ``layers`` layers, of these types, without a trace of where it was read from."""
    fields: dict[str, Any] = {"num_hidden_layers": layers, "architectures": None}
    if facts_of(config).has_layer_types:
        fields["layer_types"] = list(config.layer_types[:layers] if layer_types is None else layer_types)
    lower: PretrainedConfig = type(config).from_dict(config.to_dict() | fields)
    lower._name_or_path = ""  # the folder of the source is nobody's business on the Hub
    return lower


def _read_removed_fields(kwargs: dict[str, Any], mask3_frame: bool) -> bool:
    """Take fields of earlier versions out of ``kwargs``; whether they, or ``mask3_frame``, ask for Mask3's frame.

    Raises:
        ValueError: If a field asks for what is no longer there, or only some of Mask3's fields are set.
    """
    for field, harmless in REMOVED.items():
        if (value := kwargs.pop(field, harmless)) != harmless:
            raise ValueError(f"{field}: {value!r} is of an earlier version; only {harmless!r} can be read today.")
    given = {field: kwargs.pop(field) for field in MASK3_FIELDS if field in kwargs}
    is_off = all(value == MASK3_FIELDS[field][0] for field, value in given.items())
    if is_off:
        return mask3_frame
    is_on = len(given) == len(MASK3_FIELDS) and all(
        value == MASK3_FIELDS[field][1] or field == "document_token_type" for field, value in given.items()
    )
    if not is_on:
        differing = {field: value for field, value in given.items() if value != MASK3_FIELDS[field][0]}
        raise ValueError(
            f"{', '.join(differing)}: these fields of an earlier version are one today, mask3_frame; a model can be read "
            f"with all of {', '.join(MASK3_FIELDS)} set as Mask3 has them, or with none, got {differing}."
        )
    return True


def check_config(config: Any) -> None:
    """Check a ``MiceConfig``.

    Raises:
        ValueError: If a choice is unknown or impossible; the message names the field.
    """
    _check_backbone(config.backbone_config)
    if config.num_labels != 1:
        raise ValueError(f"num_labels: MICE gives one score per pair, got {config.num_labels}.")
    for name, known in CHOICES.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name}: {getattr(config, name)!r} is not one of {known}.")
    _check_sizes(config)
    _check_together(config)
    _check_layer_types(config)


def _check_backbone(backbone: Any) -> None:
    """Refuse what transformers allows in a backbone and MICE cannot use."""
    facts_of(backbone)
    if getattr(backbone, "is_decoder", False):
        raise ValueError(f"backbone_config: is_decoder of {backbone.model_type!r}; MICE needs an encoder.")
    if backbone.num_hidden_layers < 1:
        raise ValueError("contextualization_layers: at least 1 is needed, or there are no states to read.")
    for layer_type, parameters in (getattr(backbone, "rope_parameters", None) or {}).items():
        if parameters["rope_type"] != "default":  # MICE computes the plain ones
            raise ValueError(f"backbone_config: rope_parameters of {layer_type} are not of the default rope_type.")


def _check_sizes(config: Any) -> None:
    """Numbers, against those of the backbone."""
    own = config.document_contextualization_layers
    if own is not None and own < 1:
        raise ValueError(f"document_contextualization_layers: at least 1 is needed, got {own}.")
    per_head = config.hidden_size // config.num_attention_heads
    if not 0 < config.interaction_width <= config.hidden_size or config.interaction_width % per_head:
        raise ValueError(
            f"interaction_hidden_size: must be a multiple of {per_head}, the backbone's width per head, and at most "
            f"{config.hidden_size}, got {config.interaction_width}."
        )
    for name in ("query_max_length", "document_max_length"):
        if not 3 <= getattr(config, name) <= config.max_positions:
            raise ValueError(
                f"{name}: must lie between 3 tokens and the backbone's {config.max_positions} "
                f"positions, got {getattr(config, name)}."
            )
    for name in ("cls_token_id", "sep_token_id", "unk_token_id"):
        token = getattr(config, name)
        if (token is None and name != "unk_token_id") or not 0 <= (token or 0) < config.vocab_size:
            raise ValueError(f"{name}: {token} lies outside the vocabulary of {config.vocab_size}.")
    if config.pair_separators not in (1, 2):
        raise ValueError(f"pair_separators: must be 1 or 2, got {config.pair_separators}.")
    if not 0.0 < config.score_scale < float("inf"):
        raise ValueError(f"score_scale: must be positive and finite, got {config.score_scale}.")
    if not abs(config.empty_document_score) < float("inf"):
        raise ValueError(f"empty_document_score: must be finite, got {config.empty_document_score}.")


def _check_together(config: Any) -> None:
    """Choices that exclude each other."""
    fewest = 1 if config.cls_attends_document or config.head_pooling == "mean" else 2
    if config.interaction_layers < fewest:
        raise ValueError(
            f"interaction_layers: at least {fewest} needed with cls_attends_document="
            f"{config.cls_attends_document}, or [CLS] never learns of the document; got {config.interaction_layers}."
        )
    for name, value, other, other_value in EXCLUDED:
        if getattr(config, name) == value and getattr(config, other) == other_value:
            raise ValueError(f"{name}: {value!r} does not go with {other}={other_value!r}.")
    if config.pooled_residual and config.pooling == "cls" and config.mask3_frame:
        raise ValueError("pooling: 'cls' needs a document with a [CLS] of its own, which mask3_frame takes away.")


def _check_layer_types(config: Any) -> None:
    """Types of layers, where the backbone has several; rotary positions, which mean nothing between two texts."""
    if not config.facts.has_layer_types:
        for name in ("interaction_layer_types", "document_layer_types"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name}: {config.backbone_config.model_type!r} has one type of layer.")
        return
    own = config.document_contextualization_layers or 0
    document_types = config.document_layer_types
    document_types = config.backbone_config.layer_types[:own] if document_types is None else document_types
    for name, types, layers in (
        ("interaction_layer_types", config.self_attention_types(), config.interaction_layers),
        ("document_layer_types", document_types, own),
    ):
        if len(types) != layers or not set(types) <= set(LAYER_TYPES):
            raise ValueError(
                f"{name}: expected 'full_attention' or 'sliding_attention' for each of {layers} layers, got {types}."
            )
    if config.interaction_attention == "joint":
        raise ValueError("interaction_attention: 'joint' is not possible with 'modernbert', use 'split'.")


__all__ = ["MiceConfig"]

MiceConfig.register_for_auto_class()
