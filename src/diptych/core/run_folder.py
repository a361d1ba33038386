"""Run folder on disk: configuration, metrics, checkpoints, the model for inference, the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diptych.core.config import load_config
from diptych.core.disk.files import restore, write_json
from diptych.core.disk.json_text import parse_json, read_object
from diptych.core.disk.lock import exclusive
from diptych.core.disk.paths import is_file, unwritable_reason
from diptych.core.errors import RunError
from diptych.core.terminal import notebook
from diptych.core.terminal.signals import raise_interrupt

FORMAT = 1
NEWEST_ORDER = 2
LOCK = ".lock"
FIELDS: dict[str, type] = {"slug": str, "status": str, "environment": dict, "data": dict, "source": str}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and small files of a run.

    run.json          format version, slug, status (running | finished | stopped | failed), environment; `signal` is the number of
                      the one by which the run was last asked to stop
    config.yaml       everything resolved (section "recipe" and section "run"); prepared.json beside it
    metrics.jsonl     one JSON object a line: {"step": n, "kind": "train" | "eval" | "note", ...}; "seconds" are those of a step
    trace.json        of a few steps (`--profile`), one for each process
    checkpoints/      step-00000120/ ... (train/checkpoint.py)
    model/            config.json, model.safetensors, tokenizer, README.md: what `dp.load` opens
    adapter/          low-rank adapters as `peft` reads them, where the run trained some
    best/             the model of the best moment so far, while a run looks for it
    start/            the model as it was before the first step, where a run starts from weights; like model/
    snapshots/        models of earlier moments, where a recipe keeps some (after each task of a stream), each like model/
    records/          Parquet records of evaluations, one file a task and data set
    quarantine.jsonl  samples that failed: uid, stage, reason
    source/           copies of the files that define the recipe (train/provenance.py)
    requirements.txt  every installed package with its version
    subset.txt        the uids that the run was limited to, where it was
    report.html
    """

    path: Path

    @classmethod
    def create(cls, path: Path, *, slug: str, environment: dict[str, Any], overwrite: bool = False) -> RunFolder:
        """A new run. overwrite: put what another run left in the folder aside, until `settle` or `give_back`."""
        refuse_occupied(path, overwrite=overwrite)
        path.mkdir(parents=True, exist_ok=True)
        if _aside(path).is_dir():  # of a run that was killed before its first step, which goes
            _clear(path)
        elif old := _entries(path):
            _aside(path).mkdir()
            for entry in old:
                entry.rename(_aside(path) / entry.name)
        folder = cls(path)
        folder.write_state(slug=slug, status="running", environment=environment)
        return folder

    def settle(self) -> None:
        """Delete the older run that this one replaced, once its first step is done."""
        shutil.rmtree(_aside(self.path), ignore_errors=True)

    def give_back(self) -> None:
        """Remove a run that failed before its first step, and restore the older run that it replaced."""
        _clear(self.path)
        if _aside(self.path).is_dir():
            for entry in _aside(self.path).iterdir():
                entry.rename(self.path / entry.name)
            _aside(self.path).rmdir()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Raises RunError: no run folder, of another format, damaged."""
        restore(path)
        if not is_file(path / "run.json"):
            raise RunError(f"{path} is not a run folder: it has no run.json")
        folder = cls(path)
        state = folder.state
        if state.get("format") != FORMAT:
            raise RunError(f"{path} has run format {state.get('format')}; this version reads {FORMAT}")
        for name, kind in FIELDS.items():
            if not isinstance(state.get(name, kind()), kind):
                raise RunError(f"{path / 'run.json'}: {name} is {state[name]!r:.60} (expected a {kind.__name__})")
        return folder

    @property
    def order_version(self) -> int:
        """Version of the order of rows that the run began with; the newest where nothing is recorded, as in a folder of no run."""
        if not (self.path / "run.json").is_file():
            return NEWEST_ORDER
        return int(self.state.get("order", 1))

    @contextmanager
    def locked(self, here: bool = True) -> Iterator[None]:
        """Keep other trainings out for a block. here: False for all but the first process of a run, which hold nothing."""
        if not here:
            yield
            return
        fresh = not self.path.exists()
        try:
            with exclusive(self.path, LOCK, f"{self.path} is being trained"):
                yield
        finally:
            if fresh:
                with suppress(OSError):
                    self.path.rmdir()  # where nothing was written after all

    @property
    def state(self) -> dict[str, Any]:
        try:
            return read_object(self.path / "run.json")
        except ValueError as error:
            raise RunError(f"{self.path / 'run.json'} {error} (expected the file of a run)") from error

    def write_state(self, **changes: Any) -> None:
        old = self.state if (self.path / "run.json").exists() else {}
        write_json(self.path / "run.json", {"format": FORMAT, **old, **changes})

    def expect_finished(self) -> Self:
        """Itself, for who needs what was trained. A run that Ctrl-C or SIGTERM stopped raises KeyboardInterrupt or `Terminated`, so
        that work which goes on from run to run ends too; raises RunError when it is unfinished for another reason."""
        state = self.state
        if state["status"] != "finished":
            if state["status"] == "stopped" and state.get("signal"):
                raise_interrupt(state["signal"])
            raise RunError(f"{self.path} is {state['status']} after {state.get('step', 0)} steps, not finished")
        return self

    @property
    def config(self) -> dict[str, Any]:
        """The sections "recipe" and "run". Raises RunError if the files are damaged."""
        try:
            config = load_config(self.path)
        except ValueError as error:
            raise RunError(str(error)) from error
        for name in ("recipe", "run"):
            if not isinstance(config.get(name), dict):
                raise RunError(f"{self.path / 'config.yaml'} has no section '{name}' (expected the file of a run)")
        return config

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def trace_file(self, rank: int) -> Path:
        """Where a process writes the trace of `--profile`."""
        return self.path / (f"trace-{rank}.json" if rank else "trace.json")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def start(self) -> Path:
        return self.path / "start"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def records(self) -> Path:
        return self.path / "records"

    @property
    def source(self) -> Path:
        return self.path / "source"

    @property
    def subset(self) -> Path:
        return self.path / "subset.txt"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Every logged line; a last line cut by a kill is left out."""
        if not self.metrics_file.exists():
            return
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = parse_json(line)
            except ValueError:
                return
            if isinstance(record, dict):
                yield record

    def _repr_html_(self) -> str:
        """Recipe, state, last losses and scores, and the curve of the loss."""
        state, lines = self.state, list(self.metrics())
        trained = [line for line in lines if line.get("kind") == "train" and isinstance(line.get("loss"), int | float)]
        scores = {key: value for line in lines if line.get("kind") == "eval" for key, value in line.items()}
        rows: list[dict[str, Any]] = [
            {"": "recipe", "value": state.get("slug", "")},
            {"": "status", "value": f"{state.get('status', '')} at step {trained[-1]['step'] if trained else 0:,}"},
            {"": "data", "value": (state.get("data") or {}).get("name", "")},
        ]
        rows += [{"": "loss", "value": float(trained[-1]["loss"])}] if trained else []
        rows += [{"": key, "value": value} for key, value in scores.items() if isinstance(value, float)][: notebook.SHOWN]
        drawn = notebook.curve([(float(line["step"]), float(line["loss"])) for line in trained])
        return notebook.table(rows, caption=f"Run {self.path}") + drawn

    def training_seconds(self) -> float:
        """Time spent in steps: lines of kind "train" carry the mean seconds a step since the line before."""
        total, last = 0.0, 0
        for line in self.metrics():
            step, seconds = line.get("step"), line.get("seconds", 0.0)
            if line.get("kind") == "train" and isinstance(step, int) and isinstance(seconds, int | float):
                total += seconds * (step - last)
                last = step
        return total


def refuse_occupied(path: Path, *, overwrite: bool = False) -> None:
    """Raise RunError for a folder that a new run cannot have: it holds something. With `overwrite` another run may lie there, and
    nothing else."""
    if not path.exists():
        if fault := unwritable_reason(path):
            raise RunError(f"{path} cannot be made: {fault} (expected a folder for the run)")
        return
    if not path.is_dir():
        raise RunError(f"{path} is a file (expected a folder for the run)")
    if not _entries(path):
        return
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is not empty and contains no run: choose another folder")
    if not overwrite:
        raise RunError(
            f"{path} holds a run: choose another folder, go on with `diptych train --resume {path}`, or replace it with --overwrite"
        )


def _entries(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.name != LOCK] if path.is_dir() else []


def _clear(path: Path) -> None:
    for entry in _entries(path):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _aside(path: Path) -> Path:
    """Folder of an older run until the one that replaces it has made its first step."""
    return path.with_name(f".{path.name}.replaced")
