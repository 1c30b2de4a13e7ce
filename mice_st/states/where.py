"""Conditions on documents' metadata: ``{"lang": "de", "year": {">=": 2020}}``, each of them to hold.

A value stands for equality; a list for "one of these"; a dictionary for comparisons. Values of different types are never
equal and never compared: a document whose ``year`` is the string "2021" does not satisfy ``{">=": 2020}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Scalar = str | int | float | bool | None

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}
OPERATORS = ("=", "!=", *_COMPARE, "in", "exists")
_MISSING = object()  # beside None, which metadata may hold


class Where:
    """A parsed filter.

    Args:
        conditions: Key -> value, list of values, or operator -> value. Operators: ``=``, ``!=``, ``<``, ``<=``, ``>``,
            ``>=``, ``in`` (a list) and ``exists`` (a bool). ``!=`` holds for documents without the key too.

    Raises:
        ValueError: If it is no mapping, an operator does not exist, or a value does not suit its operator; names the key.
    """

    def __init__(self, conditions: Mapping[str, Any]) -> None:
        if not isinstance(conditions, Mapping):
            raise ValueError(f"where: expected a dictionary of conditions, got {type(conditions).__name__}")
        self.conditions: list[tuple[str, str, Any]] = []
        for key, wanted in conditions.items():
            if not isinstance(key, str) or not key or '"' in key or "\\" in key or not key.isprintable():
                raise ValueError(
                    f"where: a key must be a string of printable characters without quotation marks and backslashes, got {key!r}"
                )
            if isinstance(wanted, Mapping):
                if not wanted:
                    raise ValueError(f"where: {key!r} has no condition")
                for operator, value in wanted.items():
                    self._add(key, operator, value)
            elif isinstance(wanted, list | tuple | set | frozenset):
                self._add(key, "in", list(wanted))
            else:
                self._add(key, "=", wanted)

    def _add(self, key: str, operator: str, value: Any) -> None:
        if operator not in OPERATORS:
            raise ValueError(f"where: {key!r} has the operator {operator!r}; there are {', '.join(OPERATORS)}")
        if operator == "in":
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise ValueError(f"where: {key!r}: 'in' wants a list, got {value!r}")
            value = [_scalar(key, item) for item in value]
        elif operator == "exists":
            if not isinstance(value, bool):
                raise ValueError(f"where: {key!r}: 'exists' wants True or False, got {value!r}")
        else:
            value = _scalar(key, value)
            if operator in _COMPARE and (value is None or isinstance(value, bool)):
                raise ValueError(f"where: {key!r}: {operator!r} wants a number or a string, got {value!r}")
        self.conditions.append((key, operator, value))

    def matches(self, metadata: Mapping[str, Any] | None) -> bool:
        """Whether a document with this metadata (None: it has none) satisfies every condition."""
        return all(_holds((metadata or {}).get(key, _MISSING), op, wanted) for key, op, wanted in self.conditions)

    def sql(self, column: str) -> tuple[str, list[Any]]:
        """The same as a condition of SQLite over a column of JSON text, which may be NULL.

        Returns:
            The condition, and its parameters.
        """
        parts, parameters = [], []
        for key, operator, wanted in self.conditions:
            path = f'$."{key}"'
            type_of, value = f"json_type({column}, ?)", f"json_extract({column}, ?)"
            if operator == "exists":
                parts.append(f"{type_of} IS {'NOT ' if wanted else ''}NULL")
                parameters.append(path)
                continue
            alternatives = []
            for item in wanted if operator == "in" else [wanted]:
                kinds = ", ".join(f"'{kind}'" for kind in _sql_types(item))
                if item is None or isinstance(item, bool):
                    alternatives.append(f"coalesce({type_of} IN ({kinds}), 0)")
                    parameters.append(path)
                    continue
                sign = operator if operator in _COMPARE else "="
                alternatives.append(f"coalesce({type_of} IN ({kinds}) AND {value} {sign} ?, 0)")
                parameters += [path, path, item]
            joined = " OR ".join(alternatives) or "0"
            parts.append(f"NOT ({joined})" if operator == "!=" else f"({joined})")
        return " AND ".join(parts) or "1", parameters


def _scalar(key: str, value: Any) -> Scalar:
    if not (value is None or isinstance(value, str | int | float | bool)):
        raise ValueError(
            f"where: {key!r} is compared with {type(value).__name__}; wanted a string, a number, a bool or None"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"where: {key!r} is compared with {value}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"where: {key!r} is compared with {value}, which is beyond 64 bits")
    return value


def _kind(value: Any) -> str:
    """Values are compared within their kind alone; a bool is no number here, though Python's is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "other"


def _sql_types(value: Scalar) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return {"null": ["null"], "number": ["integer", "real"], "text": ["text"]}[_kind(value)]


def _holds(value: Any, operator: str, wanted: Any) -> bool:
    if operator == "exists":
        return (value is not _MISSING) is wanted
    if operator == "in":
        return any(_holds(value, "=", item) for item in wanted)
    if operator == "!=":
        return not _holds(value, "=", wanted)
    if value is _MISSING or _kind(value) != _kind(wanted):
        return False
    return value == wanted if operator == "=" else _COMPARE[operator](value, wanted)


def metadata_json(metadata: Any, name: str) -> str | None:
    """Metadata as the JSON that a store keeps; None for none.

    Args:
        metadata: A dictionary with string keys, or None.
        name: What an error calls the document.

    Raises:
        ValueError: If it is something else, or holds what JSON cannot; names the document.
    """
    if metadata is None or metadata == {}:
        return None
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise ValueError(f"{name}: metadata must be a dictionary with strings as keys, got {metadata!r:.60}")
    try:
        line = json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, allow_nan=False)
        line.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: its metadata cannot be written as JSON: {error}") from error
    return line
