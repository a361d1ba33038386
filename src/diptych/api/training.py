"""Recipes by name, trained, resumed and estimated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.config import from_plain, with_changes
from diptych.core.contracts import Recipe, Tuning
from diptych.core.errors import RunError
from diptych.core.own_recipes import load_own, load_remembered, names_file, own_address
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder, refuse_occupied
from diptych.worlds.address import HELD_OUT, dealt, quick_to_draw, split_names, training_rows

if TYPE_CHECKING:
    from diptych.train.options import TrainOptions

from diptych.api.checking import data_report, refuse_missing, validators
from diptych.api.data import data_of, read
from diptych.api.starting import start_of, start_report, started

Say = Callable[[str], None]


def recipe(name: str | Recipe, *, preset: str = "tiny", **changes: Any) -> Recipe:
    """A recipe by slug, from one of its presets ("tiny", "paper", ...), with changed fields; an object is taken as it is, with changes.

    >>> recipe("clip", steps=10).steps
    10
    """
    made = name if isinstance(name, Recipe) else recipe_class(name).preset(preset)
    return with_changes(made, changes)


def recipe_class(name: str) -> Any:
    """The class of a recipe: a slug, a name that a package adds, or ``FILE.py:CLASS``."""
    return load_own(name) if names_file(name) else RECIPES.load(name)


def train(
    name: str | Recipe,
    data: Any,
    out: str | Path,
    *,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    init: str | Path = "",
    subset: str | Path | Sequence[str] = "",
    columns: Mapping[str, Any] | None = None,
    hold_out: float = HELD_OUT,
    overwrite: bool = False,
    say: Say | None = None,
    asked: Collection[str] | None = None,
    **changes: Any,
) -> RunFolder:
    """Train a recipe and return its run folder.

    name     a slug, "FILE.py:CLASS" (a recipe of your own), or a recipe object
    data     anything that `read` opens; with splits, the rows of "train" are used
    columns  which columns of the data hold what, as `read` takes them: {"image": "where", "text": "says"}; the run remembers them
    hold_out  the share of data without splits that is held out by group, as "test", for the evaluation; 0 trains on every row
    options  seed, workers, precision, checkpoints (`diptych.train.options.TrainOptions`); options of that class may also be
             given among the changes: train("clip", "emoji", "runs/a", seed=1, workers=2, lr=2e-4). So may ways to tune
             (`diptych.core.contracts.Tuning`): lora="16", freeze=("text_tower",), layer_decay=0.75, distill="start"
    init     a run folder, or anything that `load` opens: its tensors are the start. A recipe of pairs takes architecture, tokenizer,
             lengths and image settings from there, and learning rate and warm-up of a start from published weights unless they are
             given; what the recipe adds is fresh
    subset   only these samples: uids, or a file with one a line; those in held-out splits are left out
    overwrite  replace a run that lies in `out`; it stays until the new one has made its first step
    say      gets the lines of the data report before the first step, and what starts from the weights
    asked    fields that were chosen by hand; None: those among the changes, and those in which a recipe object is like none of its presets
    """
    from diptych.api.cards import write_card
    from diptych.train.best import looks_for_best
    from diptych.train.fit import fit
    from diptych.train.options import TrainOptions

    own = {f.name for f in fields(TrainOptions)} - {"steps", "init"}
    options = replace(options or TrainOptions(), **{k: changes.pop(k) for k in list(changes) if k in own})
    ways = {f.name for f in fields(Tuning)}
    options = replace(options, tune=replace(options.tune, **{k: changes.pop(k) for k in list(changes) if k in ways}))
    made = recipe(name, preset=preset, **changes)
    model = None
    if init:
        options = replace(options, init=start_of(init))
        made, model = started(made, init, options, asked if asked is not None else {*changes, *chosen_fields(name)})
    refuse_occupied(Path(out), overwrite=overwrite)
    given = read(data, **(columns or {}))
    whole = dealt(given, hold_out, val=bool(options.eval_every) or looks_for_best(options))
    uids = _uids(subset)
    rows = _rows_to_use(training_rows(whole), whole, uids, subset)
    refuse_missing(made, rows)
    rows = quick_to_draw(rows, made)
    made = made.prepare(rows)
    if say:
        if line := _held_out_line(given, whole):
            say(line)
        if uids:
            say(
                f"limited to {len(rows):,} uids"
                + (f"; {len(uids) - len(rows):,} more are held out" if len(rows) < len(uids) else "")
            )
        for line in data_report(made, rows, whole):
            say(line)
    if init:
        for line in start_report(made, model, init, options):
            (say or _unsaid)(line)
    source = data if isinstance(data, str | Path) else ""
    record: dict[str, Any] = {"source": str(source), **({"subset": len(rows)} if uids else {})}
    if own_file := own_address(type(made)):
        record["recipe"] = own_file
    if columns and source:
        record["columns"] = dict(columns)
    if whole is not given:
        record["held_out"] = float(hold_out)
        record["held_out_val"] = "val" in split_names(whole)
    files = {"subset.txt": "".join(f"{uid}\n" for uid in uids)} if uids else None
    run = fit(made, rows, out, options, validators(made, whole, options), record=record, files=files, overwrite=overwrite)
    write_card(run, whole)
    return run


def _held_out_line(given: Any, whole: Any) -> str:
    """What became of data that have no held-out rows, for who trains on them; "" for those that have some."""
    if whole is not given:
        counts = {name: whole.column("split").count(name) for name in whole.split_names if name != "train"}
        parts = " and ".join(f"{count:,} as '{name}'" for name, count in counts.items())
        return (
            f"'{given.name}' has no splits: of {len(given):,} samples are held out {parts}, whole groups each "
            "(hold_out=0 trains on every row)"
        )
    if [name for name in split_names(given) if name != "train"]:
        return ""
    return f"'{given.name}' has no held-out rows: an evaluation on it scores the rows that were trained on, and is called so"


def chosen_fields(name: str | Recipe) -> set[str]:
    from diptych.recipes._shared.frozen.started import asked_fields

    return asked_fields(name) if isinstance(name, Recipe) else set()


def _unsaid(line: str) -> None:
    """What nobody listens to; it stands in the run's log."""


