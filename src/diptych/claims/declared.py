"""The hash of a declaration: plain values as they are, arms by their configuration and by the syntax of what runs them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diptych.core.sources.syntax import strip_syntax


def declared_hash(value: Any, *, without: Sequence[str] = ()) -> str:
    """Twelve hex digits over a dataclass; fields named in `without` do not count."""
    fields = [f for f in dataclasses.fields(value) if f.name not in without and getattr(value, f.name) != _default(f)]
    plain = {f.name: _plain(getattr(value, f.name)) for f in fields}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """JSON of a value, whose groups of fields (`core.grouped_fields`) are spelled as one list. A callable is the syntax of its source with
    the values that it closes over."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        groups = getattr(type(value), "_groups", ())
        holders = [value, *(getattr(value, name) for name in groups)]
        items = [(one, f) for one in holders for f in dataclasses.fields(one) if one is not value or f.name not in groups]
        fields = {f.name: _plain(_value(one, f)) for one, f in items if getattr(one, f.name) != _default(f)}
        counts = callable(value) and not _belongs_to_the_body(type(value))
        return {"kind": type(value).__qualname__, **fields, **({"code": _code(type(value))} if counts else {})}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item) for item in value]
        return sorted(items, key=json.dumps) if isinstance(value, set | frozenset) else items
    if inspect.isfunction(value):
        return {"code": _code(value), "values": _plain(inspect.getclosurevars(value).nonlocals)}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if isinstance(value, Path) else repr(type(value))


def _value(config: Any, field: dataclasses.Field[Any]) -> Any:
    """Value of a field; JSON text of one that was such a text (`core.grouped_fields`)."""
    value = getattr(config, field.name)
    return json.dumps(value.to_json()) if "json" in field.metadata and value is not None else value


def _default(field: dataclasses.Field[Any]) -> Any:
    """Fields at their default are left out, so that a new option which changes nothing leaves the hash as it is."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _belongs_to_the_body(kind: type) -> bool:
    """True for a part defined in the package outside claims, such as a loss: traces detect changes of its code, the hash need not."""
    return kind.__module__.startswith("diptych.") and not kind.__module__.startswith("diptych.claims.")


@cache
def _code(value: type | Callable[..., Any]) -> str:
    return strip_syntax(ast.parse(textwrap.dedent(inspect.getsource(value))))


def modules_of(value: Any) -> set[str]:
    """The modules that define a value, what it holds, and what it closes over: where its import closure begins."""
    return {module for module, _ in definitions_of(value)}


def definitions_of(value: Any) -> set[tuple[str, str]]:
    """Module and top-level name of what defines a value, what it holds, and what it closes over."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return definitions_of(type(value)).union(*map(definitions_of, held))
    if isinstance(value, list | tuple | set | frozenset):
        return set().union(*map(definitions_of, value))
    if inspect.isfunction(value):
        held = list(inspect.getclosurevars(value).nonlocals.values())
        return {(value.__module__, value.__qualname__.partition(".")[0])}.union(*map(definitions_of, held))
    return {(value.__module__, value.__qualname__.partition(".")[0])} if isinstance(value, type) else set()
