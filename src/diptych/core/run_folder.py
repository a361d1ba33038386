"""A run on disk: configuration, metrics, checkpoints, the model that inference needs, the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diptych.core.config import load_config
from diptych.core.errors import RunError
from diptych.core.files import restore, write_json
from diptych.core.json_text import parse_json, read_object
from diptych.core.lock import only_here
from diptych.core.paths import is_file
from diptych.core.signals import raise_interrupt

FORMAT = 1
LOCK = ".lock"
FIELDS: dict[str, type] = {"slug": str, "status": str, "environment": dict, "data": dict, "source": str}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths and small files of a run.

    run.json          format version, slug, status (running | finished | stopped | failed), environment; `signal` is the number of
                      the one by which the run was last asked to stop
    config.yaml       everything resolved (section "recipe" and section "run"); prepared.json beside it
    metrics.jsonl     one JSON object a line: {"step": n, "kind": "train" | "eval" | "note", ...}; "seconds" are those of a step
    checkpoints/      step-00000120/ ... (train/checkpoint.py)
    model/            config.json, model.safetensors, tokenizer, README.md: what `dp.load` opens
    adapter/          low-rank adapters as `peft` reads them, where the run trained some
    start/            the model as it was before the first step, where a run starts from weights; like model/
    snapshots/        models of earlier moments, where a recipe keeps some (after each task of a stream), each like model/
    records/          Parquet records of evaluations, one file a task and data set
    quarantine.jsonl  samples that failed: uid, stage, reason
    subset.txt        the uids that the run was limited to, where it was
    report.html
    """

    path: Path

    @classmethod
    def create(cls, path: Path, *, slug: str, environment: dict[str, Any]) -> RunFolder:
        if path.exists() and any(entry.name != LOCK for entry in path.iterdir()):
            raise RunError(f"{path} is not empty: choose another --out, or continue it with --resume {path}")
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.write_state(slug=slug, status="running", environment=environment)
        return folder

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

    @contextmanager
    def held(self, here: bool = True) -> Iterator[None]:
        """Keep other trainings out for a block. here: False for all but the first process of a run, which hold nothing."""
        if not here:
            yield
            return
        fresh = not self.path.exists()
        try:
            with only_here(self.path, LOCK, f"{self.path} is being trained"):
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
            raise RunError(f"{self.path / 'run.json'} {error} (expected what a run wrote)") from error

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
        """The sections "recipe" and "run". Raises RunError where the files are damaged."""
        try:
            config = load_config(self.path)
        except ValueError as error:
            raise RunError(str(error)) from error
        for name in ("recipe", "run"):
            if not isinstance(config.get(name), dict):
                raise RunError(f"{self.path / 'config.yaml'} has no section '{name}' (expected what a run wrote)")
        return config

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

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
                found = parse_json(line)
            except ValueError:
                return
            if isinstance(found, dict):
                yield found

    def training_seconds(self) -> float:
        """Time spent in steps: lines of kind "train" carry the mean seconds a step since the line before."""
        total, last = 0.0, 0
        for line in self.metrics():
            step, seconds = line.get("step"), line.get("seconds", 0.0)
            if line.get("kind") == "train" and isinstance(step, int) and isinstance(seconds, int | float):
                total += seconds * (step - last)
                last = step
        return total
