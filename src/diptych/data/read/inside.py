"""Confinement of untrusted data: files outside of a folder are left out, regardless of the path in a table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from diptych.core.disk.paths import is_below, printable
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry

OWN_FOLDER = "own"
"""Value of `inside`: the folder of the data themselves, or `root` where that is given."""


def own_folder(path: Path, root: Path | None) -> Path:
    """Folder of a source: `root`, the source itself, or what it lies in."""
    return root if root is not None else path if path.is_dir() else path.parent


def confined_to(pool: Pool, folder: Path | str) -> Pool:
    """The same pool without the rows that name a file outside of a folder: by an absolute path, by "..", or by a link. Each has a
    reason in the quarantine. Raises DataError if no row is left."""
    top = os.path.realpath(folder)
    made = pool.confined(top)
    rows = pool.rows_outside(top)
    bad: dict[int, str] = {}
    for row in range(len(pool)) if rows is None else rows:
        for path in _paths_outside(pool, row, top):
            bad.setdefault(row, path)
    if not bad:
        return made
    reasons = {
        row: QuarantineEntry(
            pool.uids[row], "read", f"lies outside of {folder} (inside): its content is not read", printable(path)
        )
        for row, path in bad.items()
    }
    if len(bad) == len(pool):
        first = reasons[min(reasons)]
        raise DataError(
            f"{first.file} {first.reason}; so it is with all {len(pool):,} rows", expected="inside=FOLDER of the files"
        )
    made = made.select([row for row in range(len(pool)) if row not in bad])
    made.quarantine += [reasons[row] for row in sorted(reasons)]
    return made


def _paths_outside(pool: Pool, row: int, top: str) -> Iterator[str]:
    parts = [part for item in pool.media(row).values() for part in item.parts]
    for source in (pool.own_image(row), *parts):
        if not isinstance(source, FileImage):
            continue
        path = os.path.abspath(source.path)
        checked = source.within is not None and is_below(path, os.path.abspath(source.within))  # links are, when it is opened
        if not is_below(path, top) or not (checked or is_below(os.path.realpath(path), top)):
            yield path
