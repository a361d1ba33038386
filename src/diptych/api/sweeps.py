"""Sweeps over fields of a recipe by Optuna: trials that are pruned, killed and gone on with, by one process or several.

OUT/sweep.json      what is swept; another sweep in the folder is refused
OUT/journal.log     Optuna's storage, unless one is named
OUT/trials/0007/    the run folder of a trial
OUT/best.yaml, trials.csv, sweep.html
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from diptych.core.config import prepared_fields, to_plain
from diptych.core.contracts import Recipe
from diptych.core.disk.files import write_atomic, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.errors import ConfigError, DiptychError, MissingExtra, RunError
from diptych.core.own_recipes import recipe_file_address
from diptych.core.randomness import keyed_seed
from diptych.core.run_folder import RunFolder
from diptych.core.terminal import notebook
from diptych.worlds.address import HELD_OUT, cached_for_training, training_rows, with_held_out

if TYPE_CHECKING:
    from diptych.train.options import TrainOptions

from diptych.api.checking import refuse_missing, refuse_unmeasurable, validators
from diptych.api.data import read
from diptych.api.recipes import recipe
from diptych.api.sweep_ranges import SweepRange, sweep_ranges

Say = Callable[[str], None]
Sampler = Literal["tpe", "random", "grid"]
OWNER = "owner"
REASON = "reason"


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """A trial: `state` is finished, pruned, failed or running; `value` NaN before the first evaluation."""

    number: int
    state: str
    value: float
    fields: dict[str, Any]
    steps: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Outcome of a sweep: `best` trial or None, all `trials`, and the importance of each field (a share of the variance between trials).

    >>> dp.sweep("clip", "emoji", over=["lr=log(1e-4,1e-2)"], trials=20).best.fields     # doctest: +SKIP
    """

    out: Path
    metric: str
    ranges: tuple[SweepRange, ...]
    trials: tuple[SweepTrial, ...]
    importance: Mapping[str, float] = field(default_factory=dict)

    @property
    def best(self) -> SweepTrial | None:
        """The finished trial with the highest value."""
        done = [trial for trial in self.trials if trial.state == "finished"]
        return max(done, key=lambda trial: trial.value, default=None)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each trial, its fields among the columns."""
        return [
            {
                "trial": one.number,
                "state": one.state,
                self.metric: one.value,
                **one.fields,
                "steps": one.steps,
                "reason": one.reason,
            }
            for one in self.trials
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each trial."""
        return notebook.frame(self.rows())

    def to_json(self) -> dict[str, Any]:
        rows = [{name: None if isinstance(x, float) and math.isnan(x) else x for name, x in row.items()} for row in self.rows()]
        best = self.best
        return {
            "out": str(self.out),
            "metric": self.metric,
            "over": [str(one) for one in self.ranges],
            "best": best and {"trial": best.number, "value": best.value, "fields": best.fields},
            "importance": dict(self.importance),
            "trials": rows,
        }

    def lines(self) -> list[str]:
        """Lines for people: counts, the best trial, importance."""
        states = [trial.state for trial in self.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines = [f"{len(states)} trials: {counts}"]
        if best := self.best:
            words = _shown(best.fields)
            lines.append(f"best: trial {best.number}, {self.metric} {best.value:.4f}: {words}")
        lines += [f"  {name:<20}importance {share:.2f}" for name, share in self.importance.items()]
        lines += [f"  trial {trial.number} failed: {trial.reason}" for trial in self.trials if trial.state == "failed"][:3]
        return lines


def sweep(
    name: str | Recipe,
    data: Any,
    *,
    over: Mapping[str, Any] | Sequence[str],
    trials: int = 20,
    out: str | Path = "runs/sweep",
    metric: str = "",
    prune: bool = False,
    prune_after: int = 5,
    evaluations: int = 5,
    sampler: Sampler = "tpe",
    seed: int = 0,
    storage: str = "",
    preset: str = "tiny",
    options: TrainOptions | None = None,
    hold_out: float = HELD_OUT,
    say: Say | None = None,
    **changes: Any,
) -> Sweep:
    """Try values of a recipe's fields, judged on the split "val"; test rows are not read. The same call goes on after a kill.

    over     "lr=log(1e-4,1e-2)", "warmup=uniform(0,50)", "batch_size=64,128"; or {"lr": "log(1e-4,1e-2)", "batch_size": [64, 128]}
    trials   in all, those of other processes and those that failed among them
    metric   of the evaluation, such as "r@1"; "" takes the task's main one. Higher is better
    prune    end a trial whose value is below the median of the others at the same step, from the `prune_after`-th trial on
    evaluations  of a trial, evenly spaced, of which the pruner hears
    sampler  "tpe" (Optuna's), "random", or "grid" over fields with choices alone
    storage  address of a database for several machines, as Optuna takes it; "" is a file in `out`, for several processes
    options  how each trial is carried out; changes: fields of the recipe

    Raises ConfigError for a range that cannot be, RunError for another sweep in `out` or where every trial failed.
    """
    from diptych.train.options import TrainOptions

    optuna = _optuna()
    made = recipe(name, preset=preset, **changes)
    ranges = sweep_ranges(over, made)
    if trials < 1 or evaluations < 1 or prune_after < 1:
        raise ConfigError(f"trials is {trials}, evaluations {evaluations}, prune_after {prune_after} (expected 1 or more)")
    if not made.steps and all(one.name != "steps" for one in ranges):
        raise ConfigError(f"'{made.slug}' has no number of steps (expected steps=N among its fields)")
    if sampler not in ("tpe", "random", "grid"):
        raise ConfigError(f"sampler is {sampler!r} (expected tpe, random or grid)")
    if sampler == "grid" and any(not one.choices for one in ranges):
        raise ConfigError("a grid needs values for every field (expected FIELD=A,B,C; or the sampler tpe)")
    given = read(data)
    whole = with_held_out(given, hold_out, val=True)
    rows = training_rows(whole)
    refuse_missing(made, rows)
    refuse_unmeasurable(made)
    folder = Path(out)
    work = _Sweeping(
        made, whole, rows, ranges, folder, metric, evaluations, options or TrainOptions(progress=False), say or (lambda line: None),
        {"source": str(data) if isinstance(data, str | Path) else "", "held_out": float(hold_out) if whole is not given else 0.0,
         "held_out_val": whole is not given},
    )  # fmt: skip
    work.begin()
    study = _study(optuna, folder, storage, work.definition["study"], sampler, seed, prune, prune_after)
    while (trial := _next_trial(optuna, study, folder, trials, sampler, seed, ranges)) is not None:
        work.run(optuna, study, trial)
    done = outcome(optuna, study, work)
    if done.trials and all(trial.state == "failed" for trial in done.trials):
        raise RunError(f"every trial of {folder} failed; the first error was: {done.trials[0].reason}")
    work.write(done)
    return done


@dataclass
class _Sweeping:
    """One process at work on a sweep."""

    recipe: Recipe
    whole: Any
    rows: Any
    ranges: tuple[SweepRange, ...]
    out: Path
    metric: str
    evaluations: int
    options: TrainOptions
    say: Say
    record: dict[str, Any]

    @property
    def definition(self) -> dict[str, Any]:
        """Definition of the sweep, as plain values; a folder holds one."""
        hidden = prepared_fields(type(self.recipe))
        plain = {name: value for name, value in to_plain(self.recipe).items() if name not in hidden}
        return {
            "recipe": recipe_file_address(type(self.recipe)) or self.recipe.slug,
            "over": [str(one) for one in self.ranges],
            "metric": self.metric,
            "data": self.rows.fingerprint,
            "fields": {name: value for name, value in plain.items() if name not in {one.name for one in self.ranges}},
            "study": "diptych",
        }

    def begin(self) -> None:
        """Write down what is swept. Raises RunError for a folder that holds another sweep, or something else."""
        file = self.out / "sweep.json"
        if file.is_file():
            before = read_object(file)
            for name, value in self.definition.items():
                if before.get(name) != value:
                    raise RunError(
                        f"{self.out} holds a sweep with other {name} ({_short(before.get(name), value)}): choose another --out"
                    )
            return
        if self.out.is_dir() and any(self.out.iterdir()):
            raise RunError(f"{self.out} is not empty and contains no sweep: choose another --out")
        write_json(file, self.definition)

    def folder(self, number: int) -> Path:
        return self.out / "trials" / f"{number:04d}"

    def run(self, optuna: Any, study: Any, trial: Any) -> None:
        """Train a trial, or go on with it, and tell the study what came of it."""
        states = optuna.trial.TrialState
        fields_ = {one.name: one.suggest(trial) for one in self.ranges}
        words = _shown(fields_)
        try:
            value = self._train(optuna, trial, fields_)
        except optuna.TrialPruned:
            RunFolder(self.folder(trial.number)).write_state(status="pruned", error=None)
            study.tell(trial.number, state=states.PRUNED)
            self.say(
                f"trial {trial.number}: {words}: pruned at step {max(trial.storage.get_trial(trial._trial_id).intermediate_values)}"
            )
        except Exception as error:  # any error of a recipe fails only its own trial
            reason = str(error) if isinstance(error, DiptychError) else f"{type(error).__name__}: {error}"
            trial.set_user_attr(REASON, reason)
            study.tell(trial.number, state=states.FAIL)
            self.say(f"trial {trial.number}: {words}: failed: {reason}")
        else:
            study.tell(trial.number, value)
            self.say(f"trial {trial.number}: {words}: {value:.4f}")

    def _train(self, optuna: Any, trial: Any, fields_: Mapping[str, Any]) -> float:
        from diptych.core.config import with_changes
        from diptych.train.fit import fit, resume

        made = with_changes(self.recipe, fields_)
        path = self.folder(trial.number)
        every = max(1, math.ceil(made.steps / self.evaluations))
        options = replace(self.options, eval_every=every, save_every=min(self.options.save_every or every, every))
        rows = cached_for_training(self.rows, made)
        made = made.prepare(rows)
        run = RunFolder(path)
        evaluators = [(name, self._reporting(optuna, trial, ask, run)) for name, ask in validators(made, self.whole, options)]
        if (path / "run.json").is_file():
            if run.state["status"] == "running" and not run.state.get("begun"):
                run = fit(made, rows, path, options, evaluators, record=self.record, overwrite=True)
            else:
                run = resume(path, rows, evaluators, kind=type(made))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            run = fit(made, rows, path, options, evaluators, record=self.record)
        run.expect_finished()
        return self._value_of([line for line in run.metrics() if line["kind"] == "eval"][-1])

    def _reporting(self, optuna: Any, trial: Any, ask: Any, run: RunFolder) -> Any:
        """The evaluation, which also tells the pruner; a trial that it gives up ends there."""

        def measured(model: Any) -> Mapping[str, float]:
            values: Mapping[str, float] = ask(model)
            before = [line["step"] for line in run.metrics() if line["kind"] == "eval"]
            every = int(run.config["run"]["eval_every"])
            step = min((max(before, default=0) // every + 1) * every, int(run.config["recipe"]["steps"]))
            with suppress(RuntimeError):  # another process has reported it
                trial.report(self._value_of(values), step)
                if step < run.config["recipe"]["steps"] and trial.should_prune():
                    raise optuna.TrialPruned
            return values

        return measured

    def _value_of(self, values: Mapping[str, Any]) -> float:
        """The metric among those of an evaluation, whose names may have that of the task before them."""
        named = {str(name).rpartition("/")[2]: value for name, value in values.items() if isinstance(value, int | float)}
        main = self.metric or _main_metric(self.recipe, named)
        if main not in named:
            shown = ", ".join(name for name in named if name not in ("step", "seconds"))
            raise ConfigError(f"the evaluation has no metric '{main}' (expected one of {shown})")
        return float(named[main])

    def write(self, done: Sweep) -> None:
        """best.yaml, trials.csv and the page."""
        from diptych.report.pages.sweep import sweep_page

        text = io.StringIO()
        rows = done.rows()
        table = csv.DictWriter(text, list(rows[0]) if rows else ["trial"])
        table.writeheader()
        table.writerows(rows)
        write_atomic(self.out / "trials.csv", text.getvalue())
        if best := done.best:
            config = RunFolder(self.folder(best.number)).config
            hidden = prepared_fields(type(self.recipe))
            fields_ = {name: value for name, value in config["recipe"].items() if name not in hidden}
            begun = {"recipe": recipe_file_address(type(self.recipe)) or self.recipe.slug, "data": self.record["source"]}
            sections = {"train": {name: value for name, value in begun.items() if value}, "recipe": fields_}
            write_atomic(self.out / "best.yaml", yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))
        sweep_page(self.out / "sweep.html", done.to_json(), {one.name: one.log for one in done.ranges})


def outcome(optuna: Any, study: Any, work: _Sweeping) -> Sweep:
    """The trials of a study so far, with the importance of the fields where there are enough of them."""
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "running"}
    trials = []
    for one in study.get_trials(deepcopy=False):
        steps = max(one.intermediate_values, default=0)
        value = one.value if one.value is not None else one.intermediate_values.get(steps, math.nan)
        fields_ = {each.name: each.value_of(one.params[each.name]) for each in work.ranges if each.name in one.params}
        trials.append(
            SweepTrial(one.number, names[one.state.name], float(value), fields_, steps, str(one.user_attrs.get(REASON, "")))
        )
    importance: dict[str, float] = {}
    values = {trial.value for trial in trials if trial.state == "finished"}
    if len(work.ranges) > 1 and len(values) > 1:
        with suppress(ValueError, RuntimeError):  # too few trials that differ
            importance = dict(optuna.importance.get_param_importances(study))
    return Sweep(work.out, work.metric or "value", work.ranges, tuple(trials), importance)


def _main_metric(made: Recipe, named: Mapping[str, Any]) -> str:
    from diptych.report.pages.run import MAIN

    return next((name for name in MAIN if name in named), next(iter(named), ""))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "sweep", needed_for="diptych sweep") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, out: Path, storage: str, name: str, sampler: Sampler, seed: int, prune: bool, prune_after: int) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        kept = storage or JournalStorage(JournalFileBackend(str(out / "journal.log")))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=prune_after) if prune else optuna.pruners.NopPruner()
        return optuna.create_study(
            storage=kept, study_name=name if not storage else f"{name}-{out.resolve().name}", direction="maximize",
            load_if_exists=True, pruner=pruner, sampler=_sampler(optuna, sampler, seed, 0),
        )  # fmt: skip
    except Exception as error:  # any error of the database
        raise RunError(f"the storage {storage or out / 'journal.log'} cannot be used: {type(error).__name__}: {error}") from error


