"""What was taken down from an index: uids and hashes of pictures that `add` does not take in again.

FOLDER/taken_down.jsonl   one JSON object per line: {"uid": ...} or {"sha256": ...}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.disk.paths import read_file
from diptych.core.errors import RunError
from diptych.core.image import ArrayImage, ImageSource

FILE = "taken_down.jsonl"


@dataclass(frozen=True, slots=True)
class TakenDownItems:
    """Uids, and sha256 of pictures, that were taken down."""

    uids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.uids or self.hashes)


def read_taken_down(folder: Path) -> TakenDownItems:
    """What was taken down from an index. Raises RunError for a file that cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return TakenDownItems()
    try:
        lines = read_file(path, folder).split(b"\n")[:-1]  # a kill may have cut the last line, which the next call writes again
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return TakenDownItems(
            frozenset(str(row["uid"]) for row in rows if "uid" in row),
            frozenset(str(row["sha256"]) for row in rows if "sha256" in row),
        )
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def record_taken_down(folder: Path, uids: Iterable[str], hashes: Iterable[str]) -> None:
    """Record uids and hashes that are not to come in again; on disk when this returns."""
    before = read_taken_down(folder)
    rows = [{"uid": uid} for uid in sorted(set(uids) - before.uids)]
    rows += [{"sha256": sha256} for sha256 in sorted(set(hashes) - before.hashes)]
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


def rows_to_refuse(pool: Dataset, items: TakenDownItems) -> list[int]:
    """Rows of a pool whose uid or picture was taken down."""
    if not items:
        return []
    known_hashes = pool.column("sha256") if "sha256" in getattr(pool, "column_names", ()) else None  # type: ignore[attr-defined]
    refused = []
    for row, uid in enumerate(pool.uids):
        sha256 = (known_hashes[row] if known_hashes else "") or (_hash(pool[row].image) if items.hashes else "")
        if uid in items.uids or sha256 in items.hashes:
            refused.append(row)
    return refused


def _hash(image: ImageSource | None) -> str:
    """sha256 of an encoded picture; "" for pixels, and for a file that cannot be read."""
    if image is None or isinstance(image, ArrayImage):
        return ""
    try:
        return hashlib.sha256(image.read()).hexdigest()
    except OSError:
        return ""
