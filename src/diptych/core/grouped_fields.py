"""Groups of a configuration's fields. A group is a dataclass that the configuration holds; its fields are options like the others.

Where fields were one flat list before, `grouped` keeps their own names in version 0.1: as keywords, as attributes, in files, in hashes.

    @grouped("patches")
    @dataclass(frozen=True, kw_only=True)
    class Mine(Recipe):
        patches: PatchConfig = field(default_factory=PatchConfig)

    Mine(hidden_patches=0.3)         # as Mine(patches=PatchConfig(hidden_patches=0.3)), with a DeprecationWarning

A field that was JSON text and is a typed value now has ``metadata={"json": KIND}`` of a class with `to_json` and `from_json`: files and
options may still hold the text, "" for None. ``style`` beside it has the arguments of `json.dumps` that the text was made by.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")
COMPACT: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}


def grouped(*groups: str) -> Callable[[type[T]], type[T]]:
    """Class decorator of a keyword-only dataclass: the fields of its `groups` are also taken and read by their own names."""

    def decorate(kind: type[T]) -> type[T]:
        made: Any = kind
        made._groups = groups
        of_group = group_of_field(kind)
        original = made.__init__

        @wraps(original)
        def init(self: Any, **values: Any) -> None:
            for name in [name for name in values if name in of_group]:
                _warn(kind, name, of_group[name])
                group = of_group[name]
                held = values.get(group) or _default(kind, group)
                values[group] = dataclasses.replace(held, **{name: values.pop(name)})
            original(self, **values)

        def read(self: Any, name: str) -> Any:
            if (group := of_group.get(name)) is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            _warn(kind, name, group)
            return getattr(getattr(self, group), name)

        made.__init__, made.__getattr__ = init, read
        return kind

    return decorate


def group_of_field(kind: type[Any]) -> dict[str, str]:
    """The group that holds each field which was the configuration's own before; empty for a class that is not `grouped`."""
    groups: tuple[str, ...] = getattr(kind, "_groups", ())
    return {item.name: group for group in groups for item in dataclasses.fields(_default(kind, group))}


def into_groups(kind: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with those of flat files moved into their groups, and JSON texts read into the typed values that they are now."""
    texts = [(name, json_kind) for name, json_kind in _json_fields(kind) if isinstance(plain.get(name), str)]
    plain = {**plain, **{name: _typed(json_kind, plain[name]) for name, json_kind in texts}}
    of_group = group_of_field(kind)
    made = {name: value for name, value in plain.items() if name not in of_group}
    for name in [name for name in plain if name in of_group]:
        group = of_group[name]
        if group not in made:
            default = _default(kind, group)
            made[group] = {item.name: getattr(default, item.name) for item in dataclasses.fields(default)}
        made[group] = {**made[group], name: plain[name]}
    return made


def out_of_groups(config: Any) -> dict[str, Any]:
    """Fields of a configuration by name, those of its groups among them: what its hash was made of when they were one list."""
    groups = getattr(type(config), "_groups", ())
    made: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if "json" in item.metadata:
            value = "" if value is None else json.dumps(value.to_json(), **item.metadata.get("style", COMPACT))
        made.update(
            {leaf.name: getattr(value, leaf.name) for leaf in dataclasses.fields(value)}
            if item.name in groups
            else {item.name: value}
        )
    return made


def _json_fields(kind: type[Any]) -> list[tuple[str, Any]]:
    return [(item.name, item.metadata["json"]) for item in dataclasses.fields(kind) if "json" in item.metadata]


def _typed(kind: Any, text: str) -> Any:
    if not text:
        return None
    value = kind.from_json(json.loads(text))
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _default(kind: type[Any], group: str) -> Any:
    (item,) = (item for item in dataclasses.fields(kind) if item.name == group)
    assert item.default_factory is not dataclasses.MISSING
    return item.default_factory()


def _warn(kind: type[Any], name: str, group: str) -> None:
    warnings.warn(f"{name} of {kind.__name__} is a field of its {group} now: {group}.{name}", DeprecationWarning, stacklevel=3)
