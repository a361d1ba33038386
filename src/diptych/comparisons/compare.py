"""Several recipes under one budget, everything else equal: cells, seed-paired differences, cost. Or several given models.

Recipes: what is trained again comes out differently, so the seed is the unit. Every arm is trained under the same seeds, on the same
rows, in the same order; the two-sided t over seed-paired differences to the first arm decides, Holm-adjusted when there are more than
two arms. Intervals over test items are shown too, "for these runs only": they never decide. Below three seeds nothing does.

Given models (run folders, hf:, open_clip:): there is no training noise in question, so the paired interval over test items with
whole groups resampled is the right one, and decides.

A cell is one arm under one seed: OUT/cells/NAME-HASH-SEED/ is its run folder, with `cell.json` when it is finished. The hash covers the
recipe, its steps, the data, the tasks, the syntax of all code that the cell reaches and the versions of the libraries below it. What is
there is read, what is half done goes on, what is missing is run. A cell that fails costs itself; the reason stands in the result.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diptych.claims.cell import CellResult
from diptych.claims.controls.raw_input import Values, raw_values
from diptych.claims.verdict import Margins
from diptych.comparisons import job as cells
from diptych.comparisons.arms import ComparedArm, arm_code, check_arms, check_capabilities
from diptych.comparisons.budget import Budget
from diptych.comparisons.job import Job
from diptych.comparisons.pilot import report_pilot
from diptych.comparisons.results import measures_of
from diptych.comparisons.splits import check_tasks, measured_splits, record_data, record_looks
from diptych.core.config import config_hash, prepared_fields, to_plain
from diptych.core.contracts import Dataset, Recipe
from diptych.core.disk.files import write_json
from diptych.core.disk.lock import exclusive
from diptych.core.environment import environment
from diptych.core.errors import ConfigError, DiptychError, RunError
from diptych.core.grouped_fields import out_of_groups
from diptych.core.terminal import notebook
from diptych.report.comparison_result import ArmCost, CellFailure, ComparisonResult
from diptych.train.options import TrainOptions
from diptych.worlds.address import held_out, training_rows

Say = Callable[[str], None]
ONE_POINT = Margins(0.01, 0.01)
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outcome of `compare`: `lines` for people, `to_json` for programs, `report` for a page with pictures.

    >>> dp.compare(["clip", "siglip"], data="emoji", seeds=3).report("report.html")      # doctest: +SKIP
    """

    measured: ComparisonResult
    out: Path
    data: Any = field(repr=False, default=None)

    def to_json(self) -> dict[str, Any]:
        return self.measured.to_json()

    def lines(self) -> list[str]:
        from diptych.comparisons.lines import lines

        return lines(self.measured)

    def to_pandas(self, *, seeds: bool = False) -> Any:
        """A DataFrame with a row for each arm in each measure: mean, difference to the first arm with interval, verdict. seeds: a row for
        each seed, with its value."""
        return notebook.frame(self.measured.seed_rows() if seeds else self.measured.rows())

    def _repr_html_(self) -> str:
        main = {(measure.task, measure.split, measure.metric) for measure in self.measured.main_measures}
        rows = [row for row in self.measured.rows() if (row["task"], row["split"], row["metric"]) in main]
        return notebook.table(
            rows, caption=f"{' and '.join(self.measured.arms)} on {self.measured.data['name']}, {self.measured.budget}"
        )

    def report(self, path: str | Path = "") -> Path:
        """Write one HTML file that opens offline; by default `report.html` in the folder of the comparison."""
        from diptych.report.pages.comparison import comparison_report

        return comparison_report(Path(path or self.out / "report.html"), self.measured, self.data)


