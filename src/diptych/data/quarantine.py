"""Quarantine: the rows that were left out and the reasons, one row per failure, stored beside the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from diptych.core.disk.paths import printable
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet, write_parquet

FILE = "quarantine.parquet"
NAMES = ["uid", "stage", "reason", "file"]


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A sample, or a part of a file, that cannot be used.

    stage   where it was found: "read", "text", "image", "build", "verify"
    reason  one line: what came and, where it helps, at which byte
    file    the file it came from
    """

    uid: str
    stage: str
    reason: str
    file: str = ""

    def __post_init__(self) -> None:
        for name in ("uid", "reason", "file"):  # of strangers: what cannot be written down is spelled out
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.file or self.uid}: {self.reason}" + (f" [{self.uid}]" if self.file and self.uid else "")


def first_lines(rows: Sequence[QuarantineEntry], most: int = 5) -> list[str]:
    """The first of them for people to read, one per line, and how many more there are."""
    return [f"  {bad}" for bad in rows[:most]] + ([f"  and {len(rows) - most:,} more"] if len(rows) > most else [])


def write_quarantine(folder: Path, rows: Iterable[QuarantineEntry]) -> None:
    """Replaces ``quarantine.parquet``; equal rows are written once, in order of uid."""
    unique = sorted(set(rows), key=lambda bad: (bad.uid, bad.stage, bad.reason, bad.file))
    schema = pa.schema([(name, pa.string()) for name in NAMES])
    write_parquet(folder / FILE, pa.Table.from_pylist([asdict(bad) for bad in unique], schema=schema))


def read_quarantine(folder: Path) -> list[QuarantineEntry]:
    """The rows of ``quarantine.parquet``; none when there is no such file."""
    if not (folder / FILE).is_file():
        return []
    table = read_parquet(folder / FILE)
    for name in NAMES:
        if name not in table.column_names or table[name].null_count or not pa.types.is_string(table[name].type):
            raise DataError(
                f"has no '{name}' of strings in every row", file=folder / FILE, expected=f"columns {', '.join(NAMES)}"
            )
    return [QuarantineEntry(**row) for row in table.select(NAMES).to_pylist()]
