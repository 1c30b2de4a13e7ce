"""Flags on judgements that several commands have: one definition, one meaning."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def strict_flag() -> Any:
    """``--strict``: refuse judgements that are otherwise counted in a warning."""
    return field(
        default=False,
        metadata={
            "help": "Refuse judgements that name an unknown query or document, are there twice or have a grade such as 1.0, with file "
            "and line, in place of one warning that counts them."
        },
    )


def ignore_identical_ids_flag() -> Any:
    """``--ignore-identical-ids``: leave out the document with the query's id whatever its text."""
    return field(
        default=False,
        metadata={
            "help": "Leave the document that has the query's id out of its candidates whatever its text is, as BEIR does (default: only "
            "where it has the query's text too)."
        },
    )


def relevance_threshold_flag() -> Any:
    """``--relevance-threshold``: the lowest grade that is relevant."""
    return field(
        default=1,
        metadata={
            "help": "Lowest grade that is relevant, 2 for TREC's Deep Learning tracks; nDCG takes every grade above 0."
        },
    )


def check_threshold(value: int) -> None:
    """Refuse a threshold below 1: a document that is judged not relevant has grade 0.

    Raises:
        ValueError: If it is below 1.
    """
    if value < 1:
        raise ValueError(f"relevance_threshold: must be at least 1, got {value}")
