"""Data of a service: several sets, looked at again when their folders change, and the items that the service itself has changed since.

A change by another process (`diptych data add`, `data takedown`) is seen at the next request: the files that every change touches are
compared by time and size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.errors import DiptychError
from diptych.core.sample import Sample
from diptych.data.concat import ConcatDataset
from diptych.data.dataset import Pool
from diptych.data.join import concatenate
from diptych.data.shards.build import open_built
from diptych.data.shards.changes import LOG, REMOVED
from diptych.data.shards.mark import MANIFEST, MARK, is_built
from diptych.data.shards.revise import TAKEDOWN
from diptych.data.shards.takedown import TakenDown, taken_down
from diptych.serve import logs

WATCHED = (MARK, MANIFEST, LOG, "quarantine.parquet", "tables/texts.parquet", "tables/split.parquet")
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(eq=False)
class DataPart:
    """One data set of a service.

    folder  a folder of `data build`, which can change; None for data that stay as they are
    taken_down  uids and hashes that are not taken in again
    own     items that this service has put there since it opened the folder, by uid; None for those that it removed
    """

    data: Dataset
    folder: Path | None = None
    own: dict[str, Sample | None] = field(default_factory=dict)
    row_of: dict[str, int] = field(init=False)
    gone: set[str] = field(init=False)
    taken_down: TakenDown = field(init=False)
    stamp: Stamp = field(init=False)

    def __post_init__(self) -> None:
        self.stamp = self.stamp_now()
        self._look_at(self.data)

    @classmethod
    def open(cls, address: str | Path, *, inside: str = "own") -> DataPart:
        """Part of any data; a built folder is looked at again when it changes. inside: as `dp.read` takes it."""
        from diptych.api.data import read

        opened = read(address, captions=False, inside=inside)
        folder = Path(address)
        return cls.open_folder(folder, opened) if is_built(folder) else cls(opened)

    @classmethod
    def open_folder(cls, folder: Path, data: Dataset | None = None) -> DataPart:
        """Part of a built folder; `data` where they have been opened by now."""
        stamp = _stamp(folder)
        part = cls(open_built(folder).named(folder.resolve().name) if data is None else data, folder)
        part.stamp = stamp
        return part

    def stamp_now(self) -> Stamp:
        return () if self.folder is None else _stamp(self.folder)

    def reopen(self) -> None:
        """Read the folder again."""
        assert self.folder is not None
        stamp = _stamp(self.folder)  # before: what changes while it is read is seen the next time
        data = open_built(self.folder).named(self.data.name)
        self._look_at(data)
        self.stamp = stamp

    def _look_at(self, data: Dataset) -> None:
        rows = {uid: row for row, uid in enumerate(data.uids)}
        entries = getattr(data, "quarantine", ())
        gone = {bad.uid for bad in entries if bad.stage in (TAKEDOWN, REMOVED)} - rows.keys()
        self.data, self.row_of, self.gone, self.own = data, rows, gone, {}
        self.taken_down = TakenDown() if self.folder is None else taken_down(self.folder)

    def sample(self, uid: str) -> Sample | None:
        """An item, or None."""
        if uid in self.own:
            return self.own[uid]
        return self.data[self.row_of[uid]] if uid in self.row_of else None

    def __contains__(self, uid: str) -> bool:
        return self.own[uid] is not None if uid in self.own else uid in self.row_of


class ServedData:
    """Items by uid over all parts; of a uid in two parts the first one counts.

    opener    opens further data by address
    recorded  addresses of such data, which the indexes of the service name; they are opened when they turn up
    """

    def __init__(self, parts: Sequence[DataPart], opener: Callable[[str], Any] | None = None) -> None:
        self.parts = list(parts)
        self.recorded: Callable[[], Sequence[str]] = list
        self._opener = opener
        self._tried: set[str] = set()
        self._lock = threading.Lock()
        self._whole: Any = None

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def is_stale(self) -> bool:
        """True if a folder has changed, or an index names data that are not open."""
        if any(part.folder is not None and part.stamp != part.stamp_now() for part in self.parts):
            return True
        return self._opener is not None and not self._tried.issuperset(self.recorded())

    def refresh(self) -> None:
        """Read again what has changed. A folder that cannot be read at the moment stays as it was."""
        with self._lock:
            for part in self.parts:
                if part.folder is not None and part.stamp != part.stamp_now():
                    self._reopen(part)
            for address in self.recorded() if self._opener is not None else ():
                if address not in self._tried:
                    self._tried.add(address)
                    self._open_recorded(address)

    def _reopen(self, part: DataPart) -> None:
        try:
            part.reopen()
        except DiptychError as error:
            logs.event("data", problem=type(error).__name__)
            return
        self._whole = None

    def _open_recorded(self, address: str) -> None:
        assert self._opener is not None
        folder = Path(address)
        if any(part.folder is not None and part.folder.absolute() == folder.absolute() for part in self.parts):
            return
        try:
            data = self._opener(address)
        except DiptychError as error:
            logs.event("data", problem=type(error).__name__)
            return
        self.parts.append(DataPart.open_folder(folder, data) if is_built(folder) else DataPart(data))
        self._whole = None

    def part_of(self, uid: str) -> DataPart | None:
        """The part that has an item, or None. What was removed from a folder is not shown from data that stay as they are."""
        parts = list(self.parts)
        gone = any(uid in part.gone for part in parts)
        return next((part for part in parts if uid in part and not (gone and part.folder is None)), None)

    def sample(self, uid: str) -> Sample | None:
        """An item with its texts and fields, or None."""
        part = self.part_of(uid)
        return None if part is None else part.sample(uid)

    def is_gone(self, uid: str) -> bool:
        """True for an item that was removed or taken down, and is in no part."""
        return any(uid in part.gone for part in self.parts) and self.part_of(uid) is None

    def uids(self) -> Iterator[str]:
        """Uids of all items."""
        seen: set[str] = set()
        for part in list(self.parts):
            for uid in (*part.row_of, *part.own):
                if uid not in seen and uid in part:
                    seen.add(uid)
                    yield uid

    def whole(self) -> Any:
        """All items as one data set, with what the service has changed; None without data. Takes as long as reading them."""
        with self._lock:
            for part in self.parts:
                if part.own and part.folder is not None:
                    self._reopen(part)
            if self._whole is None and self.parts:
                self._whole = _together([part.data for part in self.parts])
            return self._whole


def _together(parts: list[Any]) -> Any:
    """Data sets as one, without what an earlier one has."""
    seen: set[str] = set()
    fresh = []
    for data in parts:
        rows = [row for row, uid in enumerate(data.uids) if uid not in seen]
        seen.update(data.uids)
        fresh.append(data if len(rows) == len(data) else data.select(rows))
    if len(fresh) == 1:
        return fresh[0]
    if all(isinstance(data, Pool) for data in fresh):
        try:
            return concatenate(fresh)
        except DiptychError:  # columns of other kinds: facets are of the first
            return fresh[0]
    return ConcatDataset("data", tuple(fresh))


def _stamp(folder: Path) -> Stamp:
    """Time, size and number of each file that a change of the folder touches."""
    facts: list[tuple[int, int, int] | None] = []
    for name in WATCHED:
        try:
            stat = (folder / name).stat()
        except OSError:
            facts.append(None)
        else:
            facts.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(facts)
