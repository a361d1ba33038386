"""One cell of a comparison: an arm under one seed, trained and evaluated, in a process of its own where that is possible.

    python -m diptych.claims.cell OUT/cells/NAME.job.json

Its own process, so that peak memory and processor time are the cell's alone and a crash costs the cell alone. What it found stands
in NAME/cell.json, inside its run folder; a crash leaves NAME.failed.json beside it. A cell that was killed goes on where its newest
checkpoint is.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from diptych.claims.spelling import spelled
from diptych.core.config import from_plain, to_plain
from diptych.core.contracts import Dataset, Recipe, Task
from diptych.core.errors import DiptychError, RunError
from diptych.core.files import write_json
from diptych.core.result import Result
from diptych.core.run_folder import RunFolder
from diptych.train.options import TrainOptions
from diptych.worlds.address import as_drawn, held_out, open_data, training_rows

FORMAT = 1
STDERR = 2  # the file descriptor: what a cell prints must not mix with the comparison's own output
LISTEN = 20.0  # seconds between lines about a cell at work
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What a cell is told. `source` is the address of the data, or "" when they are an object of the calling process."""

    arm: str
    seed: int
    recipe: Recipe
    options: TrainOptions
    tasks: tuple[str, ...]
    folder: Path
    source: str = ""
    fingerprint: str = ""

    @property
    def portable(self) -> bool:
        """Whether another process can be told the same: by addresses, without pickling anything."""
        return bool(self.source) and type(self.recipe).__module__ != "__main__"


@dataclass(frozen=True, slots=True)
class CellResult:
    """Results by task and split, and what they cost; see `report/measured.py` for the units."""

    arm: str
    seed: int
    steps: int
    resumed: bool
    cost: dict[str, float]
    results: dict[str, dict[str, Result]] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> CellResult | None:
        """The result of a finished cell; None when there is none yet."""
        path = folder / "cell.json"
        if not path.is_file():
            return None
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            raise RunError(f"{path} has format {plain['format']}; this version reads {FORMAT}")
        results = {
            task: {split: Result.from_json(result) for split, result in parts.items()} for task, parts in plain["results"].items()
        }
        cost = {name: math.nan if value is None else value for name, value in plain["cost"].items()}
        return cls(plain["arm"], plain["seed"], plain["steps"], plain["resumed"], cost, results)

    def write(self, folder: Path) -> None:
        cost = {name: None if math.isnan(value) else value for name, value in self.cost.items()}
        results = {task: {split: result.to_json() for split, result in parts.items()} for task, parts in self.results.items()}
        plain = {"format": FORMAT, "arm": self.arm, "seed": self.seed, "steps": self.steps, "resumed": self.resumed}
        write_json(folder / "cell.json", {**plain, "cost": cost, "results": results})


# ---------------------------------------------------------------- data


def make_task(words: str, rows: Dataset | None = None) -> Task:
    """A task with its options, as in ``zero_shot:label=group_name``; a probe that trains gets the training rows."""
    from diptych.tasks import find

    name, options = spelled(words)
    task = find(name, **options)
    return replace(task, train=rows) if rows is not None and hasattr(task, "train") else task  # type: ignore[type-var]


def score(model: Any, whole: Any, tasks: tuple[str, ...], records: Path) -> dict[str, dict[str, Result]]:
    """Every task on every held-out split; the records are kept."""
    from diptych.tasks.evaluate import evaluate

    rows = training_rows(whole)
    return {
        words: {split: evaluate(make_task(words, rows), model, part, out=records) for split, part in held_out(whole).items()}
        for words in tasks
    }


def records_of(folder: Path, words: str, part: str) -> Path:
    """Where `score` keeps the records of a task on rows of that name, for the table (.parquet) and the result (.json)."""
    from diptych.tasks.evaluate import file_stem

    return folder / "records" / f"{file_stem(make_task(words).name, part)}.parquet"


# ---------------------------------------------------------------- one cell