def _uids(subset: str | Path | Sequence[str]) -> list[str]:
    from diptych.data.subset import read_uids

    return (read_uids(subset) if isinstance(subset, str | Path) else list(subset)) if subset else []


def _rows_to_use(rows: Any, whole: Any, uids: Sequence[str], file: object = None) -> Any:
    """The training rows that are to be used."""
    from diptych.data.subset import subset

    return subset(rows, uids, whole=whole, file=file if isinstance(file, str | Path) else None) if uids else rows


def resume(run: str | Path, *, data: Any = None, steps: int = 0) -> RunFolder:
    """Go on with a run that was stopped or killed. A finished one is returned as it is.

    data   only where the run was started on an object and not on an address
    steps  of a finished run: train on to so many in all; what it was scored before goes
    """
    from diptych.api.cards import write_card
    from diptych.train.fit import resume as resume_run
    from diptych.train.options import TrainOptions

    folder = RunFolder.open(Path(run))
    if folder.state["status"] == "finished" and not steps:
        if folder.state.get("signal"):
            folder.write_state(signal=None)  # it was for the process that finished the run
        return folder
    source = folder.state.get("source", "")
    if not source and data is None:
        raise RunError(f"{run} was trained on an object: pass it again as data=")
    whole = data_of(folder, data)
    options = from_plain(TrainOptions, folder.config["run"])
    made = recipe_of(folder)
    uids = _uids(folder.subset) if folder.subset.is_file() else []
    rows = _rows_to_use(training_rows(whole), whole, uids, folder.subset)
    run_again = resume_run(folder.path, quick_to_draw(rows, made), validators(made, whole, options), kind=type(made), steps=steps)
    if steps:
        run_again.report.unlink(missing_ok=True)
        shutil.rmtree(run_again.records, ignore_errors=True)
    write_card(run_again, whole)
    return run_again


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe of a run, as it was prepared."""
    own_file = folder.state.get("recipe", "")
    kind = load_remembered(str(own_file), folder.path) if own_file else RECIPES.load(folder.state["slug"])
    made: Recipe = from_plain(kind, folder.config["recipe"])
    return made


def estimate(
    name: str | Recipe,
    data: Any,
    *,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    subset: str | Path | Sequence[str] = "",
    columns: Mapping[str, Any] | None = None,
    hold_out: float = HELD_OUT,
    **changes: Any,
) -> dict[str, Any]:
    """What a run would cost: seconds a step and in all, parameters, memory, disk. Takes a few real steps and writes nothing."""
    from diptych.train.estimate import estimate as measure
    from diptych.train.options import TrainOptions

    made = recipe(name, preset=preset, **changes)
    whole = dealt(read(data, **(columns or {})), hold_out)
    rows = _rows_to_use(training_rows(whole), whole, _uids(subset), subset)
    refuse_missing(made, rows)
    return measure(made, rows, options or TrainOptions())
