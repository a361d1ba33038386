"""Adds, corrects and removes items of a running service: first in the data, where it is on disk, then in every index, then the answer.

One thread takes the changes that have arrived and makes them together: one write to the log of the folder, one call of each index in the
model's thread. What fails is taken back, in the data and in the indexes. A kill after the write to the log leaves an item that
the indexes lack, or have too many; `reconcile` mends that when the service starts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diptych.core.errors import DiptychError, RunError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.shards.changes import LogMark, NothingStored, PutItem, append_changes, changing, read_changes
from diptych.data.shards.mark import read_mark
from diptych.index.base import Index
from diptych.index.engine.disk import DiskFull, need_room
from diptych.index.engine.store import ItemFilter
from diptych.serve import logs
from diptych.serve.collection.item_changes import Decision, ItemChange, ItemRemoval, NewItem, check_columns, decide, sample_of
from diptych.serve.collection.served_data import DataPart, ServedData
from diptych.serve.refusals import RequestError

if TYPE_CHECKING:
    from diptych.serve.service import Service

BATCH = 64
"""Changes that are made together, at most."""
IDLE_SECONDS, SETTLE_AFTER = 2.0, 2_000
"""The engine puts new items in order after so long without a change, or after so many."""
FULL = "the disk is full: nothing of it was stored (send it again when there is room)"
RECENT = 2 * BATCH
"""Last changes of the log that `reconcile` makes again in the indexes: those that a kill may have cut in two."""


@dataclass(eq=False)
class WriteJob:
    """A change and its answer, later."""

    change: ItemChange
    result: Future[dict[str, Any]] = field(default_factory=Future)


@dataclass
class ChangeBatch:
    """Changes to one part of the data with what was decided on them."""

    part: DataPart
    jobs: list[WriteJob]
    decisions: list[Decision]
    put: list[Sample] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class ItemWriter:
    """The thread that changes items, and its queue. `close` it before the model's thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._jobs: queue.Queue[WriteJob | None] = queue.Queue(service.limits.queue)
        self._rows: dict[int, dict[str, dict[str, Any]]] = {}
        self._turn = threading.Lock()
        self._unsettled = 0
        self._watched: set[str] | None = None
        self._thread = threading.Thread(target=self._work, name="diptych-writer", daemon=True)
        self._thread.start()

    @property
    def data(self) -> ServedData:
        return self._service.data

    def submit(self, change: ItemChange) -> Future[dict[str, Any]]:
        """Make a change; the future has the answer. Raises RequestError (429) when too many wait."""
        job = WriteJob(change)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise RequestError(429, "too many changes wait: try again later", retry_after=1) from None
        return job.result

    def close(self, seconds: float | None = None) -> None:
        """Finish what is in the queue, then stop."""
        self._jobs.put(None)
        self._thread.join(seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager: no change is made meanwhile; changes wait."""
        with self._turn:
            yield

    @contextmanager
    def watched(self) -> Iterator[set[str]]:
        """Context manager: the set gets the uids of all items that are changed in the block."""
        self._watched = uids = set[str]()
        try:
            yield uids
        finally:
            self._watched = None

    def target(self) -> DataPart:
        """The part of the data that takes new items: the first built folder. Raises RequestError (409)."""
        part = next((part for part in self.data.parts if part.folder is not None), None)
        if part is None:
            raise RequestError(
                409, "this service cannot keep items (expected diptych serve ... --data BUILT, of `diptych data build`)"
            )
        return part

    # ------------------------------------------------------------ the thread

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS if self._unsettled else None)
            except queue.Empty:
                self._settle()
                continue
            jobs = [job]
            while len(jobs) < BATCH and jobs[-1] is not None:
                try:
                    jobs.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            live = [job for job in jobs if job is not None and job.result.set_running_or_notify_cancel()]
            while live:
                now, live = _first_of_each(live)
                with self._turn:
                    self._make_all(now)
            if jobs[-1] is None:
                return
            if self._unsettled >= SETTLE_AFTER:
                self._settle()

    def _make_all(self, jobs: list[WriteJob]) -> None:
        """Make changes of different items, those of one part of the data together."""
        self.data.refresh()
        by_part: dict[int, tuple[DataPart, list[WriteJob]]] = {}
        for job in jobs:
            try:
                part = self._part_of(job.change)
            except RequestError as error:
                job.result.set_exception(error)
            else:
                by_part.setdefault(id(part), (part, []))[1].append(job)
        for part, own in by_part.values():
            self._make(part, own)

    def _part_of(self, change: ItemChange) -> DataPart:
        part = self.data.part_of(change.uid)
        if part is None and not isinstance(change, NewItem):
            part = next((one for one in self.data.parts if change.uid in one.gone), None)
            if part is None:
                raise RequestError(404, "no item has that uid")
        if part is None:
            return self.target()
        if part.folder is None:
            raise RequestError(409, "the data of that item cannot be changed (expected a folder of `diptych data build`)")
        return part

    def _make(self, part: DataPart, jobs: list[WriteJob]) -> None:
        """Make some changes together; where that fails each alone, so that one cannot fail the others."""
        try:
            answers = self._try(part, jobs)
        except Exception as error:  # any error becomes the answer of those jobs; the thread goes on
            if len(jobs) > 1:
                for job in jobs:
                    self._make(part, [job])
                return
            jobs[0].result.set_exception(_refusal(error))
            return
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, RequestError):
                job.result.set_exception(answer)
            else:
                job.result.set_result(answer)

    def _try(self, part: DataPart, jobs: list[WriteJob]) -> list[dict[str, Any] | RequestError]:
        assert part.folder is not None
        with changing(part.folder):
            if part.stamp != part.stamp_now():
                part.reopen()
                self._rows.pop(id(part), None)
            if not part.own:
                self._rows.pop(id(part), None)
            rows = self._rows.setdefault(id(part), {})
            answers: list[dict[str, Any] | RequestError] = []
            batch = ChangeBatch(part, [], [])
            for job in jobs:
                try:
                    self._check(job.change, part)
                    decision = decide(job.change, part, rows)
                except RequestError as error:
                    answers.append(error)
                else:
                    batch.jobs.append(job)
                    batch.decisions.append(decision)
                    answers.append(decision.answer)
            self._store(batch, rows)
        return answers

    def _check(self, change: ItemChange, part: DataPart) -> None:
        gone = part.taken_down
        if isinstance(change, NewItem) and (
            change.uid in gone.uids or (change.picture is not None and change.picture.sha256 in gone.hashes)
        ):
            raise RequestError(410, "that item was taken down and is not taken in again")
        columns = getattr(change, "columns", None)
        if columns:
            check_columns(columns, part, [index.collection.facts.columns for index in self._indexes])

    def _store(self, batch: ChangeBatch, rows: dict[str, dict[str, Any]]) -> None:
        """Write the log, then the indexes; take both back where the indexes fail."""
        part = batch.part
        assert part.folder is not None
        entries = [decision.entry for decision in batch.decisions if decision.entry is not None]
        for folder in (part.folder, *(index.folder for index in self._indexes)):
            need_room(folder, 0)
        mark = append_changes(part.folder, entries, revision=read_mark(part.folder)["revision"]) if entries else None
        try:
            texts = {entry.uid: entry.texts for entry in entries if isinstance(entry, PutItem)}
            fresh = {row["uid"]: row for row in mark.rows} if mark is not None else {}
            batch.put = [sample_of(part, row, texts[uid]) for uid, row in fresh.items()]
            batch.put += self._unindexed(batch)
            batch.removed = [job.change.uid for job in batch.jobs if isinstance(job.change, ItemRemoval)]
            if batch.put or batch.removed:
                self._service.inside(lambda: self._index(batch))
        except BaseException:
            if mark is not None:
                self._take_back(batch, mark)
            raise
        rows.update(fresh)
        self._note(batch)

    def _unindexed(self, batch: ChangeBatch) -> list[Sample]:
        """Items that are there as a client sends them again, but not in the indexes: an earlier call was cut off."""
        again = [job.change.uid for job, d in zip(batch.jobs, batch.decisions, strict=True) if d.entry is None]
        samples = [batch.part.sample(uid) for uid in again if not self._service.is_indexed(uid)]
        return [sample for sample in samples if sample is not None]

    def _index(self, batch: ChangeBatch) -> None:
        """In the model's thread: items into every index, removed ones out of it."""
        pool = Pool.from_samples(batch.put) if batch.put else None
        stored: set[str] = set()
        for index in self._indexes:
            if pool is not None:
                index.add(pool, progress=False, settle=False)
                stored |= {
                    str(i.payload["uid"]) for i in index.collection.engine.scroll(ItemFilter(uids=pool.uids), uid_only=True)
                }
            if batch.removed:
                index.remove(batch.removed)
        if pool is not None and self._indexes and (left := [uid for uid in pool.uids if uid not in stored]):
            raise RequestError(
                422, f"nothing of the item '{left[0]}' can be searched (expected a picture or texts that the model reads)"
            )

    def _take_back(self, batch: ChangeBatch, mark: LogMark) -> None:
        mark.restore()
        before = [(sample.uid, batch.part.sample(sample.uid)) for sample in batch.put]
        new, old = [uid for uid, sample in before if sample is None], [sample for _, sample in before if sample is not None]
        old += [sample for uid in batch.removed if (sample := batch.part.sample(uid)) is not None]

        def undo() -> None:
            for index in self._indexes:
                with suppress(DiptychError, OSError):
                    index.remove(new)
                    if old:
                        index.add(Pool.from_samples(old), progress=False, settle=False)

        with suppress(Exception):  # the error that led here is the one to report; `reconcile` does the rest
            self._service.inside(undo)

    def _note(self, batch: ChangeBatch) -> None:
        """Note the change, so that answers follow it from now on."""
        part = batch.part
        for sample in batch.put:
            part.own[sample.uid] = sample
            part.gone.discard(sample.uid)
        for uid in batch.removed:
            part.own[uid] = None
            part.gone.add(uid)
        part.stamp = part.stamp_now()
        self._unsettled += len(batch.put) + len(batch.removed)
        if self._watched is not None:
            self._watched.update(job.change.uid for job in batch.jobs)
        self._service.note_items([sample.uid for sample in batch.put], batch.removed)

    def _settle(self) -> None:
        """Let the engines put new items in order, in the model's thread."""
        self._unsettled = 0
        for index in self._indexes:
            try:
                self._service.inside(index.collection.settle)
            except DiptychError as error:  # everything is stored and searched: order can wait
                logs.event("settle", problem=type(error).__name__)

    @property
    def _indexes(self) -> list[Index]:
        return [side.index for side in self._service.sides.values() if side.index is not None]


def reconcile(
    data: ServedData, indexes: Sequence[Index], *, progress: Callable[[str], None] = lambda text: None
) -> tuple[int, int]:
    """Make indexes agree with the data: what was removed or taken down leaves them, and what the logs of the data hold comes in. Returns
    the numbers of items added and removed. Called before a service starts."""
    added = removed = 0
    for index in indexes:
        there = set(index.uids())
        for part in data.parts:
            if extra := sorted(part.gone & there):
                removed += index.remove(extra)
            if part.folder is None:
                continue
            uids = [*read_changes(part.folder).rows]
            recent = set(uids[-RECENT:])
            wanted = [part.row_of[uid] for uid in uids if uid in part.row_of and (uid not in there or uid in recent)]
            if wanted:
                progress(f"{len(wanted):,} items of {part.folder} go into {index.folder}")
                added += index.add(part.data.select(wanted), progress=False)
    return added, removed


def recent_changes(data: ServedData) -> set[str]:
    """Uids of the last changes in the logs of the data."""
    folders = [part.folder for part in data.parts if part.folder is not None]
    return {uid for folder in folders for uid in [*read_changes(folder).rows][-RECENT:]}


def _first_of_each(jobs: list[WriteJob]) -> tuple[list[WriteJob], list[WriteJob]]:
    """The first change of each item, and the others, which come after it."""
    seen: set[str] = set()
    first: list[WriteJob] = []
    rest: list[WriteJob] = []
    for job in jobs:
        (rest if job.change.uid in seen else first).append(job)
        seen.add(job.change.uid)
    return first, rest


def _refusal(error: Exception) -> Exception:
    """The error as an answer of the service."""
    if isinstance(error, DiskFull | NothingStored):
        return RequestError(507, FULL)
    if isinstance(error, RunError) and "being changed" in str(error):
        return RequestError(503, "the data are being changed by another process", retry_after=2)
    return error