def _sampler(optuna: Any, sampler: Sampler, seed: int, drawn: int) -> Any:
    """A sampler whose draws depend on the seed and on how many trials there are, so that one that begins again repeats none."""
    own = keyed_seed(seed, "sweep", drawn) % 2**31
    return (
        optuna.samplers.TPESampler(seed=own, constant_liar=True) if sampler == "tpe" else optuna.samplers.RandomSampler(seed=own)
    )


def _next_trial(
    optuna: Any, study: Any, out: Path, trials: int, sampler: Sampler, seed: int, ranges: Sequence[SweepRange]
) -> Any:
    """A trial whose process is gone, else a new one; None if there are as many as asked for."""
    running, waiting = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING
    drawn = study.get_trials(deepcopy=False)
    for one in drawn:
        if one.state == running and _abandoned(one.user_attrs.get(OWNER, "")):
            trial = optuna.trial.Trial(study, one._trial_id)
            trial.set_user_attr(OWNER, _owner())
            return trial
    if sampler == "grid" and not drawn:
        for labels in list(itertools.product(*(one.labels for one in ranges)))[:trials]:
            study.enqueue_trial(dict(zip((one.name for one in ranges), labels, strict=True)))
        drawn = study.get_trials(deepcopy=False)
    if not any(one.state == waiting for one in drawn) and (sampler == "grid" or len(drawn) >= trials):
        return None
    study.sampler = _sampler(optuna, sampler, seed, len(drawn))
    trial = study.ask()
    trial.set_user_attr(OWNER, _owner())
    return trial


def _owner() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _abandoned(owner: str) -> bool:
    """True if the process that had a trial is gone; a process of another machine is believed to be at work."""
    host, _, number = owner.rpartition(":")
    if not owner or host != platform.node():
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _shown(values: Mapping[str, Any]) -> str:
    """Fields of a trial in one line."""
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())


def _short(before: Any, now: Any) -> str:
    """The first difference of two plain values, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        name = next((name for name in [*before, *now] if before.get(name) != now.get(name)), "")
        return f"{name} {before.get(name)!r:.40}, now {now.get(name)!r:.40}"
    return f"{before!r:.60}, now {now!r:.60}"
