"""Verification of a stored index: metadata, vocabulary and every item against the checksums that were written with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.core.errors import RunError
from diptych.core.terminal.progress import with_bar
from diptych.index.checksums import Checksums, RecordedSums, item_key, item_sum, words_problem
from diptych.index.engine.store import IndexItem, SparseVector
from diptych.index.facts import FILE, facts_problem
from diptych.index.lexicon import FILE as WORDS

if TYPE_CHECKING:
    from diptych.index.base import Index

SHOWN = 20


@dataclass
class IndexVerification:
    """Result of a verification.

    items          how many are stored
    unrecorded     items without a checksum, of versions that wrote none: only their numbers were looked at
    changed        uid and reason of each item that is not what was written
    missing        items that were written and are not there
    problems       faults of files
    """

    folder: Path
    items: int = 0
    unrecorded: int = 0
    changed: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.changed or self.missing or self.problems)

    @property
    def exit_code(self) -> int:
        """0 when all is well, else 1."""
        return 0 if self.ok else 1

    def lines(self) -> list[str]:
        wrong = [*self.problems]
        wrong += [f"{self.missing:,} items that were written are not there: add the data again"] if self.missing else []
        wrong += [f"{uid}: {reason}" for uid, reason in self.changed[:SHOWN]]
        if len(self.changed) > SHOWN:
            wrong.append(f"... and {len(self.changed) - SHOWN:,} more items")
        if self.changed:
            wrong.append("add these samples again (`diptych index add`), or build the index again")
        if self.unrecorded:
            wrong.append(f"{self.unrecorded:,} items have no checksum: `diptych index compact` writes them")
        return [f"{self.items:,} items checked in {self.folder}", *(wrong or ["every item is what was written"])]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "ok": self.ok}


def verify_index(index: Index) -> IndexVerification:
    """Check an open index. Nothing is changed. What the engine cannot read is one of the problems."""
    report = IndexVerification(index.folder)
    if problem := facts_problem(index.folder):
        report.problems.append(f"{index.folder / FILE} {problem}")
    try:
        sums = Checksums(index.folder).read()
    except RunError as error:
        report.problems.append(str(error))
        return report
    if problem := words_problem(index.folder / WORDS, sums):
        report.problems.append(f"{index.folder / WORDS} {problem}: build the index again")
    left = set(sums.item_sums)
    try:
        for item in with_bar(index.collection.scroll(index.spaces()), len(index), "checking", least=10_000):
            report.items += 1
            key, sample = item_key(item)
            left.discard(key)
            fault = _problem(item, key, sample, sums)
            report.unrecorded += fault is None
            if fault := _odd_numbers(item) if fault is None else fault:
                report.changed.append((str(item.payload.get("uid")), fault))
    except RunError as error:
        report.problems.append(str(error))
        return report
    report.missing = sum(sums.sample_of[key] not in sums.unsettled for key in left)
    return report


def _problem(item: IndexItem, key: int, sample: int, sums: RecordedSums) -> str | None:
    """Reason why an item is not what was written, "" if it is, None if nothing was recorded of it."""
    if key in sums.item_sums:
        return "" if item_sum(item) in sums.item_sums[key] else "is not what was written: its checksum is another"
    return "was not written by this index: it has no checksum" if sums.is_whole and sample not in sums.unsettled else None


def _odd_numbers(item: IndexItem) -> str:
    for name, vector in item.vectors.items():
        values = vector.values if isinstance(vector, SparseVector) else vector
        if not np.isfinite(values).all():
            return f"its vector{f' {name}' if name else ''} holds numbers that are not finite"
    return ""
