"""The data of a run before its first step, and the task by which it is watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from diptych.core.contracts import Dataset, Recipe
from diptych.core.errors import ConfigError, DataError, MissingExtra
from diptych.worlds.address import split_names

if TYPE_CHECKING:
    from diptych.core.contracts import Task
    from diptych.train.options import TrainOptions


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
                expected=f"{', '.join(made.needs)} in every sample{_download(data) if field == 'image' else ''}",
            )


def _download(data: Dataset) -> str:
    """Advice on how to fetch the pictures of a table of links; "" for other data."""
    return "; fetch the pictures with `diptych data download`" if "url" in getattr(data, "column_names", ()) else ""


def refuse_early(made: Recipe, options: TrainOptions) -> None:
    """Raise, before any data are read, for towers that do not exist and packages that are not installed.

    Towers are checked of recipes whose own are among the common ones; others have towers of their own.
    """
    from diptych.models.towers.towers import is_tower, refuse_unknown_tower

    usual = vars(type(made).preset("tiny")) if "tiny" in type(made).presets else {}
    for side in ("image_tower", "text_tower"):
        own, value = usual.get(side), getattr(made, side, "")
        if isinstance(own, str) and isinstance(value, str) and value and is_tower(side, own):
            refuse_unknown_tower(side, value)
    required = {
        "--lora": ("peft", "peft", "adapters", bool(options.tune.lora)),
        "--tensorboard": ("tensorboard", "tensorboard", "track", options.tensorboard),
        "--wandb": ("wandb", "wandb", "wandb", options.wandb),
        "--mlflow": ("mlflow", "mlflow-skinny", "mlflow", options.mlflow),
    }
    for option, (module, package, extra, used) in required.items():
        if used and find_spec(module) is None:
            raise MissingExtra(package, extra, needed_for=option)


def data_report(made: Recipe, rows: Any, whole: Any) -> list[str]:
    """The report before training, in lines: what is in the data, and what will go wrong. Rendered worlds have nothing to inspect."""
    from diptych.data.dataset import Pool
    from diptych.data.inspect import inspect
    from diptych.recipes._shared.pairs import PairRecipe

    if not isinstance(rows, Pool):
        return [f"{rows.name}: {len(rows):,} samples, rendered as they are needed"]
    words = made.words() if isinstance(made, PairRecipe) else None
    length = made.text_length if isinstance(made, PairRecipe) else 0
    report = inspect(rows, tokenizer=words, text_length=length, batch_size=made.batch_size)
    lines = [line for line in report.lines() if not line.startswith("no leak between splits")]
    return lines + _leak_lines(whole)


def _leak_lines(whole: Any) -> list[str]:
    """Lines about rows that splits share, marked as `data inspect` marks what is wrong; a line that there are none."""
    from diptych.data.split import leaks

    if len(split_names(whole)) < 2:
        return []
    report = leaks(whole)
    return report.lines() if report.clean else [f"! {line}" for line in report.lines()]


def validators(made: Recipe, whole: Any, options: TrainOptions) -> Sequence[tuple[str, Callable[[Any], Mapping[str, float]]]]:
    """Evaluations inside the run: the recipe's own task on the split "val" if there is one, when `eval_every` asks for it."""
    from diptych.train.best import SCORE, tracks_best

    requested = options.eval_every or tracks_best(options)
    if requested and "val" not in split_names(whole):
        raise ConfigError(
            f"'{whole.name}' has no split 'val' to evaluate on inside the run (expected one beside 'train'; data without splits get one, "
            "unless they have too few groups)"
        )
    if not requested:
        return ()
    refuse_unmeasurable(made)
    task, part = default_task(made, draws=100), whole.split("val")

    def ask(model: Any) -> Mapping[str, float]:
        result = task.score(task.predict(model, part))
        values = {name: metric.value for name, metric in result.metrics.items()}
        return {**values, SCORE: result.value if result.higher_is_better else -result.value} if tracks_best(options) else values

    return ((f"{task.name}-val", ask),)


def refuse_unmeasurable(made: Recipe) -> None:
    """Raises ConfigError before the first step where the recipe's model could not do the task that the recipe is measured by."""
    from diptych.models.io.open_address import require_deployed

    if not made.measured_by:
        return
    task = default_task(made)
    require_deployed(made, task.needs, who=f"task '{task.name}', which {type(made).__name__}.measured_by names,")


def default_task(made: Recipe, **options: Any) -> Task:
    """The task that a recipe is measured by. Raises ConfigError if there is none."""
    from diptych.core.terminal.spelling import parse_name
    from diptych.tasks import find

    if not made.measured_by:
        raise ConfigError(
            f"no task measures '{made.slug}' with these fields on these data (expected a run without evaluations: no eval_every, "
            "keep_best, early_stop, sweep)"
        )
    name, own = parse_name(made.measured_by)
    return find(name, **{**own, **options})
