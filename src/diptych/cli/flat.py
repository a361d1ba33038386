"""One flat list of options from several dataclasses, so that a recipe's fields are options like any other."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Annotated, Any

import tyro

ENTRY = re.compile(r"^ {0,4}(\w+(?:, \w+)*)  +(\S.*)$")


def flat(name: str, parts: Iterable[tuple[Any, Any]], *, leave_out: Iterable[str] = ()) -> type[Any]:
    """A dataclass with the fields of every (dataclass, default instance or None) pair; an earlier one wins a name.

    Help texts come from the docstrings, where a line "name   what it is" documents a field.
    """
    chosen: dict[str, tuple[str, Any, Field[Any]]] = {}
    hidden = set(leave_out)
    for kind, default in parts:
        hints, words = typing.get_type_hints(kind, include_extras=True), documented(kind)
        for item in fields(kind):
            if item.name in chosen or item.name in hidden or item.metadata.get("prepared"):
                continue
            hint = hints[item.name]
            if item.name in words and typing.get_origin(hint) is not Annotated:
                hint = Annotated[hint, tyro.conf.arg(help=words[item.name])]
            chosen[item.name] = (item.name, hint, _defaulted(item, default))
    # Fields without a default come first: they are the arguments that must be given.
    ordered = sorted(chosen.values(), key=lambda entry: entry[2].default is not MISSING)
    return make_dataclass(name, ordered, frozen=True)


def pick(kind: Any, values: Any) -> dict[str, Any]:
    """What of a flat instance belongs to `kind`."""
    return {f.name: getattr(values, f.name) for f in fields(kind) if hasattr(values, f.name)}


def documented(kind: Any) -> Mapping[str, str]:
    """Field name -> description, from the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(inspect.getmro(kind)):
        last: list[str] = []
        for line in inspect.cleandoc(base.__dict__.get("__doc__") or "").splitlines():
            if match := ENTRY.match(line):
                last = match[1].split(", ")
                found |= dict.fromkeys(last, match[2].strip())
            elif last and line.startswith("     "):
                found |= {name: f"{found[name]} {line.strip()}" for name in last}
            else:
                last = []
    return found


def _defaulted(item: Field[Any], instance: Any) -> Field[Any]:
    made: Any
    if instance is not None:
        made = field(default=getattr(instance, item.name))
    elif item.default_factory is not MISSING:
        made = field(default_factory=item.default_factory)
    else:
        made = field(default=item.default)
    return typing.cast("Field[Any]", made)
