"""Between a start and what tuning made of it: blending, and what was won and forgotten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.api.checking import data_report
from diptych.api.data import data_of, read
from diptych.api.evaluation import evaluate
from diptych.api.models import load
from diptych.api.recipes import recipe_of
from diptych.comparisons.statistics import item_view
from diptych.core.errors import ConfigError, RunError
from diptych.core.result import Result
from diptych.core.run_folder import RunFolder
from diptych.report.pages.tuning import BlendPoint, MetricChange, TuningReport
from diptych.worlds.address import held_out, training_rows

if TYPE_CHECKING:
    from diptych.models.pairs.embedder import PairEmbedder

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def blend(first: str | Path, second: str | Path, out: str | Path | None = None, *, share: float = 0.5) -> PairEmbedder:
    """The model between two: (1 - share) of the first one's weights, `share` of the second's. Written to `out` where that is given.

    first, second  anything that `load` opens, of one architecture; RUN/start and RUN for what tuning started from and ended in
    """
    from diptych.models.io.blend import blended

    _refuse_occupied(out)
    made = blended(_dual(first), _dual(second), share)
    if out is not None:
        made.card = {**made.card, "recipe": f"Weights: {1 - share:g} of {first} and {share:g} of {second}, averaged."}
        made.save(Path(out))
    return made


def blend_curve(
    first: str | Path,
    second: str | Path,
    data: Any,
    *,
    source: Any = None,
    shares: Sequence[float] = SHARES,
    task: str = "retrieval",
    **options: Any,
) -> list[BlendPoint]:
    """The score of every share of the second model, on the target data and on those of the source where they are given.

    Held-out splits only; of several, their mean. `report.pages.tuning.blend_chart` draws it.
    """
    from diptych.models.io.blend import blended

    ends = _dual(first), _dual(second)
    points = []
    for share in shares:
        made = blended(*ends, share)
        points.append(
            BlendPoint(
                share,
                _mean(made, data, task, options),
                _mean(made, source, task, options) if source is not None else math.nan,
            )
        )
    return points


@dataclass(frozen=True, slots=True)
class Soup:
    """Mean of several models' weights.

    used     addresses whose weights went into it, in the order in which they were added
    scores   of each model alone on validation, by address; empty for a uniform mean without data
    score    of the mean on validation; NaN without data
    """

    model: PairEmbedder
    used: tuple[str, ...]
    scores: dict[str, float]
    score: float


def soup(
    models: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    how: Literal["uniform", "greedy"] = "uniform",
    data: Any = None,
    split: str = "val",
    task: str = "retrieval",
    **options: Any,
) -> Soup:
    """Mean of several models' weights (model soups; Wortsman et al., 2022, 2203.05482), written to `out` where that is given.

    models  anything that `load` opens, of one architecture, tuned from one start
    how     "uniform" takes all; "greedy" goes from the best on validation to the worst and keeps those with which the mean is not worse
    data    needed for "greedy": scored on its rows of `split` alone, so that test rows stay unseen

    Raises ConfigError for fewer than two models, or a greedy mean without data.
    """
    from diptych.models.io.blend import averaged

    if len(models) < 2:
        raise ConfigError(f"a mean needs two models or more, got {len(models)}")
    if how not in ("uniform", "greedy"):
        raise ConfigError(f"how is {how!r} (expected uniform or greedy)")
    if how == "greedy" and data is None:
        raise ConfigError("a greedy mean is chosen by validation: say --data")
    _refuse_occupied(out)
    opened = {str(address): _dual(address) for address in models}
    if len(opened) < len(models):
        raise ConfigError("a model is given twice (expected different ones)")
    whole = None if data is None else read(data)

    def score(model: Any) -> Result:
        return evaluate(model, task, whole, split=split, **options)

    results = {address: score(model) for address, model in opened.items()} if whole is not None else {}
    sign = 1.0 if not results or next(iter(results.values())).higher_is_better else -1.0
    order = sorted(opened, key=lambda address: -sign * results[address].value) if results else list(opened)
    used = order if how == "uniform" else order[:1]
    made = averaged([opened[address] for address in used])
    best = score(made).value if whole is not None else math.nan
    for address in order[1:] if how == "greedy" else ():
        tried = averaged([opened[each] for each in (*used, address)])
        value = score(tried).value
        if sign * value >= sign * best:
            used, made, best = [*used, address], tried, value
    if out is not None:
        made.card = {**made.card, "recipe": f"Weights: the mean of {', '.join(used)}."}
        made.save(Path(out))
    return Soup(made, tuple(used), {address: result.value for address, result in results.items()}, best)


def _refuse_occupied(out: str | Path | None) -> None:
    if out is not None and Path(out).exists() and any(Path(out).iterdir()):
        raise RunError(f"{out} is not empty: choose another folder")


def _mean(model: Any, data: Any, task: str, options: dict[str, Any]) -> float:
    whole = read(data)
    values = [
        evaluate(model, task, whole, split=name if len(held_out(whole)) > 1 else "", **options).value for name in held_out(whole)
    ]
    return sum(values) / len(values)


def _dual(address: str | Path) -> PairEmbedder:
    from diptych.models.pairs.embedder import PairEmbedder

    model: Any = load(address)
    if not isinstance(model, PairEmbedder):
        raise ConfigError(
            f"{address} is a {getattr(model, 'kind', 'foreign')} model (expected a dual encoder: a run of clip, hf:FOLDER)"
        )
    return model


# ---------------------------------------------------------------- did it help, and what was forgotten


@dataclass(frozen=True, slots=True)
class _DataChoice:
    role: str
    data: Any


def tune_report(
    run: str | Path,
    *,
    source: Any = None,
    data: Any = None,
    before: str | Path = "",
    task: str = "retrieval",
    out: str | Path | None = None,
    **options: Any,
) -> TuningReport:
    """Target data and a source set before and after tuning, item by item, and what in the run says that it could not work.

    run      a finished run that started from weights
    source   data that the start was good at; None leaves out what was forgotten
    data     target data; None takes those of the run
    before   the model before; "" is the run's start/
    out      where the page goes; None: tuning.html in the run folder
    options  fields of the task

    Intervals are over items, whole groups resampled, and are about these two models: another seed gives another model.
    """
    from diptych.report.pages.tuning import tuning_page
    from diptych.tasks import find

    folder = RunFolder.open(Path(run))
    if folder.state["status"] != "finished":
        raise RunError(f"{run} is {folder.state['status']}: the report needs a finished run")
    if not before and not folder.start.is_dir():
        raise RunError(f"{run} has no start/ (expected a run of `diptych train --init`; or say --before MODEL)")
    old, new = load(before or folder.start), load(folder.path)
    made = find(task, **options)
    changes = []
    for source_data in (
        _DataChoice("target", data if data is not None else folder.state.get("source")),
        _DataChoice("source", source),
    ):
        if source_data.data in (None, ""):
            continue
        whole = data_of(folder, source_data.data) if source_data.role == "target" else read(source_data.data)
        for name, part in held_out(whole).items():
            changes.append(_change(source_data.role, f"{whole.name}/{name}", made, old, new, part))
    if not changes:
        raise ConfigError(f"{run} was trained on an object: say --data")
    lines = _data_lines(folder)
    report = TuningReport(
        run=str(folder.path),
        changes=tuple(changes),
        warnings=tuple(loss_warnings(folder)),
        data=tuple(lines),
        loss=_losses(folder),
    )
    path = Path(out) if out else folder.path / "tuning.html"
    path.write_text(tuning_page(report), encoding="utf-8")
    return report


def _change(role: str, where: str, task: Any, old: Any, new: Any, part: Any) -> MetricChange:
    records = [task.predict(model, part) for model in (old, new)]
    results = [task.score(records_of_model) for records_of_model in records]
    main = results[0].main
    metric = results[0].metrics[main]
    by_item = getattr(task, "item_values", None)
    view = item_view(records[0], records[1], lambda table: by_item(table, main)) if by_item else None
    return MetricChange(
        role=role,
        data=where,
        metric=main,
        before=results[0].value,
        after=results[1].value,
        low=view.low if view else math.nan,
        high=view.high if view else math.nan,
        p=view.p if view else math.nan,
        won=view.wins if view else 0,
        lost=view.losses if view else 0,
        items=view.items if view else results[0].n_items,
        chance=metric.chance,
        higher_is_better=metric.higher_is_better,
    )


def _data_lines(folder: RunFolder) -> list[str]:
    if not folder.state.get("source"):
        return []
    whole = data_of(folder)
    return data_report(recipe_of(folder), training_rows(whole), whole)


def _losses(folder: RunFolder) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(line["step"]), float(line["loss"])) for line in folder.metrics() if line.get("kind") == "train" and "loss" in line
    )


def loss_warnings(folder: RunFolder) -> list[str]:
    """Warnings from a run's log about a loss that cannot fall or did not: batch too small, near-identical captions, a stuck temperature,
    a learning rate that is too high.
    """
    recipe = recipe_of(folder)
    lines = [line for line in folder.metrics() if line.get("kind") == "train" and "loss" in line]
    warnings = []
    chance = math.log(recipe.batch_size) if recipe.batch_size > 1 else 0.0
    if recipe.batch_size < 32:
        warnings.append(
            f"batch_size is {recipe.batch_size}: a text is compared with {recipe.batch_size - 1} others only, and guessing gives a loss of "
            f"{chance:.2f}; take 32 or more (--micro-batch keeps the memory)"
        )
    contrastive = [float(line["contrastive"]) for line in lines if "contrastive" in line]
    if contrastive:
        last = sum(contrastive[-3:]) / len(contrastive[-3:])
        if last > 0.95 * chance:
            warnings.append(
                f"the loss ended at {last:.2f} and guessing gives {chance:.2f}: nothing was learned. Captions that are nearly alike, a "
                "rate that is too high, or frozen parts that the loss needs"
            )
        elif len(contrastive) > 3 and last > contrastive[0] - 0.01:
            warnings.append(
                f"the loss did not fall ({contrastive[0]:.2f} at first, {last:.2f} at the end): more steps, or a higher rate"
            )
    scales = [float(line["scale"]) for line in lines if "scale" in line]
    if len(scales) > 1 and all(abs(scale - scales[0]) < 1e-6 for scale in scales):
        warnings.append(
            f"the temperature stayed at a factor of {scales[0]:.1f}: it is frozen (adapters do so, but for --lora-full log_scale) "
            "or stands at its bound"
        )
    elif scales and scales[-1] <= 1.001:
        warnings.append("the temperature fell to its lower bound: the pairs look like noise to the model")
    return [*warnings, *_caption_warnings(folder)]


def _caption_warnings(folder: RunFolder) -> list[str]:
    """Near-identical captions, from the report of the training data: their warnings that a loss cannot work around."""
    if not folder.state.get("source"):
        return []
    from diptych.data.dataset import Pool
    from diptych.data.inspect import inspect

    rows = training_rows(data_of(folder))
    if not isinstance(rows, Pool):
        return []
    report = inspect(rows, batch_size=recipe_of(folder).batch_size, look_at=0)
    marks = ("captions are nearly constant", "of the texts", "negatives that are none", "do not fill a batch")
    return [warning for warning in report.warnings if any(mark in warning for mark in marks)]


def plain(report: TuningReport) -> dict[str, Any]:
    """The report as JSON values; not-a-number becomes null."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, list | tuple) else value

    values: dict[str, Any] = clean(asdict(report))
    return values
