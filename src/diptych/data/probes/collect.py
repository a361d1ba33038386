"""Shared parts of the probe readers: entries of JSON files, their pictures, and rows left out with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.find import ImageFinder
from diptych.data.quarantine import QuarantineEntry


class ProbeCollector:
    """The samples of one probe, file by file.

    root    where the pictures lie, if not beside the files
    within  a folder that links of pictures may not lead out of
    """

    def __init__(self, source: Path, root: Path | None, within: str | None) -> None:
        self.source, self.root, self.within = source, root, within
        self.samples: list[Sample] = []
        self.bad: list[QuarantineEntry] = []
        self._finders: dict[Path, ImageFinder] = {}
        self._found: dict[tuple[Path, str], Path | None] = {}

    def entries(
        self, file: Path, values: Sequence[Any], fields: Mapping[str, tuple[type, ...]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The entries of a file that have these fields, with their rows; another costs itself."""
        for row, value in enumerate(values):
            if fault := _fault(value, fields):
                self.leave_out(file, row, fault)
            else:
                yield row, value

    def leave_out(self, file: Path, row: int, reason: str, *, stage: str = "read") -> None:
        self.bad.append(QuarantineEntry(uid_of(file, row), stage, reason, f"{file}, row {row}"))

    def image(self, file: Path, row: int, names: Sequence[str]) -> FileImage | None:
        """The picture with one of these names; None, and a reason, if there is none."""
        key = (file, names[0])
        if key not in self._found:
            finder = self._finders.setdefault(file, ImageFinder(file, self.source, self.root))
            self._found[key] = finder.find(names)
        path = self._found[key]
        if path is None:
            self.leave_out(file, row, f"its picture {names[0]} is nowhere below {self.root or self.source}", stage="image")
            return None
        return FileImage(path, self.within)

    def pool(self, name: str) -> Pool:
        """Raises DataError, with the first reason, where nothing is left."""
        if not self.samples:
            first = f"; first problem: {self.bad[0]}" if self.bad else ""
            raise DataError(
                f"contains no case that can be used{first}", file=self.source, expected="cases whose pictures are there"
            )
        pool = Pool.from_samples(self.samples, name=name)
        pool.quarantine += self.bad
        return pool


def uid_of(file: Path, row: int) -> str:
    """The uid of a row: name of its file and number, dots of the name as underscores."""
    return f"{file.stem.replace('.', '_')}-{row:06d}"


def _fault(entry: Any, fields: Mapping[str, tuple[type, ...]]) -> str:
    """Name of the first of these fields that is missing or of the wrong type, in words; "" if there is none."""
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object with {', '.join(fields)}"
    for name, kinds in fields.items():
        if name not in entry:
            return f"has no {name}"
        value = entry[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            return f"its {name} is a {type(value).__name__}, not a {' or '.join(kind.__name__ for kind in kinds)}"
        if isinstance(value, str) and not value.strip():
            return f"its {name} is empty"
    return ""
