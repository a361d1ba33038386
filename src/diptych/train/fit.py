"""Trains a recipe: the training loop, from the first batch to the model folder.

    diptych train clip --data emoji --out runs/clip --steps 200          # on two cores, in minutes
    torchrun --nproc-per-node 8 --no-python diptych train clip --data pairs/ --out runs/clip --shard fsdp

A run that was killed at any moment and is continued by `resume` ends in the same bytes as one that never stopped: the order of
the samples is a pure function of the seed, every sample and every step has random numbers of its own, and a checkpoint appears
whole or not at all. SIGTERM and Ctrl-C finish the step, save, and leave the run "stopped"; a second one ends at once.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diptych.core.config import config_hash, from_plain, save_config
from diptych.core.contracts import Dataset, Recipe
from diptych.core.disk.files import write_atomic
from diptych.core.environment import environment
from diptych.core.errors import ConfigError, RunError
from diptych.core.grouped_fields import out_of_groups
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.core.terminal.signals import SignalWatch, StopRequested
from diptych.data.load.computed_order import VERSION as ORDER_VERSION
from diptych.train import checkpoint
from diptych.train.best import best_so_far, evaluation_interval, out_of_patience, promote, tracks_best
from diptych.train.checkpoint import Checkpoint
from diptych.train.devices.tracing import StepTrace
from diptych.train.log import Log
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext, all_reduce_max, barrier, join_world
from diptych.train.precision import deterministic, wants_deterministic
from diptych.train.provenance import keep_config, record_provenance
from diptych.train.rank_watchdog import RankLost, RankWatchdog, StopReason
from diptych.train.stages import plan
from diptych.train.state import Training
from diptych.train.trackers import TRACKERS
from diptych.train.tuning.fine_tuning import deployable, save_adapters

Evaluator = tuple[str, Callable[[Any], Mapping[str, float]]]
"""A name, and what makes named numbers of a `Deployable`."""
RESUMABLE = frozenset(
    {
        "workers",
        "save_every",
        "keep",
        "micro_batch",
        "device",
        "shard",
        "checkpoint_layers",
        *TRACKERS,
        "progress",
        "part_norms",
        "silence",
        "profile",
        "board_tags",
        "board_group",
    }
)
"""Options that a resumed run may have otherwise."""


def fit(
    recipe: Recipe,
    data: Dataset,
    out: Path | str,
    options: TrainOptions | None = None,
    evaluators: Sequence[Evaluator] = (),
    *,
    record: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    begun: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> RunFolder:
    """Trains `recipe` on `data` into the new run folder `out`.

    record  plain values kept in `run.json`, such as where the data came from
    begun   section "train" of config.yaml: data and options by which it can be started again
    files   texts kept in the run folder by their names, such as a list of uids
    overwrite  replace a run that lies in `out`
    Raises RunError when `out` holds something already. A run that fails before its first step leaves nothing behind.
    Under `torchrun` every process calls it with the same arguments.
    """
    options = options or TrainOptions()
    out = Path(out)
    with join_world(options.device, options.shard) as world, RunFolder(out).locked(world.main):
        recipe = recipe.prepare(data)
        plan(recipe, data, options)  # refuses what cannot work before anything is written
        if world.main:
            folder = RunFolder.create(out, slug=recipe.slug, environment=environment(), overwrite=overwrite)
            save_config(out, {**({"train": dict(begun)} if begun else {}), "recipe": recipe, "run": options})
            for name, text in (files or {}).items():
                write_atomic(out / name, text)
            about = {"name": data.name, "fingerprint": data.fingerprint}
            folder.write_state(data=about, order=ORDER_VERSION, **(record or {}))
            record_provenance(folder, recipe)
        barrier(world)
        folder = RunFolder.open(out)
        try:
            return _train(folder, recipe, data, options, world, evaluators, None, [])
        except Exception:
            if world.main and not folder.state.get("begun"):
                folder.give_back()
            raise


def resume(
    path: Path | str,
    data: Dataset,
    evaluators: Sequence[Evaluator] = (),
    *,
    kind: type[Recipe] | None = None,
    changes: Mapping[str, Any] | None = None,
    steps: int = 0,
    notes: Sequence[str] = (),
) -> RunFolder:
    """Continues the run in folder `path` from its newest whole checkpoint; a finished run is returned as it is, unless it is to take more
    steps.

    data     the data of the run: refused when its fingerprint is another
    kind     the class of the recipe; None looks the run's slug up among the recipes
    changes  options that do not change what is learned (`RESUMABLE`), for a run that goes on elsewhere; the others are those of the run
    steps    of a finished run: train on to this many in all. The learning rate goes on from where it would stand in a run of that
             length, so a schedule that had come down goes up again
    notes    lines for the log, such as what changed since the run began
    The number of processes may differ; then only dropout draws other numbers.
    """
    folder = RunFolder.open(Path(path))
    if folder.state["status"] == "finished" and not steps:
        return folder
    if steps and folder.state["status"] != "finished":
        raise RunError(
            f"{folder.path} is {folder.state['status']}: more steps are for a finished run (go on with it first: --resume)"
        )
    if not (folder.path / "config.yaml").is_file() or "data" not in folder.state:
        raise RunError(f"{folder.path} was stopped before it began: start it again with --overwrite")
    recorded = folder.state["data"]
    if recorded["fingerprint"] not in (data.fingerprint, _earlier_fingerprint(folder, data)):
        raise RunError(f"{folder.path} was trained on '{recorded['name']}' as it was then; '{data.name}' differs from it now")
    config = folder.config
    recipe = from_plain(kind or RECIPES.load(folder.state["slug"]), config["recipe"])
    if fixed := sorted(set(changes or {}) - RESUMABLE):
        raise ConfigError(f"{fixed[0]} cannot change in the middle of a run (these can: {', '.join(sorted(RESUMABLE))})")
    options = from_plain(TrainOptions, {**config["run"], **(changes or {})})
    if steps:
        options = _longer(folder, recipe, data, options, steps)
    with join_world(options.device, options.shard) as world, folder.locked(world.main):
        if world.main:
            checkpoint.sweep(folder.checkpoints)
        barrier(world)
        begin, damaged = checkpoint.newest(folder.checkpoints, world)
        notes = [*notes, *damaged]
        if steps and begin is None:
            raise RunError(f"{folder.path} has no checkpoint to go on from: start a new run with --init {folder.path}")
        if begin is None and folder.state.get("step"):
            raise RunError(
                f"{folder.path} took {folder.state['step']} steps, and its checkpoints are gone: put them back into "
                f"{folder.checkpoints}, or start it again with --overwrite"
            )
        if steps and world.main:
            begun = {"train": config["train"]} if "train" in config else {}
            save_config(folder.path, {**begun, "recipe": recipe, "run": options})
            if folder.source.is_dir():
                keep_config(folder)
        if begin is not None and begin.state["recipe"] != config_hash(out_of_groups(recipe)):
            raise RunError(f"{folder.path}: config.yaml is not the configuration that the checkpoint was trained with")
        if begin is not None and begin.state["processes"] != world.size:
            notes.append(f"went on with {world.size} processes after {begin.state['processes']}")
        return _train(folder, recipe, data, options, world, evaluators, begin, notes)


def _earlier_fingerprint(folder: RunFolder, data: Dataset) -> str:
    """Of memory-mapped data, what a run that began before they were mapped knows them by; "" if there is no such run."""
    if "order" in folder.state or not getattr(data, "is_mapped", False):
        return ""
    fingerprint: str = data.content_fingerprint()  # type: ignore[attr-defined]
    return fingerprint


def _longer(folder: RunFolder, recipe: Recipe, data: Dataset, options: TrainOptions, steps: int) -> TrainOptions:
    """The options of a finished run for this many steps in all."""
    before, options = plan(recipe, data, options), replace(options, steps=steps)
    after, done = plan(recipe, data, options), before[-1].stop
    if len(after) > 1:
        names = ", ".join(phase.stage.name for phase in after)
        raise RunError(
            f"{folder.path} has stages ({names}), whose shares of the steps are set: start a new run with --init {folder.path}"
        )
    if after[-1].stop <= done:
        raise ConfigError(f"{folder.path} has taken {done} steps (expected more than those: --steps {2 * done})")
    return options


def _train(
    folder: RunFolder,
    recipe: Recipe,
    data: Dataset,
    options: TrainOptions,
    world: DistributedContext,
    evaluators: Sequence[Evaluator],
    begin: Checkpoint | None,
    notes: list[str],
) -> RunFolder:
    """Training with log, signals and status; on any error the folder records it and can be resumed."""
    phases = plan(recipe, data, options)
    start = begin.step if begin else 0
    if world.main:
        folder.write_state(status="running", error=None, signal=None)

    def note_stop() -> None:
        if world.main:
            _note_end(folder, "stopped", signal=stop.number)

    def note_verdict(verdict: StopReason) -> None:
        _note_end(folder, verdict.status, verdict.reason)

    stop = SignalWatch(before_end=note_stop)
    hint = f"go on with: diptych train --resume {folder.path}"
    try:
        with (
            stop,
            RankWatchdog(world, options.silence, stop_requested=lambda: stop.stop_requested, ended=note_verdict, hint=hint),
            Log(
                folder,
                start=start,
                steps=phases[-1].stop,
                boards=[name for name in TRACKERS if getattr(options, name)],
                progress=options.progress,
                main=world.main,
            ) as log,
            StepTrace(options.profile, folder.trace_file(world.rank), world.device) as trace,
            deterministic(wants_deterministic(options.deterministic, world.device)),
        ):
            for note in notes:
                log.note(start, note)
            run = Training(recipe, data, options, world, folder, log, phases)
            finished = _loop(run, evaluators, stop, begin, trace)
            run.saved()
            log.ended = "finished" if finished else "stopped"
    except KeyboardInterrupt:  # a second Ctrl-C
        note_stop()
        raise
    except RankLost as error:
        if world.main or error.speaks:
            _note_end(folder, error.status, str(error))
        if error.speaks:
            raise
        raise SystemExit(1) from error
    except BaseException as error:
        if world.main:
            _note_end(folder, "failed", f"{type(error).__name__}: {error}")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise RunError(f"the disk of {folder.path} is full: make room and --resume; the checkpoints are whole") from error
        raise
    if world.main:
        folder.write_state(status="finished" if finished else "stopped", step=run.step, signal=stop.number)
    barrier(world)
    return folder


def _note_end(folder: RunFolder, status: str, error: str | None = None, **more: Any) -> None:
    """Record the status of an unfinished run: its error, and the step of the checkpoint from which it resumes."""
    with suppress(OSError):  # a full disk must not hide what happened
        folder.write_state(status=status, error=error, step=max(checkpoint.steps_of(folder.checkpoints), default=0), **more)


def _loop(run: Training, evaluators: Sequence[Evaluator], stop: SignalWatch, begin: Checkpoint | None, trace: StepTrace) -> bool:
    """The one loop, regardless of the engine. A kill between any two lines costs the steps since the last checkpoint and nothing else."""
    options, hooks, every = run.options, run.hooks, evaluation_interval(run.options, run.steps)
    first = begin.state["stage"] if begin else 0
    for phase in run.phases[first:]:
        resumed = begin is not None and phase.index == first
        try:
            run.enter(phase, begin if resumed else None)
        except StopRequested:  # while a stage made its samples: those that there are already are kept
            return False
        hooks = run.hooks
        if begin is None and phase.index == 0 and (options.init or run.tuning.changes_start):
            run.deploy_to(run.folder.start)
        if phase.index == first:
            for hook in hooks.values():
                hook.on_start(run)
        if not resumed:
            for hook in hooks.values():
                hook.on_stage(run, phase.stage)
        run.restart_clock()
        while run.step < phase.stop:
            if run.engine.descends and every and run.step and run.step % every == 0:
                evaluate(run, evaluators)
                if _keep_best(run) and phase is run.phases[-1]:
                    break
            if options.save_every and run.step and run.step % options.save_every == 0:
                run.save()
            if stopped := run.stopped_by(stop.number):
                stop.number = stopped
                run.save()
                return False
            if (epoch := run.epoch_begins) is not None:
                for hook in hooks.values():
                    hook.on_epoch(run, epoch)
            batch = run.next_batch()
            for hook in hooks.values():
                hook.before_step(run, batch)
            losses = run.report(run.take_step(batch))
            run.saved(wait=False)
            if begin is None and run.step == 1 and run.world.main:
                run.folder.write_state(begun=True)
                run.folder.settle()
            for hook in hooks.values():
                hook.after_step(run, losses)
            trace.step()
        run.finish()
        run.save()  # before the hooks, which run again when the run resumes from here
        for hook in hooks.values():
            hook.on_stage_end(run, phase.stage)
    for hook in hooks.values():
        hook.on_end(run)
    evaluate(run, evaluators)  # of what is deployed
    run.deploy_to(run.folder.model)
    if tracks_best(options) and run.folder.best.is_dir():
        best = best_so_far(run.folder)
        barrier(run.world)  # before the folder goes
        if best is not None and best.step < run.step:
            if run.world.main:
                promote(run.folder, run.folder.best)
                run.journal.note(run.step, f"model/ is that of step {best.step:,}, the best by the split val")
            return _without_best(run)
        _without_best(run)
    _save_adapters(run)
    return True


def _save_adapters(run: Training) -> None:
    if run.tuning.lora:
        whole = run.whole_model()
        if run.world.main:
            save_adapters(run.recipe, whole, run.tuning, run.folder)


def _without_best(run: Training) -> bool:
    """The folder of the best moment has done its work."""
    if run.world.main:
        shutil.rmtree(run.folder.best, ignore_errors=True)
    barrier(run.world)
    return True


def _keep_best(run: Training) -> bool:
    """After an evaluation: keep the model where it is the best so far. Whether the run is to end, since nothing better came for long."""
    if not tracks_best(run.options):
        return False
    best = best_so_far(run.folder) if run.world.main else None
    if all_reduce_max(int(best is not None and best.step == run.step), run.world):
        run.deploy_to(run.folder.best)
        _save_adapters(run)
        run.restart_clock()
    ends = bool(all_reduce_max(int(out_of_patience(run.options, best)), run.world))
    if ends and best is not None:
        run.note(f"ended at step {run.step:,}: nothing better than step {best.step:,} in {best.since} evaluations")
    return ends


def evaluate(run: Training, evaluators: Sequence[Evaluator]) -> None:
    """Run every evaluator and log one line of their metrics, unless the log has this step's already. Runs on the main process."""
    if not evaluators:
        return
    run.settle()
    deployed = deployable(run.recipe, run.whole_model())
    if run.world.main and run.journal.evaluated < run.step:
        with torch.no_grad():
            numbers = {f"{name}/{key}": value for name, ask in evaluators for key, value in ask(deployed).items()}
        run.log("eval", **numbers)
    run.learning()
    barrier(run.world)
    run.restart_clock()
