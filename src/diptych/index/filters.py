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
    """How a column value is stored; None for values that cannot be filtered by (lists of other than strings, dicts, nothing)."""
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
    """The kinds of columns after some more rows. Whole and broken numbers are "number", one and several strings "texts"; any
    other mixture is refused."""
    kinds = dict(old)
    for row in rows:
        for name, value in row.items():
            kind = kind_of(value)
            if kind is None:
                continue
            known = kinds.setdefault(name, kind)
            if known != kind:
                if {known, kind} not in ALIKE:
                    raise ConfigError(f"column '{name}' holds {known} in some rows and {kind} in others (expected one kind)")
                kinds[name] = "number" if "number" in (known, kind) else "texts"
    return kinds


def check_where(where: Where, columns: Mapping[str, Kind]) -> None:
    """Refuse a column that is not there, a value of the wrong kind, a range that is not one."""
    for name, wanted in where.items():
        if name not in columns:
            raise UnknownName("column in `where`", name, columns)
        kind = columns[name]
        if isinstance(wanted, Mapping):
            if kind not in ("integer", "number"):
                raise ConfigError(f"column '{name}' holds {kind}, a range needs numbers")
            if not wanted or not set(wanted) <= set(RANGES):
                raise ConfigError(f"range of column '{name}' is {dict(wanted)} (expected keys among {' '.join(RANGES)})")
            values: list[Any] = list(wanted.values())
        else:
            values = _options(wanted)
        if not values:
            raise ConfigError(f"column '{name}' is asked to be one of nothing (expected a value or more)")
        for value in values:
            given = kind_of(value)
            if given == "texts" or (given != kind and {given, kind} not in ALIKE):
                raise ConfigError(f"column '{name}' holds {kind}, the condition gives {value!r}")
            if given in ("integer", "number") and not abs(value) < LARGEST:
                raise ConfigError(f"column '{name}' is compared with a number that is none or too large (expected a finite one)")


def matches(row: Mapping[str, Any], where: Where) -> bool:
    """Whether a row satisfies all conditions. The meaning of `where`; the engine's filter is tested against it."""
    return all(_holds(row.get(name), wanted) for name, wanted in where.items())


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
    return [_clause(name, wanted, columns[name]) for name, wanted in where.items()]


def _clause(name: str, wanted: Any, kind: Kind) -> OneOf | InRange:
    if isinstance(wanted, Mapping):
        return InRange(name, ({sign: float(edge) for sign, edge in wanted.items()},))
    values = _options(wanted)
    if kind in ("text", "texts"):
        return OneOf(name, tuple(values))
    if kind == "boolean":  # stored as 0 and 1: the engine reads a Python bool as a whole number
        return OneOf(name, tuple(int(value) for value in values))
    return InRange(name, tuple({">=": float(value), "<=": float(value)} for value in values))


def json_path(name: str) -> str:
    """A column name as a path of the engine: names with other signs than letters, digits, dashes, underscores are quoted."""
    plain = all(sign.isalnum() or sign in "_-" for sign in name)
    return name if plain else f'"{name}"'


def _options(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]


def _holds(value: Any, wanted: Any) -> bool:
    if value is None:
        return False
    if isinstance(wanted, Mapping):
        return all(COMPARE[sign](value, edge) for sign, edge in wanted.items())
    if isinstance(value, list | tuple):
        return any(part in _options(wanted) for part in value)
    return value in _options(wanted)
