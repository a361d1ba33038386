"""One cell of a comparison: a recipe under one seed, trained and evaluated, in a process of its own where that is possible.

    python -m diptych.comparisons.job OUT/cells/NAME.job.json

Its own process, so that peak memory and processor time are the cell's alone and a crash costs the cell alone. What it found stands
in NAME/cell.json, inside its run folder; a crash leaves NAME.failed.json beside it. A cell that was killed goes on where its newest
checkpoint is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from diptych.claims.cell import Cell, CellResult, Results, Scores, run_cell
from diptych.claims.training import can_resume
from diptych.core.config import from_plain, to_plain
from diptych.core.contracts import Dataset, Recipe, Task
from diptych.core.disk.files import write_json
from diptych.core.errors import DiptychError, RunError
from diptych.core.own_recipes import PREFIX
from diptych.core.result import Result
from diptych.core.run_folder import RunFolder
from diptych.core.terminal.spelling import parse_name
from diptych.train.options import TrainOptions
from diptych.worlds.address import cached_for_training, held_out, open_data, training_rows, with_held_out

STDERR = 2  # the file descriptor: what a cell prints must not mix with the comparison's own output
LISTEN = 20.0  # seconds between lines about a cell at work
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Inputs of a cell.

    source  address of the data, or "" when they are an object of the calling process
    splits  held-out splits to score on; () for all
    """

    arm: str
    seed: int
    recipe: Recipe
    options: TrainOptions
    tasks: tuple[str, ...]
    folder: Path
    source: str = ""
    fingerprint: str = ""
    splits: tuple[str, ...] = ()

    @property
    def portable(self) -> bool:
        """True if another process can run the same job from addresses, without pickling anything."""
        module = type(self.recipe).__module__
        return bool(self.source) and module != "__main__" and not module.startswith(PREFIX)


# ---------------------------------------------------------------- data


def make_task(words: str, rows: Dataset | None = None) -> Task:
    """A task with its options, as in ``zero_shot:label=group_name``; a probe that trains gets the training rows."""
    from diptych.tasks import find

    name, options = parse_name(words)
    task = find(name, **options)
    return replace(task, train=rows) if rows is not None and hasattr(task, "train") else task  # type: ignore[type-var]


def score(model: Any, whole: Any, tasks: Sequence[str], records: Path, splits: Collection[str] = ()) -> Results:
    """Every task on every held-out split, or on some; the records are kept."""
    from diptych.tasks.evaluate import evaluate

    rows = training_rows(whole)
    parts = {split: part for split, part in held_out(whole).items() if not splits or split in splits}
    return {
        words: {split: evaluate(make_task(words, rows), model, part, out=records) for split, part in parts.items()}
        for words in tasks
    }


def scored_cell(job: Job, whole: Any) -> CellResult | None:
    """Result of a finished cell, None where there is none. A cell that was not scored on a split of the job is scored on it now, without
    training."""
    done = CellResult.read(job.folder)
    if done is None:
        return None
    missing = [split for split in job.splits if any(split not in parts for parts in done.results.values())]
    if not missing:
        return done
    more = _score_kept(job, whole, missing)
    results = {words: {**parts, **more[words]} for words, parts in done.results.items()}
    done = replace(done, results=results, scores=_values(results))
    done.write(job.folder)
    return done


def records_of(folder: Path, words: str, part: str) -> Path:
    """Where `score` keeps the records of a task on rows of that name, for the table (.parquet) and the result (.json)."""
    from diptych.tasks.evaluate import file_stem

    return folder / "records" / f"{file_stem(make_task(words).name, part)}.parquet"


# ---------------------------------------------------------------- one cell


def run_job(job: Job, whole: Any, *, own_process: bool = False) -> CellResult:
    """Train what is not trained yet, score it, write `cell.json`. Raises RunError when the run was asked to stop."""
    from diptych.train.fit import fit, resume

    rows = training_rows(whole)
    if job.fingerprint and rows.fingerprint != job.fingerprint:
        raise RunError(
            f"'{rows.name}' changed while it was compared: fingerprint {job.fingerprint} before, {rows.fingerprint} now"
        )
    rows = cached_for_training(rows, job.recipe)
    scored: Results = {}

    def ask(model: Any) -> Mapping[str, float]:
        scored.update(score(model, whole, job.tasks, job.folder / "records", job.splits))
        return _values(scored)

    def work(cell: Cell) -> Scores:
        if can_resume(job.folder):
            folder = resume(job.folder, rows, [("compare", ask)], kind=type(job.recipe))
        else:
            record = {"source": job.source, "arm": job.arm}
            folder = fit(job.recipe, rows, job.folder, job.options, [("compare", ask)], record=record)
        if own_process and folder.state["status"] != "finished":
            raise RunError(f"stopped after {folder.state.get('step')} steps; the same command continues it")
        folder.expect_finished()
        cell.spending.add(folder, type(job.recipe))
        scored.update({} if scored else _kept_results(job, whole))
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # the cell is finished: nothing goes on from here
        return _values(scored)

    return run_cell(Cell(job.arm, job.seed, job.folder), work, results=scored, own_process=own_process)


