"""Recipes by name, trained, resumed and estimated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.config import from_plain, with_changes
from diptych.core.contracts import Dataset, Recipe, Tuning
from diptych.core.errors import DataError, RunError
from diptych.core.registry import RECIPES
from diptych.core.run_folder import LOCK, RunFolder
from diptych.worlds.address import as_drawn, split_names, training_rows

if TYPE_CHECKING:
    from diptych.core.contracts import Task
    from diptych.train.options import TrainOptions

from diptych.api.data import read, read_recorded

Say = Callable[[str], None]


def recipe(name: str | Recipe, *, preset: str = "tiny", **changes: Any) -> Recipe:
    """A recipe by slug, from one of its presets ("tiny", "paper", ...), with changed fields; an object is taken as it is, with changes.

    >>> recipe("clip", steps=10).steps
    10
    """
    if isinstance(name, Recipe):
        made = name
    else:
        kind = RECIPES.load(name)
        made = kind.preset(preset)
    return with_changes(made, changes)


def train(
    name: str | Recipe,
    data: Any,
    out: str | Path,
    *,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    init: str | Path = "",
    subset: str | Path | Sequence[str] = "",
    say: Say | None = None,
    asked: Collection[str] | None = None,
    **changes: Any,
) -> RunFolder:
    """Train a recipe and return its run folder.

    name     a slug, or a recipe object
    data     anything that `read` opens; with splits, the rows of "train" are used
    options  seed, workers, precision, checkpoints (`diptych.train.options.TrainOptions`); options of that class may also be
             given among the changes: train("clip", "emoji", "runs/a", seed=1, workers=2, lr=2e-4). So may ways to tune
             (`diptych.core.contracts.Tuning`): lora="16", freeze=("text_tower",), layer_decay=0.75, distill="start"
    init     a run folder, or anything that `load` opens: its tensors are the start. A recipe of pairs takes architecture, tokenizer,
             lengths and image settings from there, and learning rate and warm-up of a start from published weights unless they are
             given; what the recipe adds is fresh
    subset   only these samples: uids, or a file with one a line; those in held-out splits are left out
    say      gets the lines of the data report before the first step, and what starts from the weights
    asked    fields that were chosen by hand; None: those among the changes, and those in which a recipe object is like none of its presets
    """
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
    if Path(out).exists() and any(entry.name != LOCK for entry in Path(out).iterdir()):
        raise RunError(f"{out} is not empty: choose another folder, or go on with `diptych train --resume {out}`")
    whole = read(data)
    uids = _uids(subset)
    rows = _limited(training_rows(whole), whole, uids, subset)
    refuse_missing(made, rows)
    rows = as_drawn(rows, made)
    made = made.prepare(rows)
    if say:
        if uids:
            say(
                f"limited to {len(rows):,} uids"
                + (f"; {len(uids) - len(rows):,} more are held out" if len(rows) < len(uids) else "")
            )
        for line in (*data_report(made, rows, whole), *(start_report(made, model, init) if model is not None else ())):
            say(line)
    source = data if isinstance(data, str | Path) else ""
    record: dict[str, Any] = {"source": str(source), **({"subset": len(rows)} if uids else {})}
    files = {"subset.txt": "".join(f"{uid}\n" for uid in uids)} if uids else None
    return fit(made, rows, out, options, validators(made, whole, options), record=record, files=files)


def started(made: Recipe, init: str | Path, options: TrainOptions, asked: Collection[str]) -> tuple[Recipe, Any]:
    """The recipe as the weights of `init` have it, and their model; a recipe without fields of that kind as it is, and None."""
    from diptych.models.io.opened import FOREIGN, open_address
    from diptych.models.pairs.embedder import Embedding
    from diptych.recipes._shared.resized import resized
    from diptych.recipes._shared.started import refuse_conflicts, tuned

    if not hasattr(made, "started"):
        return made, None
    foreign = str(init).startswith(FOREIGN)
    if not foreign and not (Path(options.init).parent / "config.json").is_file():
        return made, None  # tensors alone
    model = open_address(str(init) if foreign else Path(options.init).parent, download=options.download)
    if not foreign and not isinstance(model, Embedding):
        return made, None  # a recipe of another kind of model: tensors of equal name and shape
    found = resized(made, made.started(model), asked)
    refuse_conflicts(made, found, asked, str(init))
    return (tuned(found, asked) if foreign and hasattr(found, "tuned_lr") else found), model


def chosen_fields(name: str | Recipe) -> set[str]:
    from diptych.recipes._shared.started import asked_fields

    return asked_fields(name) if isinstance(name, Recipe) else set()


def start_report(made: Recipe, model: Any, init: str | Path) -> list[str]:
    """What starts from the weights, what is fresh and what of them is not used, in lines; before the first step."""
    import torch

    from diptych.train.weights import start_lines

    try:
        with torch.device("meta"):
            ours = made.model()
    except (RuntimeError, NotImplementedError):  # a part that reads its own weights cannot be built without memory
        with torch.random.fork_rng(devices=[]):
            ours = made.model()
    return start_lines(made.fitted(model.model.state_dict()), ours, str(init), getattr(model, "left", ()))


def _uids(subset: str | Path | Sequence[str]) -> list[str]:
    from diptych.data.subset import read_uids

    return (read_uids(subset) if isinstance(subset, str | Path) else list(subset)) if subset else []


def _limited(rows: Any, whole: Any, uids: Sequence[str], file: object = None) -> Any:
    """The training rows that are to be used."""
    from diptych.data.subset import subset

    return subset(rows, uids, whole=whole, file=file if isinstance(file, str | Path) else None) if uids else rows


def resume(run: str | Path, *, data: Any = None) -> RunFolder:
    """Go on with a run that was stopped or killed. A finished one is returned as it is.

    data  only where the run was started on an object and not on an address
    """
    from diptych.train.fit import resume as resume_run
    from diptych.train.options import TrainOptions

    folder = RunFolder.open(Path(run))
    if folder.state["status"] == "finished":
        if folder.state.get("signal"):
            folder.write_state(signal=None)  # it was for the process that finished the run
        return folder
    source = folder.state.get("source", "")
    if not source and data is None:
        raise RunError(f"{run} was trained on an object: pass it again as data=")
    whole = read_recorded(source, folder.path) if data is None else read(data)
    options = from_plain(TrainOptions, folder.config["run"])
    made = recipe_of(folder)
    uids = _uids(folder.subset) if folder.subset.is_file() else []
    rows = _limited(training_rows(whole), whole, uids, folder.subset)
    return resume_run(folder.path, as_drawn(rows, made), validators(made, whole, options))


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe of a run, as it was prepared."""
    made: Recipe = from_plain(RECIPES.load(folder.state["slug"]), folder.config["recipe"])
    return made


