"""The ledger: one JSON line a verdict, written only by the command. A line whose sources have changed since is stale."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of one claim.

    claim              its key: "clip", or "clip/combinations"
    baseline, method   {"name": ..., "scores": {metric: [one value a seed]}}
    machine            what `core.environment` says: cores, memory, processor flags, versions
    """

    claim: str
    date: str
    commit: str
    source_hash: str
    machine: dict[str, Any]
    seeds: tuple[int, ...]
    budget: str
    data: str
    metric: str
    baseline: dict[str, Any]
    method: dict[str, Any]
    difference: float
    interval: tuple[float, float]
    p: float
    verdict: str
    seconds: float


def append(path: Path, entry: Entry) -> None:
    """Add one line. The file is only ever appended to, so two branches merge by union."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(entry), ensure_ascii=False, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def entries(path: Path) -> list[Entry]:
    """Every line, oldest first; an empty list when there is no ledger yet."""
    if not path.exists():
        return []
    found = []
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            plain = json.loads(line)
            found.append(Entry(**{**plain, "seeds": tuple(plain["seeds"]), "interval": tuple(plain["interval"])}))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"not a ledger line ({error})", file=path, row=row) from error
    return found


def latest(path: Path, key: str) -> Entry | None:
    """The newest line of a claim."""
    return next((entry for entry in reversed(entries(path)) if entry.claim == key), None)
