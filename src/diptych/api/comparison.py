"""Several recipes under one budget, or several models, on the same data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError
from diptych.core.own_recipes import is_recipe_file
from diptych.worlds.address import training_rows, with_held_out

if TYPE_CHECKING:
    from diptych.comparisons.arms import ComparedArm
    from diptych.comparisons.compare import Comparison
    from diptych.core.contracts import Embedder
    from diptych.train.options import TrainOptions

from diptych.api.checking import refuse_missing
from diptych.api.data import data_of, read
from diptych.api.models import load, run_of
from diptych.api.recipes import recipe

Say = Callable[[str], None]
ALIAS = re.compile(r"([A-Za-z][\w.+-]*)=(?=.)")
"""The name that an arm is given: `hard=hard.py:HardCLIP:beta=0.5`."""


def compare(
    arms: Sequence[str | Path | Recipe | Embedder],
    data: Any,
    *,
    tasks: Sequence[str] = ("retrieval",),
    seeds: int | Sequence[int] = 5,
    budget: str = "",
    preset: str = "tiny",
    out: str | Path = "runs/compare",
    options: TrainOptions | None = None,
    matters: float = 0.01,
    equal: float = 0.0,
    download: bool = False,
    processes: int = 1,
    pilot: float = 0.0,
    splits: Sequence[str] = (),
    say: Say | None = None,
    **changes: Any,
) -> Comparison:
    """Which helps on these data: several recipes under one budget, or several models that are there already. Of data without splits a
    tenth of the groups is held out for recipes, as `train` does.

    arms     slugs, with options if they differ in some ("clip:lr=2e-4"), "FILE.py:CLASS", or recipe objects; or run folders, "hf:",
             "open_clip:" and model objects. "NAME=ARM" gives one a name. The others are measured against the first
    tasks    "retrieval", "zero_shot:label=group_name", ...; all on every held-out split
    seeds    how many (0, 1, ...), or which; three at least for a verdict
    budget   "steps:N", "samples:N" or "seconds:N" of training; "" takes the steps of the first recipe
    matters  the smallest difference that would matter; `equal`: how close counts as equal, by default the same
    out      folder of the cells: what is finished there is read, what is half done goes on
    processes  cells that run at once, each in a process of its own, where the data have an address
    pilot    seconds of short trainings of the first arm that say beforehand from how many steps on it is above chance and how many seeds
             `matters` needs; left out where everything takes less than ten times as long
    splits   held-out splits to measure on, () for all; compare on "val" to choose, then on "test", where trained cells are only scored
    changes  fields of every recipe: batch_size=64
    """
    from diptych.claims.verdict import Margins
    from diptych.comparisons.arms import check_version
    from diptych.comparisons.budget import Budget
    from diptych.comparisons.compare import compare as run_comparison

    count = range(seeds) if isinstance(seeds, int) else tuple(seeds)
    if not count:
        raise ConfigError(f"seeds is {seeds} (expected 1 or more; three at least for a verdict)")
    if processes < 1:
        raise ConfigError(f"processes is {processes} (expected 1 or more)")
    if not 0 <= pilot < math.inf:
        raise ConfigError(f"pilot is {pilot} (expected seconds, 0 for none)")
    if "steps" in changes:
        raise ConfigError("the number of steps is set by the budget: use budget steps:N")
    spend = Budget.parse(budget) if budget else None
    sides = [_arm(arm, preset, changes, download) for arm in arms]
    given = read(data)
    runs = [run for side in sides if side.model is not None and (run := run_of(side.model)) is not None]
    whole = data_of(runs[0], given) if runs else with_held_out(given) if any(side.recipe is not None for side in sides) else given
    if whole is not given and say:
        say(f"'{given.name}' has no splits: {whole.column('split').count('test'):,} samples are held out as 'test', by group")
    for side in sides:
        if side.recipe is not None:
            refuse_missing(side.recipe, training_rows(whole))
        elif (run := run_of(side.model)) is not None:
            check_version(side.name, run.state, whole)
    return run_comparison(
        _short_names(sides),
        whole,
        Path(out),
        source=str(data) if isinstance(data, str | Path) else "",
        tasks=tasks,
        seeds=count,
        budget=spend,
        options=options,
        margins=Margins(matters, equal or matters),
        processes=processes,
        pilot=pilot,
        splits=splits,
        say=say or (lambda line: None),
    )


def _arm(arm: Any, preset: str, changes: Mapping[str, Any], download: bool) -> ComparedArm:
    from diptych.comparisons.arms import ComparedArm
    from diptych.core.terminal.spelling import parse_name
    from diptych.models.io.open_address import is_foreign

    if isinstance(arm, Recipe):
        return ComparedArm(arm.slug, recipe(arm, **changes))
    if not isinstance(arm, str | Path):
        return ComparedArm(str(arm.name), model=arm)
    words = str(arm)
    if (named := ALIAS.match(words)) and not Path(words).exists():
        return replace(_arm(words[named.end() :], preset, changes, download), name=named[1], named=True)
    if is_recipe_file(words):  # FILE.py:CLASS, or FILE.py:CLASS:OPTIONS
        file, _, rest = words.partition(".py:")  # the first: a field may name a file, too
        name, own = parse_name(rest)
        return ComparedArm(words, recipe=recipe(f"{file}.py:{name}", preset=preset, **{**changes, **own}))
    if is_foreign(words) or isinstance(arm, Path) or "/" in words.partition(":")[0] or Path(words).is_dir():
        return ComparedArm(words, model=load(arm, download=download), address=words)
    name, own = parse_name(words)
    return ComparedArm(words, recipe=recipe(name, preset=preset, **{**changes, **own}))


def recipe_of_arm(words: str, *, preset: str = "tiny", **changes: Any) -> Recipe | None:
    """The recipe that an arm names, or None for a model that is there."""
    from diptych.models.io.open_address import is_foreign

    if (named := ALIAS.match(words)) and not Path(words).exists():
        words = words[named.end() :]
    if is_foreign(words) or (not is_recipe_file(words) and ("/" in words.partition(":")[0] or Path(words).is_dir())):
        return None
    return _arm(words, preset, changes, False).recipe


def _short_names(arms: Sequence[ComparedArm]) -> list[ComparedArm]:
    """Addresses by their last part, where these differ."""
    short = [replace(arm, name=Path(arm.address).name) if arm.address and not arm.named else arm for arm in arms]
    return short if len({arm.name for arm in short}) == len(arms) else list(arms)
