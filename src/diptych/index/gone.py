"""Record of removals from an index: removed items, and uids and pictures that were taken down and are not added again.

FOLDER/gone.jsonl   one JSON object per line: {"removed": uid}, {"back": uid}, {"uid": taken down}, {"sha256": taken down}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.disk.paths import read_file
from diptych.core.errors import RunError
from diptych.core.image import ArrayImage, ImageSource

FILE = "gone.jsonl"
KEYS = ("removed", "back", "uid", "sha256")


@dataclass(frozen=True, slots=True)
class GoneItems:
    """Uids and hashes of items that left an index.

    removed  uids of removed items that did not come back
    uids, hashes  uids, and sha256 of pictures, that were taken down for good
    """

    removed: frozenset[str] = frozenset()
    uids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()


def read_gone(folder: Path) -> GoneItems:
    """Record of an index. Raises RunError for a file that cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return GoneItems()
    sets: dict[str, set[str]] = {key: set() for key in KEYS}
    try:
        for line in read_file(path, folder).split(b"\n")[
            :-1
        ]:  # a kill may have cut the last one, which the next call writes again
            for key, value in json.loads(line).items():
                sets[key].add(str(value))
                if key == "back":
                    sets["removed"].discard(str(value))
    except (OSError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}): remove it, or build the index again") from error
    return GoneItems(frozenset(sets["removed"]), frozenset(sets["uid"]), frozenset(sets["sha256"]))


def record_taken_down(folder: Path, uids: Iterable[str], hashes: Iterable[str]) -> None:
    """Record uids and hashes that are not to come in again; on disk when this returns."""
    before = read_gone(folder)
    rows = [{"uid": uid} for uid in sorted(set(uids) - before.uids)]
    _append(folder, [*rows, *({"sha256": sha256} for sha256 in sorted(set(hashes) - before.hashes))])


def record_removed(folder: Path, uids: Iterable[str]) -> None:
    """Record uids of items that are about to be removed."""
    _append(folder, [{"removed": uid} for uid in sorted(set(uids) - read_gone(folder).removed)])


def record_back(folder: Path, uids: Sequence[str]) -> None:
    """Record that removed items are added again."""
    removed = read_gone(folder).removed
    _append(folder, [{"back": uid} for uid in uids if uid in removed])


def rows_to_refuse(pool: Dataset, gone: GoneItems) -> list[int]:
    """Rows of a pool whose uid or picture was taken down."""
    if not (gone.uids or gone.hashes):
        return []
    stored = pool.column("sha256") if "sha256" in getattr(pool, "column_names", ()) else None  # type: ignore[attr-defined]
    refused = []
    for row, uid in enumerate(pool.uids):
        sha256 = (stored[row] if stored else "") or (_hash(pool[row].image) if gone.hashes else "")
        if uid in gone.uids or sha256 in gone.hashes:
            refused.append(row)
    return refused


def _append(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    path = folder / FILE
    data = path.read_bytes() if path.is_file() else b""
    with path.open("ab") as file:
        if data and not data.endswith(b"\n"):
            os.ftruncate(file.fileno(), data.rfind(b"\n") + 1)
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _hash(image: ImageSource | None) -> str:
    """sha256 of an encoded picture; "" for pixels, and for a file that cannot be read."""
    if image is None or isinstance(image, ArrayImage):
        return ""
    try:
        return hashlib.sha256(image.read()).hexdigest()
    except OSError:
        return ""
