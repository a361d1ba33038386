"""Signs of life between the processes of a run, so that one that is frozen or gone ends it with a line instead of a wait of hours.

A process in a collective waits inside of a library for all others, and no error reaches it when one of them is merely frozen. So a
thread of each process counts up in the store that the launcher keeps, and looks at the count of the next rank. When that stands still
the thread itself ends its process. The others find the reason in the store; one of them, and no second one, says it.
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
from diptych.train.parallel import World, barrier

ASKED = 10.0
"""Seconds of silence that are allowed once the run was asked to stop: a launcher kills 30 seconds after it asks."""
LOOK = 5
"""Counts that a process may miss, after a collective broke, before it is held for gone."""
LEFT, OVER = b"left", "over"
_entered = 0  # every process trains the same runs in the same order, so that this names the run among them


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a run ended for all. `status` is what its folder says: "stopped", or "failed" where a process raised an error."""

    by: int
    status: str
    reason: str


class Lost(RunError):
    """The run cannot go on because of another process. `speaks` for the one process that is to say so."""

    def __init__(self, verdict: Verdict, *, speaks: bool) -> None:
        super().__init__(verdict.reason)
        self.status, self.speaks = verdict.status, speaks


class Peers:
    """Watches the other processes while it is entered. An error that comes out of the block because another process is gone
    becomes `Lost`; every other one is reported to the others, and goes on as it is.

    silence  seconds without a sign of life after which a process counts as frozen. They are counted in signs that this process
             gave itself, so that a machine which was suspended as a whole accuses nobody
    asked    whether the run was asked to stop
    ended    called with the verdict before this process is ended from outside
    """

    def __init__(
        self, world: World, silence: float, *, asked: Callable[[], bool], ended: Callable[[Verdict], None], hint: str = ""
    ) -> None:
        self.world, self.silence, self.hint = world, silence, hint
        self._asked, self._ended = asked, ended
        self._pace = min(1.0, silence / 10)
        self._over, self._handled = threading.Event(), False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        global _entered
        if self.world.size > 1 and "MASTER_ADDR" in os.environ:
            _entered += 1
            place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            line = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=self.silence))  # type: ignore[attr-defined]
            self._store: Any = dist.PrefixStore(f"diptych/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{_entered}", line)  # type: ignore[attr-defined]
            self._store.set(f"name/{self.world.rank}", f"rank {self.world.rank} ({socket.gethostname()}, process {os.getpid()})")
            self._store.set(str(self.world.rank), "0")
            barrier(self.world)
            self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is None:
            return
        self._handled = True
        try:
            if isinstance(error, Exception) and is_broken_line(error):
                if (found := self._explain()) is not None:
                    raise found from error
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
        seen, silent, count, heard = b"", 0, 0, time.monotonic()
        while not self._over.wait(self._pace):
            limit = min(self.silence, ASKED) if self._asked() else self.silence
            count += 1
            try:
                self._store.set(str(self.world.rank), str(count))
                verdict = self._verdict()
                sign = self._store.get(str(neighbour))
                heard = time.monotonic()
            except RuntimeError:  # torch's DistError
                if time.monotonic() - heard > limit and not self._handled:
                    self._end(
                        Verdict(self.world.rank, "stopped", self._line("the store of the launcher cannot be reached")), True
                    )
                continue
            silent = silent + 1 if sign == seen and sign != LEFT else 0
            seen = sign
            if self._handled:
                continue
            if verdict is not None:
                self._end(verdict, False)
            if silent * self._pace >= limit:
                self._end(*self._publish("stopped", f"{self._name(neighbour)} gave no sign of life for {limit:g} seconds"))

    def _end(self, verdict: Verdict, speaks: bool) -> None:
        try:
            if speaks:
                print(f"error: {verdict.reason}", file=sys.stderr, flush=True)
            if speaks or self.world.main:
                self._ended(verdict)
        finally:
            os._exit(1)

    # ---------------------------------------------------------------- the main thread, after a collective broke

    def _explain(self) -> Lost | None:
        """Who is gone, or None when all are there."""
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        try:
            before = [self._store.get(str(rank)) for rank in others]
            for _ in range(LOOK):
                time.sleep(self._pace)
                if (verdict := self._verdict()) is not None:
                    return Lost(verdict, speaks=False)
            after = [self._store.get(str(rank)) for rank in others]
            gone = [rank for rank, old, new in zip(others, before, after, strict=True) if old == new != LEFT]
            names = ", ".join(map(self._name, gone))
            verdict, speaks = (
                self._publish("stopped", f"{names} {'is' if len(gone) == 1 else 'are'} gone") if gone else (None, False)
            )
        except RuntimeError:  # of the store
            verdict, speaks = Verdict(self.world.rank, "stopped", self._line("the process that started the others is gone")), True
        return None if verdict is None else Lost(verdict, speaks=speaks)

    # ---------------------------------------------------------------- the store

    def _name(self, rank: int) -> str:
        return str(self._store.get(f"name/{rank}").decode())

    def _line(self, reason: str) -> str:
        return f"{reason}; {self.hint}" if self.hint else reason

    def _verdict(self) -> Verdict | None:
        return Verdict(**json.loads(self._store.get(OVER))) if self._store.check([OVER]) else None

    def _publish(self, status: str, reason: str) -> tuple[Verdict, bool]:
        """The verdict that counts, and whether it is this one: the first wins."""
        own = Verdict(self.world.rank, status, self._line(reason))
        kept = Verdict(**json.loads(self._store.compare_set(OVER, "", json.dumps(asdict(own)))))
        return kept, kept == own


def is_broken_line(error: BaseException) -> bool:
    """Whether a collective raised this, and not the work itself. Gloo's errors are plain RuntimeErrors that name its sources."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
