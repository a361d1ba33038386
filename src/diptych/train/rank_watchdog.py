"""Watchdog over the ranks of a distributed run: a frozen or lost rank ends the run with one line instead of a wait of hours.

A process in a collective waits inside of a library for all others, and no error reaches it when one of them is merely frozen. So a
thread of each process counts up in the store of the launcher (its heartbeat), and checks the count of the next rank. When that stands
still the thread itself ends its process. The others read the reason from the store; exactly one of them prints it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist

from diptych.core.errors import RunError
from diptych.train.parallel import DistributedContext, barrier

STOP_TIMEOUT = 10.0
"""Seconds of silence that are allowed once the run was asked to stop: a launcher kills 30 seconds after it asks."""
MISSED_BEATS = 5
"""Counts that a process may miss, after a collective broke, before it is held for gone."""
LEFT, OVER = b"left", "over"
_entered = 0  # every process trains the same runs in the same order, so that this names the run among them


@dataclass(frozen=True, slots=True)
class StopReason:
    """Reason why all ranks end. `status` is what the run folder records: "stopped", or "failed" where a process raised an error."""

    by: int
    status: str
    reason: str


class RankLost(RunError):
    """The run cannot go on because of another rank. `speaks` is true in the one process that reports it."""

    def __init__(self, verdict: StopReason, *, speaks: bool) -> None:
        super().__init__(verdict.reason)
        self.status, self.speaks = verdict.status, speaks


class RankWatchdog:
    """Context that watches the other ranks. An error raised in the block because another rank is gone becomes `RankLost`; any other
    error is published to the other ranks, and raised as it is.

    silence  seconds without a heartbeat after which a rank counts as frozen. They are counted in this process's own heartbeats, so that
         a machine which was suspended as a whole ends nothing
    stop_requested  whether the run was asked to stop
    ended    called with the reason before this process is ended from outside
    """

    def __init__(
        self,
        world: DistributedContext,
        silence: float,
        *,
        stop_requested: Callable[[], bool],
        ended: Callable[[StopReason], None],
        hint: str = "",
    ) -> None:
        self.world, self.silence, self.hint = world, silence, hint
        self._stop_requested, self._ended = stop_requested, ended
        self._pace = min(1.0, silence / 10)
        self._over, self._handled = threading.Event(), False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        global _entered
        if self.world.size > 1 and "MASTER_ADDR" in os.environ:
            _entered += 1
            address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            line = dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=self.silence))  # type: ignore[attr-defined]
            self._store: Any = dist.PrefixStore(f"diptych/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{_entered}", line)  # type: ignore[attr-defined]
            self._store.set(f"name/{self.world.rank}", f"rank {self.world.rank} ({socket.gethostname()}, process {os.getpid()})")
            self._store.set(str(self.world.rank), "0")
            barrier(self.world)
            self._thread = threading.Thread(target=self._watch, name="rank-watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is None:
            return
        self._handled = True
        try:
            if isinstance(error, Exception) and is_collective_error(error):
                if (lost := self.lost_ranks()) is not None:
                    raise lost from error
            elif isinstance(error, Exception):
                self._publish("failed", f"{self._name(self.world.rank)}: {type(error).__name__}: {error}")
            elif error is not None:
                self._publish("stopped", f"{self._name(self.world.rank)} was interrupted")
        finally:
            self._over.set()
            with suppress(RuntimeError):  # who kept the store is gone, and with it whoever would read this
                self._store.set(str(self.world.rank), LEFT)

    # ---------------------------------------------------------------- the thread

    def _watch(self) -> None:
        neighbour = (self.world.rank + 1) % self.world.size
        previous, silent, count, last_contact = b"", 0, 0, time.monotonic()
        while not self._over.wait(self._pace):
            limit = min(self.silence, STOP_TIMEOUT) if self._stop_requested() else self.silence
            count += 1
            try:
                self._store.set(str(self.world.rank), str(count))
                verdict = self._verdict()
                beat = self._store.get(str(neighbour))
                last_contact = time.monotonic()
            except RuntimeError:  # torch's DistError
                if time.monotonic() - last_contact > limit and not self._handled:
                    self._end(
                        StopReason(self.world.rank, "stopped", self._line("the store of the launcher cannot be reached")), True
                    )
                continue
            silent = silent + 1 if beat == previous and beat != LEFT else 0
            previous = beat
            if self._handled:
                continue
            if verdict is not None:
                self._end(verdict, False)
            if silent * self._pace >= limit:
                self._end(*self._publish("stopped", f"{self._name(neighbour)} gave no sign of life for {limit:g} seconds"))

    def _end(self, verdict: StopReason, speaks: bool) -> None:
        try:
            if speaks:
                print(f"error: {verdict.reason}", file=sys.stderr, flush=True)
            if speaks or self.world.main:
                self._ended(verdict)
        finally:
            os._exit(1)

    # ---------------------------------------------------------------- the main thread, after a collective broke

    def lost_ranks(self) -> RankLost | None:
        """Error that names the lost ranks, or None when all are there; takes MISSED_BEATS heartbeats."""
        if self._thread is None:
            return None
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        try:
            before = [self._store.get(str(rank)) for rank in others]
            for _ in range(MISSED_BEATS):
                time.sleep(self._pace)
                if (verdict := self._verdict()) is not None:
                    return RankLost(verdict, speaks=False)
            after = [self._store.get(str(rank)) for rank in others]
            gone = [rank for rank, old, new in zip(others, before, after, strict=True) if old == new != LEFT]
            names = ", ".join(map(self._name, gone))
            verdict, speaks = (
                self._publish("stopped", f"{names} {'is' if len(gone) == 1 else 'are'} gone") if gone else (None, False)
            )
        except RuntimeError:  # of the store
            verdict, speaks = (
                StopReason(self.world.rank, "stopped", self._line("the process that started the others is gone")),
                True,
            )
        return None if verdict is None else RankLost(verdict, speaks=speaks)

    # ---------------------------------------------------------------- the store

    def _name(self, rank: int) -> str:
        return str(self._store.get(f"name/{rank}").decode())

    def _line(self, reason: str) -> str:
        return f"{reason}; {self.hint}" if self.hint else reason

    def _verdict(self) -> StopReason | None:
        return StopReason(**json.loads(self._store.get(OVER))) if self._store.check([OVER]) else None

    def _publish(self, status: str, reason: str) -> tuple[StopReason, bool]:
        """The reason that counts for all ranks, and whether it is this one: the first wins."""
        own = StopReason(self.world.rank, status, self._line(reason))
        first = StopReason(**json.loads(self._store.compare_set(OVER, "", json.dumps(asdict(own)))))
        return first, first == own


def is_collective_error(error: BaseException) -> bool:
    """True if a collective raised this error, not the work itself. Gloo's errors are plain RuntimeErrors that name its sources."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
