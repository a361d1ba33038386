"""Dataclass configurations: conversion to and from plain values, a stable hash, YAML files.

A field with ``metadata={"prepared": True}`` holds what `Recipe.prepare` learned from the data (a vocabulary, class names);
it is saved in ``prepared.json`` beside ``config.yaml`` so that the latter stays readable.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from diptych.core.disk.files import write_atomic, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import read_file
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.grouped_fields import into_groups

T = TypeVar("T")
LARGEST = 256 * 2**20
"""Bytes of a configuration, vocabularies included."""
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)
"""Numbers such as 2e-4, which YAML takes for text."""


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths become dicts, lists and strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[T], plain: dict[str, Any]) -> T:
    """Rebuild a dataclass. An unknown field or a value of the wrong type is refused with its name. Fields that are in a group now
    are also read by their own names (`core.grouped_fields`)."""
    plain = into_groups(kind, plain)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, kind)) if f.init}
    values = checked_fields(kind, plain)
    for name, item in fields.items():
        if name not in plain and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{kind.__name__} has no {name} (expected {_type_name(hints[name])})")
    return kind(**values)


def checked_fields(kind: type[Any], plain: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Values of some fields of a dataclass, typed; an unknown field or a value of the wrong type is refused with its name.

    where  what errors call the dataclass; its own name by default
    """
    where = where or kind.__name__
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    for name in plain:
        if name not in fields:
            raise UnknownName(f"field of {where}", name, fields)
    return {name: _coerce(hints[name], value, f"{where}.{name}") for name, value in plain.items()}


def overlaid(config: T, changes: Mapping[str, Any], where: str) -> T:
    """The same configuration with changed fields, as `with_changes`; a mapping changes fields of a configuration that it holds.

    Raises ConfigError or UnknownName with `where` before the name of the field.
    """
    nested = {
        name: overlaid(held, value, f"{where}.{name}")
        for name, value in changes.items()
        if isinstance(value, Mapping)
        and dataclasses.is_dataclass(held := getattr(config, name, None))
        and not isinstance(held, type)
    }
    flat = {name: value for name, value in changes.items() if name not in nested}
    own = {item.name for item in dataclasses.fields(cast(Any, config))}
    checked_fields(type(config), {name: value for name, value in flat.items() if name in own}, where)
    return with_changes(config, {**flat, **nested})


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in args:
            with suppress(ConfigError):
                return _coerce(option, value, where)
        raise ConfigError(f"{where} is {value!r} (expected {' | '.join(_type_name(option) for option in args)})")
    if origin is typing.Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} is {value!r} (expected {' | '.join(map(str, args))})")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r} (expected the fields of {hint.__name__})")
        return from_plain(hint, value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(
                f"{where} is {value!r} (expected a list such as [{value if isinstance(value, str | int | float) else ''}])"
            )
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise ConfigError(f"{where} has {len(value)} values (expected {len(kinds)})")
        return tuple(_coerce(k, v, f"{where}[{n}]") for n, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin in (dict, list) and not isinstance(value, origin):
        raise ConfigError(f"{where} is {value!r:.60} (expected a {origin.__name__})")
    if origin is dict:
        return {k: _coerce(args[1], v, f"{where}[{k!r}]") for k, v in value.items()}
    if origin is list:
        return [_coerce(args[0], v, f"{where}[{n}]") for n, v in enumerate(value)]
    if hint is type(None):
        if value is None:
            return None
        raise ConfigError(f"{where} is {value!r} (expected nothing)")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"{where} is {value!r} (expected {hint.__name__})")
    return value


def _type_name(hint: Any) -> str:
    """Name of a type for messages: its name, the values of a Literal, "nothing" for None."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    return "nothing" if hint is type(None) else getattr(hint, "__name__", str(hint))


def with_changes(config: T, changes: Mapping[str, Any]) -> T:
    """The same configuration with other values of its fields, or of the fields of a configuration that it holds, by their own names.

    Values may be plain. Raises UnknownName for a field that neither has, ConfigError for a value of another type.
    """
    if not changes:
        return config
    fields = [item.name for item in dataclasses.fields(cast(Any, config))]
    prepared = prepared_fields(type(config))
    held = {
        item.name: name
        for name in fields
        if name not in prepared and dataclasses.is_dataclass(value := getattr(config, name))
        for item in dataclasses.fields(value)
        if item.name not in fields
    }
    plain = to_plain(config)
    for name, value in changes.items():
        if name not in fields and name not in held:
            raise UnknownName(f"field of '{getattr(config, 'slug', type(config).__name__)}'", name, [*fields, *held])
        (plain[held[name]] if name in held else plain)[name] = to_plain(value)
    return from_plain(type(config), plain)


def config_hash(value: Any) -> str:
    """Sixteen hex digits that change when any field does."""
    return hashlib.sha256(json.dumps(to_plain(value), sort_keys=True).encode()).hexdigest()[:16]


def prepared_fields(kind: Any) -> set[str]:
    """The names of the fields that `Recipe.prepare` fills in from data."""
    return {f.name for f in dataclasses.fields(kind) if f.metadata.get("prepared")}


def save_config(folder: Path, sections: dict[str, Any]) -> None:
    """``config.yaml`` with one section a key; fields marked as prepared go to ``prepared.json``."""
    plain, prepared = {}, {}
    for name, value in sections.items():
        plain[name] = to_plain(value)
        if dataclasses.is_dataclass(value) and (learned := prepared_fields(value)):
            prepared[name] = {key: plain[name].pop(key) for key in sorted(learned)}
    write_json(folder / "prepared.json", prepared)
    write_atomic(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def load_config(folder: Path) -> dict[str, Any]:
    """The sections of ``config.yaml`` as plain values, with what was prepared put back. Raises ValueError with a line that names the
    file, for one that is missing or damaged."""
    file, prepared = folder / "config.yaml", folder / "prepared.json"
    sections = read_sections(file)
    try:
        learned = read_object(prepared)
    except ValueError as error:
        raise ValueError(f"{prepared} {error}") from error
    for name, values in learned.items():
        if name not in sections or not isinstance(values, dict):
            raise ValueError(f"{prepared} has a section '{name}' that {file.name} has not")
        sections[name].update(values)
    return sections


def read_sections(file: Path) -> dict[str, dict[str, Any]]:
    """The sections of a YAML file as plain values. Raises ValueError with a line that names the file, for one that is missing, damaged or
    made of something else."""
    try:
        text = read_file(file, most=LARGEST).decode("utf-8")
        sections = yaml.load(text, Loader=_NoAliases)  # a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{file} cannot be read: {first}") from error
    if not isinstance(sections, dict) or not all(isinstance(values, dict) for values in sections.values()):
        raise ValueError(f"{file} contains no sections (expected the file of a run)")
    return sections


class _NoAliases(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """YAML loader without aliases, by which a few lines could expand to a petabyte; our own files have none that matter."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("holds a reference (&, *), which a configuration of ours never does")
        return super().compose_node(parent, index)
