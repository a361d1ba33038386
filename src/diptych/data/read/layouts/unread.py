"""Tables, annotations and other metadata files of a folder that were not read: named in a note, so that none is lost in silence."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from diptych.data.read.tables import SUFFIXES

METADATA = (*SUFFIXES, ".json", ".p", ".pkl", ".pickle", ".mat", ".xml", ".h5", ".token", ".xlsx")
"""Endings of files that may say something about pictures."""
MOST = 100_000
"""Files that are looked at in a folder."""


def unread_note(folder: Path, used: Iterable[Path], named: Iterable[str] = ()) -> str:
    """Note on the metadata files of a folder that were not read; "" if there are none.

    named  files that the quarantine names already
    """
    listed = {os.path.abspath(path) for path in used} | {os.path.abspath(path) for path in named}
    left, seen = [], 0
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        seen += len(files)
        if seen > MOST:
            break
        stems = {os.path.splitext(file)[0] for file in files if not file.lower().endswith(METADATA)} | set(folders)
        for file in sorted(files):
            stem = os.path.splitext(file)[0]
            path = os.path.join(at, file)
            if not file.lower().endswith(METADATA) or file.startswith(".") or os.path.abspath(path) in listed:
                continue
            if stem in stems or file.endswith(
                (".idx.parquet", "_stats.json")
            ):  # beside its picture or tar, or a report of img2dataset
                continue
            left.append(os.path.relpath(path, folder))
    if not left:
        return ""
    more = f" and {len(left) - 5:,} more" if len(left) > 5 else ""
    return f"not read: {', '.join(left[:5])}{more}; give the path of one to read it"
