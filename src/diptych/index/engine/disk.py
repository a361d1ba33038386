"""Disk space check before the engine writes. It writes into memory-mapped sparse files: a full disk then ends the process with a
signal (SIGBUS), and no error can be caught.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diptych.core.errors import RunError
from diptych.index.engine.store import IndexItem, SparseVector

RESERVE = 16 << 20
"""Bytes that stay free: what the engine's logs and tables of contents take beside the items."""
COPIES = 6
"""Times that the bytes of an item are written at most, until it is settled: log, vectors, payload, their indexes."""


class DiskFull(RunError):
    """The disk is full. What was stored before is kept."""


def need_room(folder: Path, size: int) -> None:
    """Raise DiskFull, before anything is written, unless so many bytes fit and the reserve stays."""
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DiskFull(
            f"the disk of {folder} is full: {free / 2**20:,.0f} MiB are free and {(size + RESERVE) / 2**20:,.0f} are needed; what was "
            "stored before is kept: make room and run the same again"
        )


def size_of(items: Sequence[IndexItem]) -> int:
    """Bytes that items take until they are settled."""
    total = 0
    for item in items:
        total += sum(
            12 * vector.values.size if isinstance(vector, SparseVector) else vector.nbytes for vector in item.vectors.values()
        )
        total += len(json.dumps(item.payload, default=str))
    return COPIES * total


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn a full-disk error in our own files into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"the disk of {folder} is full; what was stored before is kept: make room and run the same again"
        ) from error
