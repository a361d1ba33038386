"""One command for the first start of a run and for every restart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.api.initial_weights import initial_weights_path
from diptych.api.training import resume, train
from diptych.core.config import from_plain, to_plain
from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError
from diptych.core.grouped_fields import out_of_groups
from diptych.core.run_folder import RunFolder

if TYPE_CHECKING:
    from diptych.train.options import TrainOptions

NONE, UNBEGUN, BEGUN = 0, 1, 2


def train_or_resume(
    made: Recipe, data: Any, out: str | Path, *, options: TrainOptions, asked: Collection[str] = (), **given: Any
) -> RunFolder:
    """Train a recipe into `out`, or go on with the run that lies there; a finished one is returned as it is.

    asked  names of the fields and options that were chosen by hand: those of the run have to be the same, but for options that may change
           (`train.fit.RESUMABLE`), which the run goes on with
    given  further arguments of `train`, for a first start
    Under `torchrun` the first process looks, and all do the same. Raises ConfigError for a run of another recipe or configuration.
    """
    from diptych.train.fit import RESUMABLE
    from diptych.train.parallel import all_reduce_max, join_world

    out = Path(out)
    with join_world(options.device, options.shard) as world:
        state = all_reduce_max(_state_of(out) if world.main else NONE, world)
        if state != BEGUN:
            overwrite = bool(given.pop("overwrite", False)) or state == UNBEGUN
            return train(made, data, out, options=options, overwrite=overwrite, asked=asked, **given)
        if init := given.get("init"):
            options = replace(options, init=initial_weights_path(init))
        refuse_other_configuration(RunFolder.open(out), made, options, set(asked) - RESUMABLE)
        return resume(out, data=data, changes={name: getattr(options, name) for name in sorted(RESUMABLE & set(asked))})


def _state_of(out: Path) -> int:
    """State of a folder: no run, one that was killed before it was written down, or one to go on with."""
    if not (out / "run.json").is_file():
        return NONE
    folder = RunFolder.open(out)
    whole = (folder.path / "config.yaml").is_file() and "data" in folder.state
    return BEGUN if whole else UNBEGUN


def refuse_other_configuration(folder: RunFolder, made: Recipe, options: TrainOptions, asked: Collection[str]) -> None:
    """Raises ConfigError, in one line, for a run of another recipe, or a field or option of `asked` that the run has otherwise."""
    if folder.state["slug"] != made.slug:
        raise ConfigError(f"{folder.path} is a run of '{folder.state['slug']}', not of '{made.slug}' (expected another --out)")
    config = folder.config
    stored_recipe = from_plain(type(made), config["recipe"])
    stored_options = from_plain(type(options), config["run"])
    for stored, requested in ((stored_recipe, made), (stored_options, options)):
        before, now = _leaves(stored), _leaves(requested)
        for name in sorted(set(asked) & set(before) & set(now)):
            if to_plain(before[name]) != to_plain(now[name]):
                raise ConfigError(
                    f"{folder.path} was started with {name} {before[name]}, and is to go on with {now[name]} (expected the same, or "
                    "another --out)"
                )


def _leaves(config: Any) -> dict[str, Any]:
    """Fields of a configuration by name, and those of the configurations that it holds."""
    own = out_of_groups(config)
    held = [value for value in own.values() if is_dataclass(value) and not isinstance(value, type)]
    return {field.name: getattr(value, field.name) for value in held for field in fields(value)} | own
