"""Completion marker of a built folder: the file that a build writes last; until then another marks the build as unfinished.

A killed build leaves shards that look like any tars, and a part of a data set is the worst kind of a data set: nothing fails. So every
reader asks `refuse_unfinished` first, also for tars that are named one by one.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.disk.files import write_json
from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import read_parquet

FORMAT = 2
"""Of what is written. Format 1 has no KEY.txt beside the pictures; both are read."""
MARK, MANIFEST, SHARDS, UNFINISHED = "diptych.json", "manifest.parquet", "shards", "unfinished.json"
PART = ".part.parquet"
DOWNLOAD, CURATION = "links.json", "curation.json"
REVISION, NEXT = "revision", "next"
"""Fields of the mark: number of the revision, and the mark of the revision after it while that is being written."""
FIELDS: dict[str, type] = {"name": str, "fingerprint": str, "tables": list, "count": int, "shards": int, REVISION: int}


def is_built(path: Path) -> bool:
    """True if a folder holds a data set of `diptych data build`."""
    return (path / MARK).is_file()


def revision_of(manifest: pa.Table) -> int:
    """Number of the revision that a manifest is of; 0 as it was built. Raises DataError for what is no number."""
    text = (manifest.schema.metadata or {}).get(b"diptych.revision", b"0")
    if not re.fullmatch(rb"[0-9]{1,9}", text):
        raise DataError(f"is of revision {text[:20]!r}", file=MANIFEST, expected="a whole number; build it again")
    return int(text)


def read_mark(folder: Path) -> dict[str, Any]:
    """The content of the mark, its fields of the right kinds: of the revision that the manifest is of. Raises DataError: no mark,
    unfinished, another format, damaged."""
    path = folder / MARK
    if not path.is_file():
        refuse_unfinished(folder)
        raise DataError(f"has no {MARK}", file=folder, expected="a folder made by `diptych data build`")
    mark = _object(path)
    if mark.get("format") not in range(1, FORMAT + 1):
        raise DataError(f"has data format {mark.get('format')}", file=path, expected=f"format 1 to {FORMAT}; build it again")
    mark = {REVISION: 0, **mark}
    following = mark.pop(NEXT, None)
    if isinstance(following, dict) and following.get(REVISION) == revision_of(read_parquet(folder / MANIFEST, ["uid"])):
        mark = following  # a change was killed between its manifest and its mark
    for field, kind in FIELDS.items():
        value = mark.get(field)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"is {value!r:.60}", file=path, field=field, expected=f"a {kind.__name__}; build it again")
    return mark


def begin(folder: Path, config: Mapping[str, Any], command: str) -> None:
    """Say what is being built in a folder, and by which command."""
    write_json(folder / UNFINISHED, {"config": dict(config), "command": command})


def is_interrupted(folder: Path, config: Mapping[str, Any]) -> bool:
    """True if the folder has an interrupted build with the same configuration."""
    path = folder / UNFINISHED
    return path.is_file() and _object(path).get("config") == dict(config)


def sweep_partial(folder: Path, *, finished: bool, seconds: float = 0.0) -> int:
    """Remove files that killed builds left half written; returns their number.

    finished  the data set is complete, so the records of its shards, from which a build goes on, are of no use either
    seconds   files that were changed within these stay: another process may be at them
    """
    left = re.compile(r"\..+\.[0-9a-f]{8}" + (r"|\.[0-9]+(\.part|\.media)\.parquet" if finished else ""))
    swept = 0
    for parent in (folder, folder / SHARDS, folder / TABLES):
        for path in parent.glob(".*"):
            if left.fullmatch(path.name) and path.is_file() and time.time() - path.lstat().st_mtime >= seconds:
                path.unlink(missing_ok=True)
                swept += 1
    return swept


def refuse_unfinished(folder: Path) -> None:
    """Raise DataError for an unfinished build or download, with the command that continues it."""
    if is_built(folder):
        return
    unfinished = folder / UNFINISHED
    if unfinished.is_file() or any((folder / SHARDS).glob(f".*{PART}")):
        command = _object(unfinished).get("command") if unfinished.is_file() else ""
        done = len(list((folder / SHARDS).glob(f".*{PART}")))
        again = f"`{command}` to go on" if command else "the same build, run again to its end"
        raise DataError(f"holds an unfinished build ({done} shards are done)", file=folder, expected=again)
    if (folder / MANIFEST).is_file() and (folder / SHARDS).is_dir():
        raise DataError(f"contains a data set without its {MARK}", file=folder, expected="a whole copy, or the build again")
    if not (folder / CURATION).is_file() and any((folder / "tables").glob("step_*.parquet")):
        raise DataError(
            "holds steps of a curation that did not end", file=folder, expected="the same `diptych curate`, run again to its end"
        )
    if (folder / DOWNLOAD).is_file():
        shards = _object(folder / DOWNLOAD).get("shards")
        done = sum((folder / f"{number:05d}.parquet").is_file() for number in range(shards)) if isinstance(shards, int) else 0
        if isinstance(shards, int) and done < shards:
            raise DataError(
                f"holds {done:,} of {shards:,} shards of a download",
                file=folder,
                expected="the same `diptych data download`, run again to its end",
            )


def refuse_unfinished_tar(tar: Path) -> None:
    """The same for a single tar: it may be in the shards of an unfinished folder."""
    refuse_unfinished(tar.parent)
    if tar.parent.name == SHARDS:
        refuse_unfinished(tar.parent.parent)


def words_of(*words: str) -> str:
    """A command line that can be typed again."""
    return shlex.join(words)


def _object(path: Path) -> dict[str, Any]:
    """A JSON object of ours."""
    try:
        return read_object(path)
    except ValueError as error:
        raise DataError(str(error), file=path, expected="what the build wrote") from error