def _values(scored: Results) -> dict[str, float]:
    return {f"{task}/{split}": result.value for task, parts in scored.items() for split, result in parts.items()}


def _score_kept(job: Job, whole: Any, splits: Sequence[str]) -> Results:
    """Scores of the model that the cell's run has kept."""
    from diptych.models.io.open_address import open_address

    model = open_address(job.folder, device=job.options.device)
    return score(model, whole, job.tasks, job.folder / "records", splits)


def _kept_results(job: Job, whole: Any) -> Results:
    """The results of a run that was killed between its evaluation and `cell.json`; scored again where they are of other splits."""
    parts = {split: part for split, part in held_out(whole).items() if not job.splits or split in job.splits}
    files = {
        words: {split: records_of(job.folder, words, part.name).with_suffix(".json") for split, part in parts.items()}
        for words in job.tasks
    }
    if not all(path.is_file() for by_split in files.values() for path in by_split.values()):
        return _score_kept(job, whole, list(parts))
    return {
        words: {split: Result.from_json(json.loads(path.read_text(encoding="utf-8"))) for split, path in by_split.items()}
        for words, by_split in files.items()
    }


# ---------------------------------------------------------------- its own process


def run_side_by_side(jobs: Sequence[Job], count: int, say: Say) -> dict[Path, CellResult | Exception]:
    """Results, or reasons of failure, of jobs by their folders: `count` at once, each in a process of its own. When interrupted all of
    them are asked to stop."""
    stop = threading.Event()
    with ThreadPoolExecutor(count) as pool:
        begun = {job.folder: pool.submit(run_apart, job, say, stop) for job in jobs}
        try:
            wait(begun.values())
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    outcomes = {folder: (future.exception(), future) for folder, future in begun.items()}
    return {
        folder: future.result() if error is None else error if isinstance(error, Exception) else RunError(str(error))
        for folder, (error, future) in outcomes.items()
    }


def run_apart(job: Job, say: Say, stop: threading.Event | None = None) -> CellResult:
    """The same in a process of its own. Raises RunError with the reason when the cell came to nothing.

    stop  asks the process to save and stop, as Ctrl-C does
    """
    order, failed = Path(f"{job.folder}.job.json"), Path(f"{job.folder}.failed.json")
    failed.unlink(missing_ok=True)
    kind = type(job.recipe)
    plain = {**to_plain(job), "entry": f"{kind.__module__}:{kind.__qualname__}", "parent": os.getpid()}
    write_json(order, plain)
    # A session of its own: Ctrl-C reaches the comparison alone, which then asks the cell once to stop (a second time would kill).
    words = [sys.executable, "-m", "diptych.comparisons.job", str(order)]
    child = subprocess.Popen(words, stdout=STDERR, start_new_session=True)
    try:
        last_line_at = time.monotonic()
        while True:
            try:
                code = child.wait(timeout=LISTEN if stop is None else 1.0)
                break
            except subprocess.TimeoutExpired:
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt from None
                if time.monotonic() - last_line_at < LISTEN:
                    continue
                last_line_at = time.monotonic()
                if not sys.stderr.isatty() and (line := _last_line(job.folder)):
                    say(f"  {job.arm}, seed {job.seed}: {line}")
    except BaseException:
        child.send_signal(signal.SIGTERM)  # it saves and stops
        child.wait()
        raise
    result = CellResult.read(job.folder)
    if code == 0 and result is not None:
        order.unlink(missing_ok=True)
        return result
    if failed.is_file():
        raise RunError(json.loads(failed.read_text(encoding="utf-8"))["reason"])
    ended = f"was killed by signal {-code} (9 is often a lack of memory)" if code < 0 else f"ended with code {code}"
    raise RunError(f"the process of the cell {ended}")


def _last_line(folder: Path) -> str:
    line = ""
    for row in RunFolder(folder).metrics():
        if row.get("kind") == "train":
            line = f"step {row['step']}, loss {row['loss']:.3f}" if row.get("loss") is not None else ""
    return line


def main(path: Path) -> int:
    """Read a job and do it."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    parent = plain.pop("parent")
    threading.Thread(target=_stop_without, args=(parent,), daemon=True).start()
    module, _, name = plain.pop("entry").partition(":")
    kind = getattr(import_module(module), name)
    failed = path.with_name(path.name.removesuffix(".job.json") + ".failed.json")
    try:
        job = Job(
            **{
                **plain,
                "recipe": from_plain(kind, plain["recipe"]),
                "options": from_plain(TrainOptions, plain["options"]),
                "tasks": tuple(plain["tasks"]),
                "splits": tuple(plain["splits"]),
                "folder": Path(plain["folder"]),
            }
        )
        run_job(job, with_held_out(open_data(job.source)), own_process=True)  # as the comparison had them
    except Exception as error:
        own = isinstance(error, DiptychError)
        write_json(failed, {"reason": str(error) if own else f"{type(error).__name__}: {error}"})
        if not own:
            raise
        return 1
    return 0


def _stop_without(parent: int) -> None:
    """When the comparison itself was killed, save and stop: two processes must not write one cell."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
