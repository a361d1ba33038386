"""Open data by address, and choose the rows that train and those held out. Files are read by `data`, worlds are rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError
from diptych.data.concat import ConcatDataset
from diptych.data.dataset import Pool
from diptych.data.graphs.nameless import nameless, with_label
from diptych.data.join import concatenate
from diptych.data.load.cache import decoded
from diptych.data.read import read
from diptych.data.split import split
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.resolve import PREFIX, resolve

NAMELESS = "nameless:"
CACHE_BYTES = 2**30
"""Decoded images are kept when they take no more than this."""
HELD_OUT = 0.1
"""The share of the samples that is held out where the data have no splits."""
FEWEST = 20
"""Units (groups, joined where they show the same image) below which nothing is held out: a handful says nothing of a model."""


def open_data(source: Any, **columns: Any) -> Any:
    """A data set: "world:NAME?options" is rendered, "nameless:ADDRESS" is what that means with all things called "thing", a data set is
    taken as it is, several in a list become one, anything else goes to `data.read`."""
    if isinstance(source, list | tuple) and source and all(_is_data(one) for one in source):
        return _together([open_data(one, **columns) for one in source])
    if isinstance(source, str) and source.startswith(NAMELESS):
        named = open_data(source.removeprefix(NAMELESS), **columns)
        return named.changed(with_label, "nameless") if isinstance(named, RenderedDataset) else nameless(named)
    if isinstance(source, str) and source.startswith(PREFIX):
        return resolve(source)
    if _is_data_set(source):
        return source
    return read(source, **columns)


def _is_data_set(source: Any) -> bool:
    return isinstance(source, Pool) or all(hasattr(source, name) for name in ("fingerprint", "uids", "groups", "select"))


def _is_data(source: Any) -> bool:
    """True for one of several data sets; False for a row of a list, such as a pair of picture and text."""
    return isinstance(source, str | Path) or _is_data_set(source)


def _together(parts: list[Any]) -> Any:
    """Several data sets as one: a pool of pools, or rows of rendered and stored ones after each other."""
    if all(isinstance(part, Pool) for part in parts):
        return concatenate(parts)
    return ConcatDataset(" + ".join(part.name for part in parts), tuple(parts)) if len(parts) > 1 else parts[0]


def split_names(data: Any) -> list[str]:
    return list(getattr(data, "split_names", ()))


def with_held_out(data: Any, share: float = HELD_OUT, *, val: bool = False) -> Any:
    """Data without splits, with a share of their groups held out as "test": the same groups for the same samples, independent of
    their order. val: as many again as "val", for evaluations inside a run.

    Data that have splits are taken as they are, and so are rendered worlds, data of too few groups, and those of which a few groups
    hold nearly everything. share: 0 holds nothing out. Raises ConfigError for a share outside [0, 0.4].
    """
    if not 0.0 <= share <= 0.4:
        raise ConfigError(f"hold_out is {share:g} (expected a share between 0 and 0.4; 0 trains on every row)")
    if not share or not isinstance(data, Pool) or data.split_names or len({*data.groups}) < FEWEST:
        return data
    try:
        parts = {"val": share, "test": share} if val else {"test": share}
        made = split(data, {"train": 1.0 - sum(parts.values()), **parts})
    except ConfigError:  # one image ties all groups together
        return data
    held = made.column("split").count("test")
    return made if held <= max(2.0 * share, 0.2) * len(data) else data


def training_rows(data: Any) -> Any:
    """Rows of the split "train" if there is one, else every row."""
    return data.split("train") if "train" in split_names(data) else data


def held_out(data: Any) -> dict[str, Any]:
    """Every split but "train", by name; data without splits are held out as a whole, under their own name.

    Whose model is scored decides whether rows are held out: those that it was trained on are called so by `api.evaluation`.
    """
    names = [name for name in split_names(data) if name != "train"]
    return {name: data.split(name).named(f"{data.name}/{name}") for name in names} if names else {data.name: data}


def cached_for_training(rows: Any, recipe: Recipe) -> Any:
    """Same rows, cached for fast access; batches and fingerprint do not change.

    Small square images are decoded once and kept as one array; texts in languages that the recipe does not draw from are left out;
    rendered scenes are kept as long as there is room.
    """
    if isinstance(rows, RenderedDataset) and len(rows):
        return rows.remembering()
    if not isinstance(rows, Pool):
        return rows
    fingerprint, quick = rows.fingerprint, rows
    if recipe.decode_size and {"width", "height"} <= set(rows.column_names):
        sides = {*rows.column("width"), *rows.column("height")}
        small = len(sides) == 1 and None not in sides and max(sides) <= 2 * recipe.decode_size
        if small and len(rows) * max(sides) ** 2 * 3 <= CACHE_BYTES:
            quick = decoded(quick, recipe.decode_size)
    if language := getattr(recipe, "language", ""):
        quick = quick.in_language(language)
    return quick.named(rows.name, fingerprint=fingerprint)
