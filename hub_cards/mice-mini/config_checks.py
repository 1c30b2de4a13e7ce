"""What a ``MiceConfig`` is refused for (choices that are unknown, impossible, or impossible together), and called."""

from typing import Any

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
    ("query_attends_document_sep", False, "nodsep"),
    ("contextualization_attends_cls", False, "noccls"),
    ("sep_attends_itself_alone", True, "lonesep"),
    ("document_cls", False, "nodcls"),
    ("document_token_type", 1, "type1"),
    ("global_cls", True, "gcls"),
    ("exact_match", True, "lex"),
    ("lexical_bias", True, "lexbias"),
    ("pooler", False, "nopooler"),
    ("pooled_residual", True, "pooled"),
    ("pooling", "cls", "clspool"),
    ("match_residual", True, "match"),
    ("max_sim_residual", True, "maxsim"),
]


def check_config(config: Any) -> None:
    """Check a ``MiceConfig``.

    Raises:
        ValueError: If a choice is unknown or impossible; the message names the field.
    """
    config.backbone.check(config.backbone_config)
    if config.num_labels != 1:
        raise ValueError(f"num_labels: MICE gives one score per pair, got {config.num_labels}.")
    for name, known in CHOICES.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name}: {getattr(config, name)!r} is not one of {known}.")
    _check_sizes(config)
    _check_together(config)
    config.backbone.check_options(config)


def _check_sizes(config: Any) -> None:
    """Numbers, against those of the backbone."""
    backbone = config.backbone_config
    if backbone.num_hidden_layers < 1:
        raise ValueError("contextualization_layers: at least 1 is needed, or there are no states to read.")
    own = config.document_contextualization_layers
    if own is not None and own < 1:
        raise ValueError(f"document_contextualization_layers: at least 1 is needed, got {own}.")
    per_head = backbone.hidden_size // backbone.num_attention_heads
    if not 0 < config.interaction_width <= backbone.hidden_size or config.interaction_width % per_head:
        raise ValueError(
            f"interaction_hidden_size: must be a multiple of {per_head}, the backbone's width per head, and at most "
            f"{backbone.hidden_size}, got {config.interaction_width}."
        )
    if config.key_value_heads < 1 or config.interaction_heads % config.key_value_heads:
        raise ValueError(
            f"interaction_key_value_heads: {config.key_value_heads} heads cannot be shared out to "
            f"{config.interaction_heads} heads of queries."
        )
    for name in ("query_max_length", "document_max_length"):
        if not 3 <= getattr(config, name) <= config.max_positions:
            raise ValueError(
                f"{name}: must lie between 3 tokens and the backbone's {config.max_positions} "
                f"positions, got {getattr(config, name)}."
            )
    for name in ("cls_token_id", "sep_token_id"):
        if not 0 <= getattr(config, name) < backbone.vocab_size:
            raise ValueError(f"{name}: {getattr(config, name)} lies outside the vocabulary of {backbone.vocab_size}.")
    if config.pair_separators not in (1, 2):
        raise ValueError(f"pair_separators: must be 1 or 2, got {config.pair_separators}.")
    types = getattr(backbone, "type_vocab_size", 1)
    if not 0 <= config.document_token_type < types:
        raise ValueError(
            f"document_token_type: the backbone has {types} token types, got {config.document_token_type}."
        )


def _check_together(config: Any) -> None:
    """Choices that exclude each other."""
    fewest = 1 if config.cls_attends_document or config.head_pooling == "mean" else 2
    if config.interaction_layers < fewest:
        raise ValueError(
            f"interaction_layers: at least {fewest} needed with cls_attends_document="
            f"{config.cls_attends_document}, or [CLS] never learns of the document; got {config.interaction_layers}."
        )
    for name, value, needed, needed_value in EXCLUDED:
        if getattr(config, name) == value and getattr(config, needed) == needed_value:
            raise ValueError(f"{name}: {value!r} does not go with {needed}={needed_value!r}.")
    if config.interaction_attention == "joint" and config.interaction_key_value_heads is not None:
        raise ValueError("interaction_key_value_heads: heads of a joint attention cannot be shared.")
    if config.pooled_residual and config.pooling == "cls" and not config.document_cls:
        raise ValueError("pooling: 'cls' needs a document with a [CLS] of its own, document_cls is False.")


def describe(config: Any) -> str:
    """A name that tells configs apart: ``mice-l4+3``, then every choice that is not the paper's later version.

    ``-d6``: documents have 6 contextualisation layers of their own. ``+3``: interaction layers. Then, in this order, the
    suffixes of ``SUFFIXES`` and, with a number, ``-wW`` (interaction width) and ``-kvN`` (shared key/value heads).
    """
    own = config.document_contextualization_layers
    name = f"mice-l{config.contextualization_layers}{'' if own is None else f'-d{own}'}+{config.interaction_layers}"
    name += "".join(f"-{suffix}" for field, value, suffix in SUFFIXES if getattr(config, field) == value)
    if config.interaction_hidden_size is not None:
        name += f"-w{config.interaction_hidden_size}"
    if config.interaction_key_value_heads is not None:
        name += f"-kv{config.interaction_key_value_heads}"
    return name
