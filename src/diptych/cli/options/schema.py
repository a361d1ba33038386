"""A configuration file with comments, and its JSON Schema for editors, both made from the dataclasses of options."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from diptych.cli.options.meaning import documented
from diptych.core.config import to_plain

WIDTH = 100
"""Characters of a line of comments."""
SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


@dataclass(frozen=True, slots=True)
class ConfigSection:
    """A section of a configuration file: dataclasses of options with their defaults.

    parts    (class, default instance or None) pairs, an earlier one wins a name
    hidden   fields that a file does not have
    given    values that stand in the file in place of the defaults
    """

    name: str
    parts: Sequence[tuple[Any, Any]]
    hidden: frozenset[str] = frozenset()
    given: Mapping[str, Any] = field(default_factory=dict)


def config_text(sections: Sequence[ConfigSection], head: str = "") -> str:
    """YAML of every field with its default and, as a comment before it, what it is. Fields that must be given are commented out."""
    lines = [f"# {line}" for line in head.splitlines()]
    for section in sections:
        lines += ["", f"{section.name}:"] if lines else [f"{section.name}:"]
        for name, _, default, about in _options(section):
            lines += _field_lines(name, default, about, "  ")
    return "\n".join(lines) + "\n"


def config_schema(sections: Sequence[ConfigSection], title: str) -> dict[str, Any]:
    """JSON Schema of such a file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "properties": {
            section.name: {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: _property(hint, default, about) for name, hint, default, about in _options(section)},
            }
            for section in sections
        },
    }


def _options(section: ConfigSection) -> Iterator[tuple[str, Any, Any, str]]:
    """Name, type, default (`MISSING` without one) and meaning of every field."""
    seen = set(section.hidden)
    for kind, instance in section.parts:
        hints, words = typing.get_type_hints(kind, include_extras=True), documented(kind)
        for item in fields(kind):
            if item.name in seen or item.metadata.get("prepared") or not item.init:
                continue
            seen.add(item.name)
            default = getattr(instance, item.name) if instance is not None else item.default
            if default is MISSING and item.default_factory is not MISSING:
                default = item.default_factory()
            hint = hints[item.name]
            about = words.get(item.name) or next((help for mark in _marks(hint) if (help := getattr(mark, "help", None))), "")
            yield item.name, hint, section.given.get(item.name, default), str(about)


def _marks(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _field_lines(name: str, default: Any, about: str, indent: str) -> Iterator[str]:
    if about:
        yield from (f"{indent}# {line}" for line in textwrap.wrap(about, WIDTH))
    if is_dataclass(default) and not isinstance(default, type):
        yield f"{indent}{name}:"
        words = documented(type(default))
        for item in fields(default):
            yield from _field_lines(item.name, getattr(default, item.name), words.get(item.name, ""), indent + "  ")
        return
    if default is MISSING or (isinstance(default, Path) and default == Path()):
        yield f"{indent}# {name}:"
        return
    plain, options = to_plain(default), {"sort_keys": False, "allow_unicode": True, "width": 10_000}
    if isinstance(plain, list | dict):
        yield f"{indent}{name}: {yaml.safe_dump(plain, default_flow_style=True, **options).strip()}"
        return
    yield from (f"{indent}{line}" for line in yaml.safe_dump({name: plain}, default_flow_style=False, **options).splitlines())


def _property(hint: Any, default: Any, about: str) -> dict[str, Any]:
    made = _type(hint, default)
    if about:
        made["description"] = about
    if default is not MISSING and not is_dataclass(default) and default != Path():
        made["default"] = to_plain(default)
    return made


def _type(hint: Any, default: Any = MISSING) -> dict[str, Any]:
    """Schema of a type hint; anything goes where it says nothing that a schema can."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type(args[0], default)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(option) for option in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": _type(args[0])}
        return {"type": "array", "prefixItems": [_type(one) for one in args], "minItems": len(args), "maxItems": len(args)}
    if origin in (list, dict):
        return {"type": "array", "items": _type(args[0])} if origin is list else {"type": "object"}
    if hint is type(None):
        return {"type": "null"}
    if isinstance(hint, type) and is_dataclass(hint):
        words, hints = documented(hint), typing.get_type_hints(hint, include_extras=True)
        inner = {
            item.name: _property(hints[item.name], getattr(default, item.name, MISSING), words.get(item.name, ""))
            for item in fields(hint)
        }
        return {"type": "object", "additionalProperties": False, "properties": inner}
    return {"type": SIMPLE[hint]} if hint in SIMPLE else {}
