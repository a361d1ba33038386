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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.claims import job as cells
from diptych.claims.cell import CellResult
from diptych.claims.controls.raw_input import raw_values
from diptych.claims.job import Job
from diptych.claims.pilots.pilot import report_pilot
from diptych.claims.results import measures_of
from diptych.claims.spelling import Budget
from diptych.claims.verdict import Margins
from diptych.core.config import config_hash, prepared_fields, to_plain
from diptych.core.contracts import Embedder, Recipe
from diptych.core.disk.files import write_json
from diptych.core.environment import environment
from diptych.core.errors import ConfigError, DataError, DiptychError, RunError
from diptych.core.grouped_fields import out_of_groups
from diptych.core.own_recipes import named_programs
from diptych.core.sources.program import code_hash
from diptych.core.terminal import notebook
from diptych.models.io.open_address import require, require_deployed
from diptych.report.comparison_result import ArmCost, CellFailure, ComparisonResult
from diptych.train.options import TrainOptions
from diptych.worlds.address import held_out, training_rows

Say = Callable[[str], None]
ONE_POINT = Margins(0.01, 0.01)
REHEARSED = 256  # rows of a held-out split on which a task is tried before anything is trained


@dataclass(frozen=True, slots=True)
class ComparedArm:
    """A side of a comparison: a recipe to train, or a model that is there and where it came from. Exactly one of the two. `named`: its
    name was chosen by hand."""

    name: str
    recipe: Recipe | None = None
    model: Embedder | None = None
    address: str = ""
    named: bool = False


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
        from diptych.claims.lines import lines

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
    say: Say = lambda line: None,
) -> Comparison:
    """Run what is missing and say what came out.

    whole    the data with their splits; `source` is their address, "" when they are an object. Cells run in processes of their own
             when there is an address, else in this one (then peak memory is not known)
    tasks    names, with options if need be: "zero_shot:label=group_name"
    budget   of each arm; None takes the steps of the first recipe
    margins  the smallest difference that would matter, and how close counts as equal; the same for every metric
    processes  cells that run at once, where they can run in processes of their own; their times are then those of a shared machine
    pilot    seconds of short trainings that say beforehand what the budget can show (`pilots.pilot`); 0 runs none
    Raises ConfigError, DataError or RunError before anything is trained when the comparison cannot work.
    """
    _check_arms(arms)
    _check_capabilities(arms, tasks)
    given = arms[0].model is not None
    _begin(whole, tasks, seeds, out, given=given)
    if given:
        results, folders = _score_models(arms, whole, out, tuple(tasks), say)
        failures: list[CellFailure] = []
        controls = {}
        words = "given models, nothing was trained"
        configs = {a.name: {"address": a.address, "fingerprint": a.model.fingerprint} for a in arms if a.model is not None}
    else:
        options = options or TrainOptions()
        budget = budget or _budget_of(arms[0])
        jobs = _jobs(arms, whole, out, source, tuple(tasks), seeds, budget, options, say)
        if pilot:
            report_pilot(jobs, whole, seconds=pilot, margins=margins, say=say)
        results, failures = _run_all(jobs, whole, say, processes)
        folders = {arm.name: {job.seed: str(job.folder) for job in jobs if job.arm == arm.name} for arm in arms}
        configs = {job.arm: _config(job) for job in jobs}
        words = str(budget)
        say("raw-input controls: ridge from pixels, nearest training picture, majority")
        language = getattr(arms[0].recipe, "language", "")
        controls = raw_values(training_rows(whole), held_out(whole), tasks, cells.make_task, out, language=language, say=say)
    names = tuple(arm.name for arm in arms)
    rows = training_rows(whole)
    measured = ComparisonResult(
        arms=names,
        seeds=() if given else tuple(seeds),
        data={"name": whole.name, "fingerprint": rows.fingerprint, "training_rows": 0 if given else len(rows), "source": source},
        budget=words,
        tasks=tuple(tasks),
        given=given,
        measures=tuple(
            measures_of(names, results, folders, whole, tuple(tasks), given=given, margins=margins, controls=controls)
        ),
        costs=tuple(
            _cost(arm, [c for c in results if c.arm == arm.name]) for arm in arms if any(c.arm == arm.name for c in results)
        ),
        failures=tuple(failures),
        folders=folders,
        configs=configs,
        environment=environment(),
        margins=(margins.matters, margins.equivalence),
    )
    write_json(out / "comparison.json", measured.to_json())
    return Comparison(measured, out, whole)


# ---------------------------------------------------------------- what cannot work


def _check_arms(arms: Sequence[ComparedArm]) -> None:
    if len(arms) < 2:
        raise ConfigError(f"a comparison needs two arms or more, got {len(arms)}")
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"'{twice[0]}' stands there twice (arms may differ in options: {twice[0]}:lr=1e-4)")
    trained = [arm.name for arm in arms if arm.model is None]
    if 0 < len(trained) < len(arms):
        ready = next(arm.name for arm in arms if arm.model is not None)
        raise ConfigError(
            f"'{trained[0]}' is a recipe and '{ready}' a model: compare recipes with recipes, or train first and compare run folders"
        )


def _check_capabilities(arms: Sequence[ComparedArm], tasks: Sequence[str]) -> None:
    """Refuse an arm whose model cannot do a task, before anything is trained."""
    for task in map(cells.make_task, tasks):
        for arm in arms:
            if arm.recipe is not None:
                require_deployed(arm.recipe, task.needs, who=f"task '{task.name}'")
            else:
                require(arm.model, task.needs, who=f"task '{task.name}'")