def run_cell(job: Job, whole: Any, *, own_process: bool = False) -> CellResult:
    """Train what is not trained yet, score it, write `cell.json`. Raises RunError when the run was asked to stop."""
    from diptych.train.fit import fit, resume

    rows = training_rows(whole)
    if job.fingerprint and rows.fingerprint != job.fingerprint:
        raise RunError(
            f"'{rows.name}' changed while it was compared: fingerprint {job.fingerprint} before, {rows.fingerprint} now"
        )
    rows = as_drawn(rows, job.recipe)
    scored: dict[str, dict[str, Result]] = {}

    def ask(model: Any) -> Mapping[str, float]:
        scored.update(score(model, whole, job.tasks, job.folder / "records"))
        return {f"{task}/{split}": result.value for task, parts in scored.items() for split, result in parts.items()}

    wall, cpu = time.perf_counter(), _cpu_seconds()
    resumed = _begun(job.folder)
    if resumed:
        folder = resume(job.folder, rows, [("compare", ask)], kind=type(job.recipe))
    else:
        record = {"source": job.source, "arm": job.arm}
        folder = fit(job.recipe, rows, job.folder, job.options, [("compare", ask)], record=record)
    if folder.state["status"] != "finished":
        raise RunError(f"stopped after {folder.state.get('step')} steps; the same command goes on with it")
    results = scored or _kept(job, whole)
    cost = {
        "wall_seconds": math.nan if resumed else time.perf_counter() - wall,
        "cpu_seconds": math.nan if resumed else _cpu_seconds() - cpu,
        "peak_memory": _peak_memory() if own_process else math.nan,
        **_speed(folder, job.recipe.batch_size),
        **_parameters(folder, type(job.recipe)),
    }
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # the cell is finished: nothing goes on from here
    done = CellResult(job.arm, job.seed, folder.state["step"], resumed, cost, results)
    done.write(job.folder)
    return done


def _begun(folder: Path) -> bool:
    """Whether there is a run to go on with; one that was killed before it wrote its configuration is removed."""
    if not folder.exists():
        return False
    if (folder / "run.json").is_file() and (folder / "config.yaml").is_file() and "data" in RunFolder.open(folder).state:
        return True
    shutil.rmtree(folder)
    return False


def _kept(job: Job, whole: Any) -> dict[str, dict[str, Result]]:
    """The results of a run that was killed between its evaluation and `cell.json`."""

    def read(words: str, part: Dataset) -> Result:
        path = records_of(job.folder, words, part.name).with_suffix(".json")
        return Result.from_json(json.loads(path.read_text(encoding="utf-8")))

    return {words: {split: read(words, part) for split, part in held_out(whole).items()} for words in job.tasks}


def _speed(folder: RunFolder, batch_size: int) -> dict[str, float]:
    """Seconds of the steps, from the log: each line holds the mean since the line before."""
    last, seconds = 0, 0.0
    for line in folder.metrics():
        if line.get("kind") == "train" and line.get("seconds") is not None:
            seconds += line["seconds"] * (line["step"] - last)
            last = line["step"]
    return {"train_seconds": seconds, "images_per_second": last * batch_size / seconds if seconds else math.nan}


def _parameters(folder: RunFolder, kind: type[Recipe]) -> dict[str, float]:
    """Of the module that was trained; those that a rule freezes are not among the trained ones."""
    from diptych.train.optimise import freeze

    recipe = from_plain(kind, folder.config["recipe"])
    model = recipe.model()
    freeze(model, recipe.optimiser())
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return {"parameters": sum(p.numel() for p in parameters), "trained_parameters": trained}


def _cpu_seconds() -> float:
    """Of this process and of its loader processes that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def _peak_memory() -> float:
    """Bytes. Under Linux from /proc: `ru_maxrss` of a started program begins at what its parent held."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


# ---------------------------------------------------------------- its own process


def run_apart(job: Job, say: Say) -> CellResult:
    """The same in a process of its own. Raises RunError with the reason when the cell came to nothing."""
    told, failed = Path(f"{job.folder}.job.json"), Path(f"{job.folder}.failed.json")
    failed.unlink(missing_ok=True)
    kind = type(job.recipe)
    plain = {**to_plain(job), "entry": f"{kind.__module__}:{kind.__qualname__}", "parent": os.getpid()}
    write_json(told, plain)
    # A session of its own: Ctrl-C reaches the comparison alone, which then asks the cell once to stop (a second time would kill).
    words = [sys.executable, "-m", "diptych.claims.cell", str(told)]
    child = subprocess.Popen(words, stdout=STDERR, start_new_session=True)
    try:
        while True:
            try:
                code = child.wait(timeout=LISTEN)
                break
            except subprocess.TimeoutExpired:
                if not sys.stderr.isatty() and (line := _last_line(job.folder)):
                    say(f"  {job.arm}, seed {job.seed}: {line}")
    except BaseException:
        child.send_signal(signal.SIGTERM)  # it saves and stops
        child.wait()
        raise
    found = CellResult.read(job.folder)
    if code == 0 and found is not None:
        told.unlink(missing_ok=True)
        return found
    if failed.is_file():
        raise RunError(json.loads(failed.read_text(encoding="utf-8"))["reason"])
    ended = f"was killed by signal {-code} (9 is often a lack of memory)" if code < 0 else f"ended with code {code}"
    raise RunError(f"the process of the cell {ended}")


def _last_line(folder: Path) -> str:
    line = ""
    for found in RunFolder(folder).metrics():
        if found.get("kind") == "train":
            line = f"step {found['step']}, loss {found['loss']:.3f}" if found.get("loss") is not None else ""
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
                "folder": Path(plain["folder"]),
            }
        )
        run_cell(job, open_data(job.source), own_process=True)
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
