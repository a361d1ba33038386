"""Conditions on columns, written as plain values and understood alike by the engine and by the exact oracle.

    {"split": "train"}                        equal
    {"licence": ["MIT", "CC0-1.0"]}           any of
    {"width": {">=": 256, "<": 1024}}         range: > >= < <=
    {"split": "train", "style": "noto"}       all of them

A row without the column, or with nothing in it, satisfies no condition.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from diptych.core.errors import ConfigError, UnknownName

Where = Mapping[str, Any]
Kind = str  # "text" | "integer" | "number" | "boolean"

RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def kind_of(value: Any) -> Kind | None:
    """How a column value is stored; None for values that cannot be filtered by (lists, dicts, nothing)."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else None


def merge_kinds(old: Mapping[str, Kind], rows: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """The kinds of columns after some more rows. Whole and broken numbers are "number"; any other mixture is refused."""
    kinds = dict(old)
    for row in rows:
        for name, value in row.items():
            kind = kind_of(value)
            if kind is None:
                continue
            known = kinds.setdefault(name, kind)
            if known != kind:
                if {known, kind} != {"integer", "number"}:
                    raise ConfigError(f"column '{name}' holds {known} in some rows and {kind} in others (expected one kind)")
                kinds[name] = "number"
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
            if given != kind and {given, kind} != {"integer", "number"}:
                raise ConfigError(f"column '{name}' holds {kind}, the condition gives {value!r}")


def matches(row: Mapping[str, Any], where: Where) -> bool:
    """Whether a row satisfies all conditions. The meaning of `where`; the engine's filter is tested against it."""
    return all(_holds(row.get(name), wanted) for name, wanted in where.items())


def engine_filter(where: Where, columns: Mapping[str, Kind]) -> Any:
    """The same conditions for Qdrant Edge; None when there are none."""
    import qdrant_edge as engine

    if not where:
        return None
    return engine.Filter(must=[_condition(engine, name, wanted, columns[name]) for name, wanted in where.items()])


def _condition(engine: Any, name: str, wanted: Any, kind: Kind) -> Any:
    key = json_path(name)
    if isinstance(wanted, Mapping):
        return engine.FieldCondition(key, range=engine.RangeFloat(**{RANGES[sign]: float(v) for sign, v in wanted.items()}))
    values = _options(wanted)
    if kind == "text":
        return engine.FieldCondition(key, match=engine.MatchAny(values))
    if kind == "boolean":  # stored as 0 and 1: the engine reads a Python bool as a whole number
        return engine.FieldCondition(key, match=engine.MatchAny([int(v) for v in values]))
    points = [engine.FieldCondition(key, range=engine.RangeFloat(gte=float(v), lte=float(v))) for v in values]
    return engine.Filter(should=points)


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
    return value in _options(wanted)