def estimate(
    name: str | Recipe,
    data: Any,
    *,
    preset: str = "tiny",
    options: TrainOptions | None = None,
    subset: str | Path | Sequence[str] = "",
    **changes: Any,
) -> dict[str, Any]:
    """What a run would cost: seconds a step and in all, parameters, memory, disk. Takes a few real steps and writes nothing."""
    from diptych.train.estimate import estimate as measure
    from diptych.train.options import TrainOptions

    made = recipe(name, preset=preset, **changes)
    whole = read(data)
    rows = _limited(training_rows(whole), whole, _uids(subset), subset)
    refuse_missing(made, rows)
    return measure(made, rows, options or TrainOptions())


def refuse_missing(made: Recipe, data: Dataset) -> None:
    """Say before the first step which field a recipe needs and the data lack."""
    if not len(data):
        raise DataError(f"'{data.name}' is empty: there is nothing to train on", expected="one sample or more")
    first = data[0]
    for field in made.needs:
        there = getattr(first, field) if hasattr(first, field) else first.media.get(field, first.extras.get(field))
        if there in (None, (), ""):
            raise DataError(
                f"recipe '{made.slug}' needs '{field}', which '{data.name}' does not have",
                row=0,
                field=field,
                expected=f"{', '.join(made.needs)} in every sample",
            )


def data_report(made: Recipe, rows: Any, whole: Any) -> list[str]:
    """The report before training, in lines: what is in the data, and what will go wrong. Rendered worlds have nothing to inspect."""
    from diptych.data.dataset import Pool
    from diptych.data.inspect import inspect
    from diptych.data.split import leaks
    from diptych.recipes._shared.pairs import PairRecipe

    if not isinstance(rows, Pool):
        return [f"{rows.name}: {len(rows):,} samples, rendered as they are needed"]
    words = made.words() if isinstance(made, PairRecipe) else None
    length = made.text_length if isinstance(made, PairRecipe) else 0
    report = inspect(rows, tokenizer=words, text_length=length, batch_size=made.batch_size)
    lines = [line for line in report.lines() if not line.startswith("no leak between splits")]
    return lines + (leaks(whole).lines() if len(split_names(whole)) > 1 else [])


def validators(made: Recipe, whole: Any, options: TrainOptions) -> Sequence[tuple[str, Callable[[Any], Mapping[str, float]]]]:
    """Evaluations inside the run: the recipe's own task on the split "val" where there is one, when `eval_every` asks for it."""
    if not options.eval_every or "val" not in split_names(whole):
        return ()
    task, part = own_task(made, draws=100), whole.split("val")

    def ask(model: Any) -> Mapping[str, float]:
        result = task.score(task.predict(model, part))
        return {name: metric.value for name, metric in result.metrics.items()}

    return ((f"{task.name}-val", ask),)


def own_task(made: Recipe, **options: Any) -> Task:
    """The task that a recipe is measured by."""
    from diptych.claims.spelling import spelled
    from diptych.tasks import find

    name, own = spelled(made.measured_by)
    return find(name, **{**own, **options})


def start_of(init: str | Path) -> str:
    """What `TrainOptions.init` says for it: the address of published weights, or the weights file of a folder."""
    from diptych.models.io.opened import FOREIGN

    return str(init) if str(init).startswith(FOREIGN) else str(weights_of(init))


def weights_of(source: str | Path) -> Path:
    """The weights file of a run folder or model folder."""
    folder = Path(source)
    for path in (folder / "model" / "model.safetensors", folder / "model.safetensors"):
        if path.is_file():
            return path
    raise RunError(f"{source} has no model.safetensors (expected a finished run folder, or its model/)")
