"""Training of recipes: train, resume, and estimate the cost before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.config import from_plain
from diptych.core.contracts import Recipe, Tuning
from diptych.core.errors import RunError
from diptych.core.own_recipes import recipe_file_address, refuse_untrusted_programs, trust
from diptych.core.run_folder import RunFolder, refuse_occupied
from diptych.worlds.address import HELD_OUT, cached_for_training, split_names, training_rows, with_held_out

if TYPE_CHECKING:
    from diptych.train.options import TrainOptions
    from diptych.train.rate_range import RateRange

from diptych.api.cards import write_card
from diptych.api.checking import data_report, refuse_early, refuse_missing, validators
from diptych.api.data import data_of, read
from diptych.api.initial_weights import initial_weights_path, start_report, with_initial_weights
from diptych.api.recipes import recipe, recipe_of

Say = Callable[[str], None]


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
    evaluation: bool = True,
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
    evaluation  False: `diptych train --resume` leaves out the evaluation and the report of this run, too
    say      gets the lines of the data report before the first step, and what starts from the weights
    asked    fields that were chosen by hand; None: those among the changes, and those in which a recipe object is like none of
             its presets
    """
    from diptych.models.io.device import device_default
    from diptych.train.best import tracks_best
    from diptych.train.fit import fit
    from diptych.train.options import TrainOptions
    from diptych.train.precision import training_device

    own = {f.name for f in fields(TrainOptions)} - {"steps", "init"}
    options = replace(options or TrainOptions(), **{k: changes.pop(k) for k in list(changes) if k in own})
    ways = {f.name for f in fields(Tuning)}
    options = replace(options, tune=replace(options.tune, **{k: changes.pop(k) for k in list(changes) if k in ways}))
    made = recipe(name, preset=preset, **changes)
    training_device(options.device)  # one that is not there is refused before anything is read
    refuse_occupied(Path(out), overwrite=overwrite)
    refuse_early(made, options)
    model = None
    if init:
        options = replace(options, init=initial_weights_path(init))
        made, model = with_initial_weights(made, init, options, asked if asked is not None else {*changes, *chosen_fields(name)})
    given = read(data, **(columns or {}))
    whole = with_held_out(given, hold_out, val=bool(options.eval_every) or tracks_best(options))
    uids = _uids(subset)
    rows = _rows_to_use(training_rows(whole), whole, uids, subset)
    refuse_missing(made, rows)
    rows = cached_for_training(rows, made)
    with device_default(str(training_device(options.device))):
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
            (say or noop)(line)
    source = data if isinstance(data, str | Path) else ""
    record: dict[str, Any] = {"source": str(source), **({"subset": len(rows)} if uids else {})}
    if own_file := recipe_file_address(type(made)):
        trust(Path(own_file.rpartition(":")[0]))  # the caller has carried it out
    if not evaluation:
        record["no_evaluation"] = True
    if columns and source:
        record["columns"] = dict(columns)
    if whole is not given:
        record["held_out"] = float(hold_out)
        record["held_out_val"] = "val" in split_names(whole)
    files = {"subset.txt": "".join(f"{uid}\n" for uid in uids)} if uids else None
    begun = {
        "recipe": own_file or made.slug,
        "data": str(source),
        **({"init": str(init)} if init else {}),
        "hold_out": float(hold_out),
    }
    if columns and source:
        begun |= {name: _column_option(value) for name, value in columns.items()}
    checks = validators(made, whole, options)
    run = fit(made, rows, out, options, checks, record=record, files=files, begun=begun, overwrite=overwrite)
    write_card(run, whole)
    return run


def _column_option(value: Any) -> Any:
    """A choice of columns as the option of the command line has it."""
    if isinstance(value, Mapping):
        return [f"{name}={kind}" for name, kind in value.items()]
    return list(value) if isinstance(value, list | tuple) else value


def _held_out_line(given: Any, whole: Any) -> str:
    """Log line about the held-out rows that were split off, or about data that have none; "" if the data have their own."""
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
    from diptych.recipes._shared.frozen.initial_weights import changed_fields

    return changed_fields(name) if isinstance(name, Recipe) else set()


def noop(line: str) -> None:
    """Discard a progress line (it is in the run's log all the same)."""


def _uids(subset: str | Path | Sequence[str]) -> list[str]:
    from diptych.data.subset import read_uids

    return (read_uids(subset) if isinstance(subset, str | Path) else list(subset)) if subset else []


def _rows_to_use(rows: Any, whole: Any, uids: Sequence[str], file: object = None) -> Any:
    """The training rows that are to be used."""
    from diptych.data.subset import subset

    return subset(rows, uids, whole=whole, file=file if isinstance(file, str | Path) else None) if uids else rows


