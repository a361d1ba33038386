"""Logs of a run: metrics.jsonl, quarantine.jsonl, experiment trackers, the progress bar. Only the main process writes."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from diptych.core.disk.files import write_atomic
from diptych.core.run_folder import RunFolder
from diptych.core.terminal.progress import bar_allowed
from diptych.train.trackers import Boards, Ended

QUARANTINE = "quarantine.jsonl"


class Log:
    """Appends to `metrics.jsonl` of a run, one JSON object a line, each on disk's side of a kill as soon as it is written.

    On resume every line after step `start` goes, since those steps are done again: no step appears twice.
    """

    def __init__(
        self, folder: RunFolder, *, start: int, steps: int, progress: bool, main: bool, boards: Sequence[str] = ()
    ) -> None:
        """boards: names of `trackers.TRACKERS` that log the metrics, too."""
        self.main = main
        self.evaluated = -1  # the last step with an evaluation in the file
        if not main:
            return
        self._folder = folder
        self._cut_lines_after(start)
        self._metrics = folder.metrics_file.open("a", encoding="utf-8")
        self.ended: Ended = "stopped"
        self._boards = Boards(boards, folder.path, start, lambda text: self._lost_board(start, text))
        self._bar = _Bar(start, steps) if progress and sys.stderr.isatty() else None

    def _cut_lines_after(self, start: int) -> None:
        kept = [line for line in self._folder.metrics() if line["step"] <= start]
        self.evaluated = max((line["step"] for line in kept if line["kind"] == "eval"), default=-1)
        if self._folder.metrics_file.exists():
            write_atomic(self._folder.metrics_file, "".join(_line(line) for line in kept))

    def write(self, step: int, kind: str, **values: Any) -> None:
        """`values` are plain; a number that is not finite becomes null, as JSON has none."""
        if not self.main:
            return
        if kind == "eval":
            self.evaluated = step
        self._metrics.write(_line({"step": step, "kind": kind, **values}))
        self._metrics.flush()
        numbers = {f"{kind}/{name}": float(value) for name, value in values.items() if isinstance(value, int | float)}
        if numbers:
            self._boards.write(numbers, step)

    def _lost_board(self, step: int, text: str) -> None:
        """A line about a tracker that failed, in the log and on stderr."""
        self._metrics.write(_line({"step": step, "kind": "note", "text": text}))
        print(f"note: {text}", file=sys.stderr, flush=True)

    def note(self, step: int, text: str) -> None:
        self.write(step, "note", text=text)

    def quarantine(self, lines: str) -> None:
        """Lines of JSON about samples that failed, from any process; what the file has already is not written again."""
        if not (self.main and lines):
            return
        path = self._folder.path / QUARANTINE
        seen = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
        with path.open("a", encoding="utf-8") as file:
            for line in dict.fromkeys(lines.splitlines()):
                if line and line not in seen:
                    file.write(line + "\n")

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Samples of which a stage makes nothing, by uid."""
        lines = [{"uid": uid, "stage": "make", "reason": reason, "epoch": 0} for uid, reason in reasons.items()]
        self.quarantine("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))

    def advance(self, step: int, loss: float | None = None) -> None:
        if self.main and self._bar is not None:
            self._bar.advance(step, loss)

    def sync(self) -> None:
        """Flush the log to disk; called before a checkpoint, which must not be ahead of the log."""
        if self.main:
            os.fsync(self._metrics.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.main:
            return
        self._boards.close("failed" if kind is not None and issubclass(kind, Exception) else self.ended)
        self._metrics.close()
        if self._bar is not None:
            self._bar.close()


def quarantined(folder: RunFolder) -> set[str]:
    """Uids that failed in the run so far."""
    path = folder.path / QUARANTINE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return {json.loads(line)["uid"] for line in lines if line.endswith("\n")}


class _Bar:
    """Steps, rate, loss, time left; on stderr, where it does not meet what a command prints."""

    def __init__(self, start: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
        self._open = ExitStack()  # evaluation between two steps draws no second bar
        self._open.enter_context(bar_allowed("training"))
        self._progress = Progress(*columns, *times, console=Console(stderr=True))
        self._task = self._progress.add_task("training", total=steps, completed=start, rate="", loss="")
        self._progress.start()

    def advance(self, step: int, loss: float | None) -> None:
        self._progress.update(self._task, completed=step)
        if loss is not None:
            speed = self._progress.tasks[0].speed
            rate = f"{speed:.2f} steps/s" if speed else ""
            self._progress.update(self._task, rate=rate, loss=f"loss {loss:.4f}")

    def close(self) -> None:
        self._progress.stop()
        self._open.close()


def _line(values: dict[str, Any]) -> str:
    return json.dumps(_finite(values), ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
