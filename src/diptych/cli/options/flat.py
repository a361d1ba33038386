"""One flat list of options from several dataclasses, so that a recipe's fields are options like any other."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from diptych.cli.options.meaning import documented
from diptych.core.config import with_changes

C = TypeVar("C")


def flat(name: str, parts: Iterable[tuple[Any, Any]], *, leave_out: Iterable[str] = ()) -> type[Any]:
    """A dataclass with the fields of every (dataclass, default instance or None) pair; an earlier one wins a name.

    Fields of a configuration that a default instance holds are options like its own, unless one of its own has the name.
    Help texts come from the docstrings, where a line "name   what it is" documents a field.
    """
    chosen: dict[str, tuple[str, Any, Field[Any]]] = {}
    hidden = set(leave_out)
    pairs = [pair for kind, default in parts for pair in ((kind, default), *held_configurations(default))]
    for kind, default in pairs:
        hints, words = typing.get_type_hints(kind, include_extras=True), documented(kind)
        for item in fields(kind):
            held = default is not None and is_dataclass(getattr(default, item.name))
            if item.name in chosen or item.name in hidden or item.metadata.get("prepared") or held:
                continue
            hint = hints[item.name]
            if item.name in words and typing.get_origin(hint) is not Annotated:
                hint = Annotated[hint, tyro.conf.arg(help=words[item.name])]
            chosen[item.name] = (item.name, hint, _with_default(item, default))
    # Fields without a default come first: they are the arguments that must be given.
    ordered = sorted(chosen.values(), key=lambda entry: entry[2].default is not MISSING)
    return make_dataclass(name, ordered, frozen=True)


def select_fields(kind: Any, values: Any) -> dict[str, Any]:
    """Fields of `kind` that a flat instance has, as keyword arguments."""
    return {f.name: getattr(values, f.name) for f in fields(kind) if hasattr(values, f.name)}


def changed(config: C, values: Any) -> C:
    """A configuration with the values of a flat instance in its fields, and in those of the configurations that it holds."""
    given = {
        key: value
        for kind in (type(config), *(type(held) for _, held in held_configurations(config)))
        for key, value in select_fields(kind, values).items()
    }
    return with_changes(config, given)


def held_configurations(config: Any) -> list[tuple[Any, Any]]:
    """The configurations that one holds, each with its class."""
    if config is None:
        return []
    values = (getattr(config, item.name) for item in fields(config) if not item.metadata.get("prepared"))
    return [(type(value), value) for value in values if is_dataclass(value)]


def _with_default(item: Field[Any], instance: Any) -> Field[Any]:
    made: Any
    if instance is not None:
        made = field(default=getattr(instance, item.name))
    elif item.default_factory is not MISSING:
        made = field(default_factory=item.default_factory)
    else:
        made = field(default=item.default)
    return typing.cast("Field[Any]", made)