def resume(
    run: str | Path,
    *,
    data: Any = None,
    steps: int = 0,
    recipe: str | Path | type[Recipe] | Recipe | None = None,
    changed_code: bool = False,
    changes: Mapping[str, Any] | None = None,
    say: Say | None = None,
) -> RunFolder:
    """Go on with a run that was stopped or killed. A finished one is returned as it is.

    data   only where the run was started on an object and not on an address
    steps  of a finished run: train on to this many in all; what it was scored before goes
    recipe  where the recipe is now, if the run does not know: FILE.py or FILE.py:CLASS, or its class
    changed_code  go on though the files that define the recipe have changed since the run began; the log notes it
    say    gets a line about what is otherwise than when the run began: fields of config.yaml, code of this package, libraries
    changes  options that a run may go on with (`train.fit.RESUMABLE`): {"workers": 4, "micro_batch": 64, "device": "cuda",
             "shard": "fsdp"}
    """
    from diptych.train.fit import resume as resume_run
    from diptych.train.options import TrainOptions

    folder = RunFolder.open(Path(run))
    if folder.state["status"] == "finished" and not steps:
        tell_edits(folder, say or noop)
        if folder.state.get("signal"):
            folder.write_state(signal=None)  # it was for the process that finished the run
        return folder
    source = folder.state.get("source", "")
    if not source and data is None:
        raise RunError(f"{run} was trained on an object: pass it again as data=")
    made = recipe_of(folder, recipe)
    refuse_untrusted_programs(made, folder.path)
    notes = code_notes(folder, made, allowed=changed_code)
    for note in notes:
        (say or noop)(f"note: {note}")
    if recipe is not None and (own_file := recipe_file_address(type(made))):
        folder.write_state(recipe=own_file)
    whole = data_of(folder, data)
    options = from_plain(TrainOptions, folder.config["run"])
    uids = _uids(folder.subset) if folder.subset.is_file() else []
    rows = _rows_to_use(training_rows(whole), whole, uids, folder.subset)
    run_again = resume_run(
        folder.path,
        cached_for_training(rows, made),
        validators(made, whole, options),
        kind=type(made),
        steps=steps,
        notes=notes,
        changes=changes,
    )
    if steps:
        run_again.report.unlink(missing_ok=True)
        shutil.rmtree(run_again.records, ignore_errors=True)
    write_card(run_again, whole)
    return run_again


def tell_edits(folder: RunFolder, say: Say) -> None:
    """Say which fields of a finished run's config.yaml were edited: they change nothing there."""
    from diptych.train.provenance import edited_fields

    if edits := edited_fields(folder):
        more = f" and {len(edits) - 3} more" if len(edits) > 3 else ""
        file = folder.path / "config.yaml"
        say(
            f"note: {file} was edited after the run began ({', '.join(edits[:3])}{more}), which changes nothing in a finished run: "
            f"train anew with --config {file} --out NEW"
        )


def code_notes(folder: RunFolder, made: Recipe, *, allowed: bool) -> list[str]:
    """Lines on what is otherwise than when a run began. Raises RunError if the files that define its recipe have changed, unless that is
    allowed."""
    from diptych.train.fit import RESUMABLE
    from diptych.train.provenance import changed_modules, changed_packages, changed_recipe_files, edited_fields

    notes = []
    if changed := changed_recipe_files(folder, made):
        copies = ", ".join(map(str, changed))
        if not allowed:
            raise RunError(
                f"{', '.join(copy.name for copy in changed)} changed since {folder.path} began (it holds the old text: {copies}): put it "
                "back, or go on with the new code by --changed-code, which the log notes"
            )
        notes.append(f"went on though {', '.join(copy.name for copy in changed)} changed since the run began")
    if modules := changed_modules(folder):
        more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
        notes.append(f"modules of diptych that are others than when the run began: {', '.join(modules[:3])}{more}")
    if packages := changed_packages(folder):
        notes.append(f"packages that are others than when the run began: {', '.join(packages)}")
    options = [edit for edit in edited_fields(folder) if edit.startswith("run.")]
    if fixed := [edit for edit in options if edit.split()[0].removeprefix("run.").partition(".")[0] not in RESUMABLE]:
        raise RunError(
            f"{folder.path / 'config.yaml'} was edited: {fixed[0]} (expected the value that the run began with; it cannot change now)"
        )
    return [*notes, *(f"config.yaml was edited: {edit}" for edit in options)]


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
    """Estimate time, memory, parameters and disk of a training run from a few real steps. Writes nothing."""
    from diptych.train.estimate import estimate as measure
    from diptych.train.options import TrainOptions

    made = recipe(name, preset=preset, **changes)
    whole = with_held_out(read(data, **(columns or {})), hold_out)
    rows = _rows_to_use(training_rows(whole), whole, _uids(subset), subset)
    refuse_missing(made, rows)
    return measure(made, rows, options or TrainOptions())


def learning_rate_range(
    name: str | Recipe,
    data: Any,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    hold_out: float = HELD_OUT,
    **changes: Any,
) -> RateRange:
    """Learning-rate range test: losses while the rate grows from `low` to `high` by a constant factor. Keeps nothing.

    >>> dp.learning_rate_range("clip", "emoji", steps=100).steepest     # doctest: +SKIP
    """
    from diptych.train.options import TrainOptions
    from diptych.train.rate_range import rate_range

    made = recipe(name, preset=preset, **changes)
    rows = training_rows(with_held_out(read(data), hold_out))
    refuse_missing(made, rows)
    rows = cached_for_training(rows, made)
    return rate_range(made, rows, options or TrainOptions(), low=low, high=high, steps=steps)
