"""Resumable work in parts: finished parts lie on disk under the key of the step.

Parts are spans of fixed size of the rows in order of uid, whatever files the rows came from. A part appears whole or not at all.
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


@dataclass(frozen=True, slots=True)
class PartStore:
    """folder  where finished parts lie; None keeps nothing
    key     what tells this step, its configuration and its data from any other
    rows    of a part
    embeddings  folder of embedding tables, which steps read and fill; None: embeddings lie with the parts
    """

    folder: Path | None = None
    key: str = ""
    rows: int = ROWS
    embeddings: Path | None = None

    def mapped(self, table: pa.Table, name: str, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """Table of `work` over every part of `table`, whose rows are in an order that does not depend on the input files.

        `name` tells several such passes of a step apart. An empty table is worked on once, for its schema.
        """
        made = []
        starts = range(0, max(1, table.num_rows), self.rows)
        for number, start in enumerate(with_bar(starts, len(starts), name.partition("-")[0], least=2)):
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