def _begin(whole: Any, tasks: Sequence[str], seeds: Sequence[int], out: Path, *, given: bool) -> None:
    """Refuse what cannot work, then write down which data are compared on."""
    if not given and (not seeds or len(set(seeds)) < len(seeds)):
        raise ConfigError(f"seeds are {list(seeds)} (expected one or more, all different)")
    names = [cells.make_task(words).name for words in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ConfigError(f"tasks are {', '.join(tasks) or 'missing'} (expected one or more, each once, such as retrieval)")
    parts = held_out(whole)
    if not given and whole.name in parts:
        raise DataError(
            f"'{whole.name}' has no held-out rows, and what was trained on may not be scored",
            field="split",
            expected="a column 'split' with train and another name: diptych data split",
        )
    file, fingerprint = out / "data.json", training_rows(whole).fingerprint
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["fingerprint"] != fingerprint:
            raise RunError(
                f"{out} compares on '{before['name']}' with fingerprint {before['fingerprint']}; these data have {fingerprint}: "
                "choose another --out"
            )
    for words in tasks:
        _rehearse(words, parts)
    write_json(file, {"name": whole.name, "fingerprint": fingerprint})


class _Constant:
    """Answers everything alike, without looking: enough to see whether a task fits the data."""

    name, fingerprint = "rehearsal", "rehearsal"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        return np.ones((len(images), 1), np.float32)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Any:
        return np.ones((len(texts), 1), np.float32)


def _rehearse(words: str, parts: dict[str, Any]) -> None:
    """Try a task on some rows of every split, so that data without labels or wrong captions are refused now and not at the end."""
    task = cells.make_task(words)
    if hasattr(task, "train") or not isinstance(_Constant(), task.needs):  # trains a head, or asks for more than embeddings
        return
    for part in parts.values():
        step = max(1, len(part) // REHEARSED)
        task.predict(_Constant(), part.select(range(0, len(part), step)))


def check_version(name: str, run_state: dict[str, Any], whole: Any) -> None:
    """Refuse a run folder that was trained on another version of the data, with both fingerprints."""
    trained_on, now = run_state.get("data", {}), training_rows(whole).fingerprint
    if trained_on and trained_on.get("fingerprint") != now:
        raise RunError(
            f"{name} was trained on '{trained_on.get('name')}' with fingerprint {trained_on.get('fingerprint')}; "
            f"'{whole.name}' has {now}: compare it on the data it was trained on"
        )


# ---------------------------------------------------------------- recipes


def _budget_of(arm: ComparedArm) -> Budget:
    assert arm.recipe is not None
    if not arm.recipe.steps:
        raise ConfigError(f"'{arm.name}' says nothing about steps: give --budget steps:N, samples:N or seconds:N")
    return Budget("steps", arm.recipe.steps)


def _jobs(
    arms: Sequence[ComparedArm],
    whole: Any,
    out: Path,
    source: str,
    tasks: tuple[str, ...],
    seeds: Sequence[int],
    budget: Budget,
    options: TrainOptions,
    say: Say,
) -> list[Job]:
    """Every cell, seed by seed, so that a comparison that is stopped has whole pairs."""
    rows = training_rows(whole)
    fixed = {name: value for name, value in to_plain(options).items() if name in ("precision", "bad_limit", "steps")}
    prepared: list[tuple[ComparedArm, Recipe, str]] = []
    codes = {arm.name: arm_code(arm, tasks) for arm in arms}
    for name in _changed_codes(out, codes):
        say(f"note: the code of {name} or a library below it has changed since it was compared here: its cells are trained anew")
    for arm in arms:
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
            source=source,
            fingerprint=rows.fingerprint,
        )
        for seed in seeds
        for arm, recipe, stem in prepared
    ]


def arm_code(arm: ComparedArm, tasks: Sequence[str]) -> str:
    """Hash of all code that a cell of an arm reaches: recipe or model, training, evaluation."""
    kinds: list[type] = [type(cells.make_task(words)) for words in tasks]
    files = named_programs(arm.recipe) if arm.recipe is not None else []
    kinds.append(type(arm.recipe) if arm.recipe is not None else type(arm.model))
    return code_hash(kinds, modules=("diptych.claims.job",), files=[file for file, _ in files])


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
        done = CellResult.read(job.folder) if job.folder not in early else None
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
                values = "   ".join(f"{split} {result.value:.3f}" for split, result in parts.items())
                say(f"  {task} {next(iter(parts.values())).main}: {values}")
    if not results:
        raise RunError(f"no cell came to a result; the first said: {failures[0].reason}")
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


def _score_models(
    arms: Sequence[ComparedArm], whole: Any, out: Path, tasks: tuple[str, ...], say: Say
) -> tuple[list[CellResult], dict[str, dict[int, str]]]:
    """Every model on every task. Kept by the fingerprints of model and data."""
    scored, folders = [], {}
    data = [part.fingerprint for part in held_out(whole).values()]
    for number, arm in enumerate(arms):
        assert arm.model is not None
        folder = out / "models" / f"{_stem(arm.name)}-{config_hash([arm.model.fingerprint, data, tasks, arm_code(arm, tasks)])}"
        done = CellResult.read(folder)
        say(f"[{number + 1}/{len(arms)}] {arm.name}" + (": there already" if done else ""))
        if done is None:
            begin = time.perf_counter()
            results = cells.score(arm.model, whole, tasks, folder / "records")
            cost = {"wall_seconds": time.perf_counter() - begin}
            done = CellResult(arm.name, 0, False, {}, cost, results)
            done.write(folder)
        scored.append(replace(done, arm=arm.name))
        folders[arm.name] = {0: str(folder)}
    return scored, folders


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "arm"