def compare(
    arms: Sequence[ComparedArm],
    whole: Any,
    out: Path,
    *,
    source: str = "",
    tasks: Sequence[str] = ("retrieval",),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    budget: Budget | None = None,
    options: TrainOptions | None = None,
    margins: Margins = ONE_POINT,
    processes: int = 1,
    pilot: float = 0.0,
    splits: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Comparison:
    """Run what is missing and say what came out.

    whole    the data with their splits; `source` is their address, "" when they are an object. Cells run in processes of their own
             when there is an address, else in this one (then peak memory is not known)
    tasks    names, with options if need be: "zero_shot:label=group_name"
    budget   of each arm; None takes the steps of the first recipe
    margins  the smallest difference that would matter, and how close counts as equal; the same for every metric
    processes  cells that run at once, where they can run in processes of their own; their times are then those of a shared machine
    pilot    seconds of short trainings that say beforehand what the budget can show (`comparisons/pilot.py`); 0 runs none
    splits   held-out splits to measure on; () for all. What is left out is not read: choose arms on "val", then name "test", on which
             the trained cells are scored
    Raises ConfigError, DataError or RunError before anything is trained when the comparison cannot work.
    """
    check_arms(arms)
    check_capabilities(arms, tasks)
    given = arms[0].model is not None
    if not given and (not seeds or len(set(seeds)) < len(seeds)):
        raise ConfigError(f"seeds are {list(seeds)} (expected one or more, all different)")
    parts = measured_splits(whole, splits)
    check_tasks(whole, parts, tasks, given=given)
    with exclusive(out, LOCK, f"a comparison is at work in {out}"):
        record_data(whole, out)
        work = _Work(tuple(arms), whole, parts, out, source, tuple(tasks), tuple(seeds), processes, say)
        measured = _of_models(work, margins) if given else _of_recipes(work, budget, options or TrainOptions(), margins, pilot)
        write_json(out / "comparison.json", measured.to_json())
    return Comparison(measured, out, whole)


@dataclass(frozen=True, slots=True)
class _Work:
    """Arguments of a comparison; `parts` are the held-out splits that are measured."""

    arms: tuple[ComparedArm, ...]
    whole: Any
    parts: Mapping[str, Dataset]
    out: Path
    source: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    processes: int
    say: Say

    def result(
        self,
        results: Sequence[CellResult],
        folders: dict[str, dict[int, str]],
        margins: Margins,
        *,
        budget: str,
        configs: dict[str, dict[str, Any]],
        looks: dict[str, int],
        failures: Sequence[CellFailure] = (),
        controls: Values | None = None,
    ) -> ComparisonResult:
        given, names, rows = self.arms[0].model is not None, tuple(arm.name for arm in self.arms), training_rows(self.whole)
        return ComparisonResult(
            arms=names,
            seeds=() if given else self.seeds,
            data={
                "name": self.whole.name,
                "fingerprint": rows.fingerprint,
                "training_rows": 0 if given else len(rows),
                "source": self.source,
            },
            budget=budget,
            tasks=self.tasks,
            given=given,
            measures=tuple(
                measures_of(names, results, folders, self.parts, self.tasks, given=given, margins=margins, controls=controls)
            ),
            costs=tuple(
                _cost(arm, [c for c in results if c.arm == arm.name])
                for arm in self.arms
                if any(c.arm == arm.name for c in results)
            ),
            failures=tuple(failures),
            folders=folders,
            configs=configs,
            environment=environment(),
            margins=(margins.matters, margins.equivalence),
            looks=looks,
            unseen=tuple(name for name in held_out(self.whole) if name not in self.parts and name not in looks),
        )


def _of_recipes(work: _Work, budget: Budget | None, options: TrainOptions, margins: Margins, pilot: float) -> ComparisonResult:
    """Train and score the cells that are missing, after a pilot of so many seconds."""
    arms, parts = work.arms, work.parts
    budget = budget or _budget_of(arms[0])
    jobs = _jobs(work, budget, options)
    if pilot:
        report_pilot(jobs, work.whole, seconds=pilot, margins=margins, say=work.say)
    before = {job.folder: _splits_of(CellResult.read(job.folder)) for job in jobs}
    results, failures = _run_all(jobs, work.whole, work.say, work.processes)
    finished = {(result.arm, result.seed) for result in results}
    done = [job for job in jobs if (job.arm, job.seed) in finished]
    looks = record_looks(work.out, {split: sum(split not in before[job.folder] for job in done) for split in parts})
    work.say("raw-input controls: ridge from pixels, nearest training picture, majority")
    language = getattr(arms[0].recipe, "language", "")
    rows = training_rows(work.whole)
    controls = raw_values(rows, parts, work.tasks, cells.make_task, work.out, language=language, say=work.say)
    folders = {arm.name: {job.seed: str(job.folder) for job in jobs if job.arm == arm.name} for arm in arms}
    configs = {job.arm: _config(job) for job in jobs}
    return work.result(
        results, folders, margins, budget=str(budget), configs=configs, looks=looks, failures=failures, controls=controls
    )


def _of_models(work: _Work, margins: Margins) -> ComparisonResult:
    """Score models that are there."""
    results, folders, fresh = _score_models(work)
    looks = record_looks(work.out, dict.fromkeys(work.parts, fresh))
    configs = {a.name: {"address": a.address, "fingerprint": a.model.fingerprint} for a in work.arms if a.model is not None}
    return work.result(results, folders, margins, budget="given models, nothing was trained", configs=configs, looks=looks)


def _splits_of(done: CellResult | None) -> set[str]:
    """Splits that a finished cell was scored on."""
    return {split for parts in done.results.values() for split in parts} if done else set()


# ---------------------------------------------------------------- recipes


def _budget_of(arm: ComparedArm) -> Budget:
    assert arm.recipe is not None
    if not arm.recipe.steps:
        raise ConfigError(f"'{arm.name}' has no number of steps: give --budget steps:N, samples:N or seconds:N")
    return Budget("steps", arm.recipe.steps)


def _jobs(work: _Work, budget: Budget, options: TrainOptions) -> list[Job]:
    """Every cell, seed by seed, so that a comparison that is stopped has whole pairs."""
    out, tasks, say = work.out, work.tasks, work.say
    rows = training_rows(work.whole)
    fixed = {name: value for name, value in to_plain(options).items() if name in ("precision", "bad_limit", "steps")}
    prepared: list[tuple[ComparedArm, Recipe, str]] = []
    codes = {arm.name: arm_code(arm, tasks) for arm in work.arms}
    for name in _changed_codes(out, codes):
        say(f"note: the code of {name} or a library below it has changed since it was compared here: its cells are trained anew")
    for arm in work.arms:
        assert arm.recipe is not None
        code = codes[arm.name]
        key = config_hash([arm.recipe.slug, to_plain(out_of_groups(arm.recipe)), fixed, rows.fingerprint, tasks, code])
        pace = _seconds_a_step(arm, rows, out, key, options, say) if budget.kind == "seconds" else math.nan
        recipe = replace(arm.recipe, steps=budget.steps_of(arm.recipe.batch_size, pace))
        if recipe.warmup >= recipe.steps:
            say(f"note: {arm.name} warms up for {recipe.warmup:g} steps and trains for {recipe.steps}")
        whole_key = config_hash([key, recipe.steps])
        prepared.append((arm, recipe, f"{_stem(arm.name)}-{whole_key}"))
    return [
        Job(
            arm=arm.name,
            seed=seed,
            recipe=recipe,
            options=replace(options, seed=seed),
            tasks=tasks,
            folder=out / "cells" / f"{stem}-{seed}",
            source=work.source,
            fingerprint=rows.fingerprint,
            splits=tuple(work.parts),
        )
        for seed in work.seeds
        for arm, recipe, stem in prepared
    ]


def _changed_codes(out: Path, codes: dict[str, str]) -> list[str]:
    """Names of the arms whose code is another than when this folder was last used; the present hashes are kept."""
    path = out / "code.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**before, **codes})
    return [name for name, code in codes.items() if before.get(name, code) != code]


def _seconds_a_step(arm: ComparedArm, rows: Any, out: Path, key: str, options: TrainOptions, say: Say) -> float:
    """Measured once an arm by a few real steps and kept, so that every seed and every continuation trains the same steps."""
    from diptych.train.estimate import estimate

    path = out / "paces.json"
    seconds = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if key not in seconds:
        assert arm.recipe is not None
        seconds[key] = estimate(replace(arm.recipe, steps=arm.recipe.steps or 100), rows, options)["seconds_per_step"]
        write_json(path, seconds)
        say(f"{arm.name}: {seconds[key]:.3f} seconds a step")
    return float(seconds[key])


def _run_all(jobs: Sequence[Job], whole: Any, say: Say, processes: int = 1) -> tuple[list[CellResult], list[CellFailure]]:
    results: list[CellResult] = []
    failures: list[CellFailure] = []
    spent: list[float] = []
    waiting = [job for job in jobs if not (job.folder / "cell.json").is_file()]
    apart = [job for job in waiting if job.portable] if processes > 1 else []
    if apart:
        say(f"{len(apart)} cells, {processes} at once")
    early = cells.run_side_by_side(apart, processes, say) if apart else {}
    for job in jobs:
        label = f"{job.arm}, seed {job.seed}"
        done = cells.scored_cell(job, whole) if job.folder not in early else None
        if done is None:
            say(f"[{jobs.index(job) + 1}/{len(jobs)}] {label}: {job.recipe.steps:,} steps{_time_left(spent, len(waiting))}")
            begin = time.perf_counter()
            try:
                done = _early(early[job.folder]) if job.folder in early else None
                done = done or (cells.run_apart(job, say) if job.portable else cells.run_job(job, whole))
            except Exception as error:  # whatever a recipe does wrong costs its own cell
                reason = str(error) if isinstance(error, DiptychError) else f"{type(error).__name__}: {error}"
                failures.append(CellFailure(job.arm, job.seed, reason))
                say(f"  failed: {failures[-1].reason}")
            spent.append(time.perf_counter() - begin)
            waiting.remove(job)
        else:
            say(f"[{jobs.index(job) + 1}/{len(jobs)}] {label}: there already")
        if done is not None:
            results.append(done)
            for task, parts in done.results.items():
                values = "   ".join(f"{split} {result.value:.3f}" for split, result in parts.items() if split in job.splits)
                say(f"  {task} {next(iter(parts.values())).main}: {values}")
    if not results:
        raise RunError(f"no training gave a result; the first error was: {failures[0].reason}")
    return results, failures


def _early(outcome: CellResult | Exception) -> CellResult:
    """Result of a cell that ran beside others; raises what it failed with."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _time_left(spent: Sequence[float], cells_left: int) -> str:
    return f" (about {cells_left * sum(spent) / len(spent) / 60:.1f} minutes left)" if spent else ""


def _config(job: Job) -> dict[str, Any]:
    hidden = prepared_fields(type(job.recipe))
    plain: dict[str, Any] = to_plain(job.recipe)
    return {"recipe": job.recipe.slug, **{name: value for name, value in plain.items() if name not in hidden}}


def _cost(arm: ComparedArm, done: Sequence[CellResult]) -> ArmCost:
    def mean(name: str) -> float:
        values = [c.cost[name] for c in done if math.isfinite(c.cost.get(name, math.nan))]
        return sum(values) / len(values) if values else math.nan

    def whole(name: str) -> int:
        return 0 if math.isnan(value := mean(name)) else round(value)

    return ArmCost(
        arm=arm.name,
        steps=done[0].steps,
        batch_size=arm.recipe.batch_size if arm.recipe else 0,
        parameters=whole("parameters"),
        trained_parameters=whole("trained_parameters"),
        wall_seconds=mean("wall_seconds"),
        cpu_seconds=mean("cpu_seconds"),
        train_seconds=mean("train_seconds"),
        images_per_second=mean("images_per_second"),
        peak_memory=mean("peak_memory"),
    )


# ---------------------------------------------------------------- given models


def _score_models(work: _Work) -> tuple[list[CellResult], dict[str, dict[int, str]], int]:
    """Every model on every task, and how many were scored now. Kept by the fingerprints of model and data."""
    scored, folders, fresh, tasks = [], {}, 0, work.tasks
    data = [part.fingerprint for part in work.parts.values()]
    for number, arm in enumerate(work.arms):
        assert arm.model is not None
        key = config_hash([arm.model.fingerprint, data, tasks, arm_code(arm, tasks)])
        folder = work.out / "models" / f"{_stem(arm.name)}-{key}"
        done = CellResult.read(folder)
        work.say(f"[{number + 1}/{len(work.arms)}] {arm.name}" + (": there already" if done else ""))
        if done is None:
            begin = time.perf_counter()
            results = cells.score(arm.model, work.whole, tasks, folder / "records", work.parts)
            cost = {"wall_seconds": time.perf_counter() - begin}
            done, fresh = CellResult(arm.name, 0, False, {}, cost, results), fresh + 1
            done.write(folder)
        scored.append(replace(done, arm=arm.name))
        folders[arm.name] = {0: str(folder)}
    return scored, folders, fresh


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "arm"
