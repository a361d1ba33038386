"""Conditions on columns, written as plain values and understood alike by the engine and by the exact oracle.

    {"split": "train"}                        equal
    {"licence": ["MIT", "CC0-1.0"]}           any of
    {"width": {">=": 256, "<": 1024}}         range: > >= < <=
    {"split": "train", "style": "noto"}       all of them

A row without the column, or with nothing in it, satisfies no condition. A row with several strings in it (the languages of its
texts, its tags) satisfies a condition when one of them does.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import ConfigError, UnknownName

Where = Mapping[str, Any]
Kind = str  # "text" | "texts" | "integer" | "number" | "boolean"

RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
LARGEST = 2.0**63  # whole numbers of an engine have 64 bits
ALIKE = ({"integer", "number"}, {"text", "texts"})  # kinds that one column may mix; the second of a pair stands for both
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def kind_of(value: Any) -> Kind | None:
    """Storage type of a column value; None for values that cannot be filtered by (lists of other than strings, dicts, nothing)."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, list | tuple):
        return "texts" if value and all(isinstance(part, str) for part in value) else None
    return "text" if isinstance(value, str) else None


def merge_kinds(old: Mapping[str, Kind], rows: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """Column kinds after some more rows. Integers and floats give "number", one and several strings "texts"; any other mixture is
    refused.
    """
    kinds = dict(old)
    for row in rows:
        for name, value in row.items():
            kind = kind_of(value)
            if kind is None:
                continue
            stored_kind = kinds.setdefault(name, kind)
            if stored_kind != kind:
                if {stored_kind, kind} not in ALIKE:
                    raise ConfigError(
                        f"column '{name}' holds {stored_kind} in some rows and {kind} in others (expected one kind)"
                    )
                kinds[name] = "number" if "number" in (stored_kind, kind) else "texts"
    return kinds


def check_where(where: Where, columns: Mapping[str, Kind]) -> None:
    """Refuse an unknown column, a value of the wrong kind, or an invalid range."""
    for name, condition in where.items():
        if name not in columns:
            raise UnknownName("column in `where`", name, columns)
        kind = columns[name]
        if isinstance(condition, Mapping):
            if kind not in ("integer", "number"):
                raise ConfigError(f"column '{name}' holds {kind}, a range needs numbers")
            if not condition or not set(condition) <= set(RANGES):
                raise ConfigError(f"range of column '{name}' is {dict(condition)} (expected keys among {' '.join(RANGES)})")
            values: list[Any] = list(condition.values())
        else:
            values = _options(condition)
        if not values:
            raise ConfigError(f"column '{name}' has an empty list of values (expected one or more)")
        for value in values:
            given = kind_of(value)
            if given == "texts" or (given != kind and {given, kind} not in ALIKE):
                raise ConfigError(f"column '{name}' holds {kind}, the condition gives {value!r}")
            if given in ("integer", "number") and not abs(value) < LARGEST:
                raise ConfigError(f"column '{name}' is compared with a number that is NaN or too large (expected a finite one)")


def matches(row: Mapping[str, Any], where: Where) -> bool:
    """True if a row satisfies all conditions. Defines the meaning of `where`; the engine's filter is tested against it."""
    return all(_holds(row.get(name), condition) for name, condition in where.items())


@dataclass(frozen=True, slots=True)
class OneOf:
    """The column holds one of these strings or whole numbers."""

    column: str
    values: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class InRange:
    """The column holds a number in one of these ranges, each from signs to edges."""

    column: str
    ranges: tuple[Mapping[str, float], ...]


def clauses(where: Where, columns: Mapping[str, Kind]) -> list[OneOf | InRange]:
    """The same conditions in the two forms that engines know; all must hold."""
    return [_clause(name, condition, columns[name]) for name, condition in where.items()]


def _clause(name: str, condition: Any, kind: Kind) -> OneOf | InRange:
    if isinstance(condition, Mapping):
        return InRange(name, ({sign: float(edge) for sign, edge in condition.items()},))
    values = _options(condition)
    if kind in ("text", "texts"):
        return OneOf(name, tuple(values))
    if kind == "boolean":  # stored as 0 and 1: the engine reads a Python bool as a whole number
        return OneOf(name, tuple(int(value) for value in values))
    return InRange(name, tuple({">=": float(value), "<=": float(value)} for value in values))


def json_path(name: str) -> str:
    """A column name as a path of the engine: names with other signs than letters, digits, dashes, underscores are quoted."""
    plain = all(sign.isalnum() or sign in "_-" for sign in name)
    return name if plain else f'"{name}"'


def _options(condition: Any) -> list[Any]:
    return list(condition) if isinstance(condition, list | tuple | set | frozenset) else [condition]


def _holds(value: Any, condition: Any) -> bool:
    if value is None:
        return False
    if isinstance(condition, Mapping):
        return all(COMPARE[sign](value, edge) for sign, edge in condition.items())
    if isinstance(value, list | tuple):
        return any(part in _options(condition) for part in value)
    return value in _options(condition)
