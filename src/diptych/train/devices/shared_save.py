"""A checkpoint that all processes write together, each its own part, while training goes on.

A process copies its parts to main memory and hands them to a thread, which writes them into a hidden folder that all share, and
beside them a mark with their sizes and hashes. The thread of the first process waits for all marks, writes `state.json`, and
renames the folder: it appears whole or not at all, whenever any process is killed. Nothing is pickled and the threads exchange no
messages.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diptych.core.disk.files import publish, write_atomic
from diptych.core.disk.json_text import parse_json
from diptych.core.errors import RunError
from diptych.train.devices.shard_files import TensorPart, write_parts

PATIENCE = 600.0
"""Seconds that the first process waits for the parts of the others."""
MARK = "written-by-{}.json"


class SharedSave:
    """Writes the parts of one process in the background; `wait` ends when they are written, for the first process: when all are."""

    def __init__(self, path: Path, rank: int, size: int) -> None:
        self.path, self.rank, self.size = path, rank, size
        self._work = path.with_name(f".{path.name}.writing")
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(
        self,
        parts: Mapping[str, Mapping[str, TensorPart]],
        facts: Callable[[Path], dict[str, Any]],
        finish: Callable[[Path, dict[str, Any]], None] | None,
        published: Callable[[], None],
    ) -> None:
        """Starts to write.

        parts   stem of a file -> its tensors, such as "model"
        facts   of a file: what is recorded of it
        finish  of the first process: writes the rest into the folder, given what the marks say of its files; None for the others
        published  of the first process: called when the checkpoint is there
        """
        words = (parts, facts, finish, published)
        self._thread = threading.Thread(target=self._run, args=words, name=f"save {self.path.name}")
        self._thread.start()

    @property
    def failed(self) -> bool:
        """True as soon as something could not be written."""
        return self._error is not None

    def wait(self) -> None:
        """Raises RunError if the checkpoint could not be written; those before it are whole."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            why = f"{self.path} could not be written ({error}); the checkpoints before it are whole: make room and --resume"
            raise RunError(why) from error

    def _run(
        self,
        parts: Mapping[str, Mapping[str, TensorPart]],
        facts: Callable[[Path], dict[str, Any]],
        finish: Callable[[Path, dict[str, Any]], None] | None,
        published: Callable[[], None],
    ) -> None:
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            files = {}
            for stem, tensors in parts.items():
                file = self._work / f"{stem}.{self.rank + 1:05d}-of-{self.size:05d}.safetensors"
                write_parts(file, tensors)
                _flush(file)
                files[file.name] = facts(file)
            write_atomic(self._work / MARK.format(self.rank), json.dumps(files))
            if finish is not None:
                finish(self._work, self._files_of_all())
                publish(self._work, self.path)
                published()
        except (OSError, RunError, SafetensorError, ValueError) as error:
            self._error = error

    def _files_of_all(self) -> dict[str, Any]:
        """Facts of the files of all processes, from their marks, which are removed once all are there."""
        marks = [self._work / MARK.format(rank) for rank in range(self.size)]
        limit = time.monotonic() + PATIENCE
        while missing := [mark for mark in marks if not mark.is_file()]:
            if time.monotonic() > limit or not threading.main_thread().is_alive():
                raise RunError(f"process {marks.index(missing[0])} did not write its part within {PATIENCE:.0f} s")
            time.sleep(0.02)
        files: dict[str, Any] = {}
        for mark in marks:
            files |= parse_json(mark.read_bytes())
            mark.unlink()
        return files


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
