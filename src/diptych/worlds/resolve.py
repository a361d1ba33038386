"""``world:NAME?option=value&...`` to a data set with all its splits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import WORLDS
from diptych.worlds.rendered import RenderedDataset, rows_of

HELD_OUT = 500  # scenes of each other split at most, unless its name says otherwise: plenty to measure by
PREFIX = "world:"


def resolve(address: str) -> RenderedDataset:
    """All splits of a world: `n` scenes in train, by default what its function says; a quarter of that, 500 at most, in each other one,
    or what `val`, `test`, `unseen` say.

    Further options are those of the world's function: ``world:scenes?n=500&seed=3&look=cutouts&hold_out=red circle,blue star``.
    """
    name, _, query = address.removeprefix(PREFIX).partition("?")
    make: Callable[..., RenderedDataset] = WORLDS.load(name)
    options = _options(make, query)
    n = options.pop("n", inspect.signature(make).parameters["n"].default)
    sizes = {"train": n} | {split: options.pop(split, max(1, min(HELD_OUT, n // 4))) for split in ("val", "test", "unseen")}
    whole = make(n, **options)
    rows = tuple(row for split in whole.world.splits for row in rows_of(whole.world, split, sizes[split]))
    return RenderedDataset(name, whole.world, rows)


def _options(make: Callable[..., RenderedDataset], query: str) -> dict[str, Any]:
    kinds: dict[str, Any] = {"n": 0, "val": 0, "test": 0, "unseen": 0}
    for parameter in inspect.signature(make).parameters.values():
        if parameter.name not in ("n", "split"):
            kinds[parameter.name] = "" if parameter.name == "cutouts" else parameter.default
    options: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in kinds:
            raise UnknownName("option of the world", key, kinds)
        options[key] = _value(key, text, kinds[key])
    return options


def _value(key: str, text: str, default: Any) -> Any:
    """`text` as the type of the default."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"{key} is {text!r} (expected true or false)")
        return text.lower() in ("true", "1")
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{key} is {text!r} (expected a number)") from None
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{key} is {text!r} (expected a whole number)") from None
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
