"""What a ``MiceConfig`` is refused for: choices that are unknown, impossible, or impossible together."""

from typing import Any

CHOICES = {
    "interaction_order": ("cross_first", "self_first"),
    "interaction_attention": ("split", "joint"),
    "document_states": ("frozen", "per_layer"),
    "pooling": ("mean", "cls"),
}


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


def _check_sizes(config: Any) -> None:
    """Numbers, against those of the backbone."""
    backbone = config.backbone_config
    if backbone.num_hidden_layers < 1:
        raise ValueError("contextualization_layers: at least 1 is needed, or there are no states to read.")
    per_head = backbone.hidden_size // backbone.num_attention_heads
    if not 0 < config.interaction_width <= backbone.hidden_size or config.interaction_width % per_head:
        raise ValueError(
            f"interaction_hidden_size: must be a multiple of {per_head}, the backbone's width per head, and at most "
            f"{backbone.hidden_size}, got {config.interaction_width}."
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
    fewest = 1 if config.cls_attends_document else 2
    if config.interaction_layers < fewest:
        raise ValueError(
            f"interaction_layers: at least {fewest} needed with cls_attends_document="
            f"{config.cls_attends_document}, or [CLS] never learns of the document; got {config.interaction_layers}."
        )
    if config.interaction_attention == "joint" and config.interaction_order != "cross_first":
        raise ValueError("interaction_order: interaction_attention='joint' has one attention; leave 'cross_first'.")
    if config.pooled_residual and config.pooling == "cls" and not config.document_cls:
        raise ValueError("pooling: 'cls' needs a document with a [CLS] of its own, document_cls is False.")
