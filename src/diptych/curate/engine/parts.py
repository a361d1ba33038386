"""Resumable work in parts: finished parts are stored on disk under the key of the step.

Parts are fixed-size spans of the rows sorted by uid, independent of the input files. Parts are written atomically.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from diptych.core.config import config_hash
from diptych.core.terminal.progress import with_bar
from diptych.data.columns import read_parquet, write_parquet

ROWS = 131_072
LOOKED_AT = 4_096  # rows from which on a single part has a bar, whose sign turns


@dataclass(frozen=True, slots=True)
class PartStore:
    """folder  where finished parts are stored; None stores nothing
    key     hash that identifies the step, its configuration and its data
    rows    rows per part
    embeddings  folder of embedding tables that steps read and extend; None stores embeddings with the parts
    """

    folder: Path | None = None
    key: str = ""
    rows: int = ROWS
    embeddings: Path | None = None

    def mapped(self, table: pa.Table, name: str, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """Applies `work` to every part of `table`, whose row order must not depend on the input files, and concatenates the
        results.

        `name` distinguishes several passes of one step. For an empty table `work` is called once, for its schema.
        """
        made = []
        starts = range(0, max(1, table.num_rows), self.rows)
        least = 1 if table.num_rows >= LOOKED_AT else 2
        for number, start in enumerate(with_bar(starts, len(starts), name.partition("-")[0], least=least)):
            path = self._path(name, number)
            if path is not None and path.is_file():
                made.append(read_parquet(path))
                continue
            part = work(table.slice(start, self.rows))
            if path is not None:
                write_parquet(path, part)
            made.append(part)
        return pa.concat_tables(made)

    def _path(self, name: str, number: int) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{name}-{config_hash([self.key, self.rows])}-{number:05d}.parquet"

    def clear(self) -> None:
        """Deletes the parts, once the step has its verdict."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
