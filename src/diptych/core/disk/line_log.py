"""Append-only log of JSON lines, one row per line, each on disk before the next: a killed run resumes with the missing rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError, RunError


class LineLog:
    """Rows by their `key` field. A line that a kill cut short is dropped when the file is opened again.

    path   a file that is there goes on; None keeps rows in memory
    about  what the answers depend on (model, prompt, settings): stands in the first line, and a file of another run is refused
    """

    def __init__(self, path: Path | None, about: dict[str, Any], *, key: str = "id") -> None:
        self.path, self.key = path, key
        self.rows: dict[str, dict[str, Any]] = {}
        self._file = None
        if path is None:
            return
        first = {"about": about}
        if path.exists():
            self._read(path, json.loads(json.dumps(first)))
        else:
            write_atomic(path, json.dumps(first, ensure_ascii=False) + "\n")
        self._file = path.open("a", encoding="utf-8")

    def _read(self, path: Path, first: dict[str, Any]) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path} cannot be read as a file of answers: {error}") from error
        whole, _, _ = text.rpartition("\n")
        lines = whole.split("\n") if whole else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"is not valid JSON: {line[:60]!r}", file=path, row=number, expected="answers of this command"
                ) from error
            if number == 1:
                _refuse_other(path, row, first)
            else:
                self.rows[str(row[self.key])] = row
        if not lines:
            raise DataError(
                "contains no answers of this command", file=path, expected="another file name, or a file of this command"
            )
        if len(whole) + 1 < len(text):
            write_atomic(path, whole + "\n")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row with its key; it is on disk when this returns."""
        self.rows[str(row[self.key])] = row
        if self._file is not None:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _refuse_other(path: Path, header: Any, wanted: dict[str, Any]) -> None:
    if not isinstance(header, dict) or "about" not in header:
        raise DataError("is not a file of answers", file=path, row=1, expected="another file name, or a file of this command")
    here, there = wanted["about"], header["about"]
    for name in dict.fromkeys((*here, *there)):
        if here.get(name) != there.get(name):
            raise RunError(
                f"{path} holds answers for {name} {there.get(name)!r}, this run has {here.get(name)!r}: name another file, "
                "or run it as before"
            )
