"""Options that hold options, seen flat: flags, recipe files and ``training.json`` have one level of names.

An options class is a dataclass; a field of it may be a dataclass too, and then stands for that one's fields. No name is
there twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

Options = TypeVar("Options")


def nested_options(options_class: type) -> dict[str, type]:
    """Fields of an options class that are dataclasses themselves: name -> class."""
    hints = get_type_hints(options_class)
    return {item.name: hints[item.name] for item in fields(options_class) if is_dataclass(hints[item.name])}


def flat_fields(options_class: type) -> dict[str, Field[Any]]:
    """All fields of an options class and of those it holds, by name, in their order."""
    nested = nested_options(options_class)
    flat: dict[str, Field[Any]] = {}
    for item in fields(options_class):
        inner = fields(nested[item.name]) if item.name in nested else (item,)
        flat |= {one.name: one for one in inner}
    return flat


def as_flat(options: Any) -> dict[str, Any]:
    """The values of options and of those they hold, by name, in their order."""
    flat: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        flat |= as_flat(value) if is_dataclass(value) else {item.name: value}
    return flat


def from_flat(options_class: type[Options], values: Mapping[str, Any]) -> Options:
    """Options from their flat values; what is not given is as by default.

    Args:
        options_class: The options class.
        values: Name -> value.

    Raises:
        ValueError: If there is no such field; names all unknown ones.
        TypeError: If a field without a default is missing.
    """
    if unknown := sorted(values.keys() - flat_fields(options_class).keys()):
        raise ValueError(f"{options_class.__name__} has no field {', '.join(unknown)}")
    own = dict(values)
    for name, inner in nested_options(options_class).items():
        own[name] = inner(**{item.name: own.pop(item.name) for item in fields(inner) if item.name in own})
    return options_class(**own)


def with_defaults(options_class: type, written: Mapping[str, Any]) -> dict[str, Any]:
    """Flat options that an earlier version wrote: fields that it did not have yet are as they are by default.

    Args:
        options_class: The options class.
        written: Its fields as they were written.
    """
    flat = flat_fields(options_class)
    return {name: item.default for name, item in flat.items() if item.default is not MISSING} | dict(written)
