"""Schedule of requests by host: no host gets too many requests at once or too soon, and no thread waits while another host is free."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Host:
    """Rows that wait and rows that are out, the earliest time of the next one (monotonic seconds), and seconds between two.

    early  rows that went out before the present pause was known
    """

    rows: deque[int] = field(default_factory=deque)
    active: set[int] = field(default_factory=set)
    early: set[int] = field(default_factory=set)
    next_at: float = 0.0
    pause: float = 0.0
    queued: bool = False


class HostSchedule:
    """Rows of links by host, handed out to threads.

    hosts     of each row
    per_host  rows of one host that are out at once; `pause`: seconds between two
    """

    def __init__(self, hosts: Sequence[str], *, per_host: int, pause: float = 0.0) -> None:
        self._host_of = dict(enumerate(hosts))
        self._hosts: dict[str, _Host] = {}
        self._per_host, self._pause, self._out = per_host, pause, 0
        self._heap: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        for row, host in self._host_of.items():
            self._hosts.setdefault(host, _Host(pause=pause)).rows.append(row)
        for host in self._hosts:
            self._push(host)

    def take(self) -> int | None:
        """The next row, as soon as its host may be asked; None when there is none left."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._stopped or (not self._heap and not self._out and not any(one.rows for one in self._hosts.values())):
                    return None
                if not self._heap:
                    self._changed.wait()
                    continue
                at, _, name = self._heap[0]
                host = self._hosts[name]
                if not host.rows:  # they were given up
                    heapq.heappop(self._heap)
                    host.queued = False
                    continue
                if max(at, host.next_at) > now:
                    if host.next_at > at:  # it was postponed since
                        heapq.heappop(self._heap)
                        heapq.heappush(self._heap, (host.next_at, next(self._serial), name))
                    else:
                        self._changed.wait(at - now)
                    continue
                heapq.heappop(self._heap)
                host.queued = False
                row = host.rows.popleft()
                host.active.add(row)
                self._out += 1
                host.next_at = now + host.pause
                self._push(name)
                self._changed.notify_all()
                return row

    def done(self, row: int, *, then: str | None = None) -> None:
        """A row that was taken is finished, or was put back. then: the host at which it is asked next, where a redirect leads there."""
        with self._changed:
            name = self._host_of[row]
            self._hosts[name].active.discard(row)
            self._out -= 1
            self._push(name)
            if then is not None:
                self._host_of[row] = then
                self._hosts.setdefault(then, _Host(pause=self._pause)).rows.appendleft(row)
                self._push(then)
            self._changed.notify_all()

    def put_back(self, row: int, wait: float) -> None:
        """Ask a row again later, and no other of its host before."""
        with self._changed:
            host = self._hosts[self._host_of[row]]
            host.rows.appendleft(row)
            host.next_at = max(host.next_at, time.monotonic() + wait)

    def slow_down(self, row: int, pause: float) -> bool:
        """Leave this many seconds between two requests to the host of a row, if it is more than before. False where the row went
        out before that was known, beside another: it has to be put back."""
        with self._changed:
            host = self._hosts[self._host_of[row]]
            if pause > host.pause:
                host.next_at, host.pause = max(host.next_at, time.monotonic() + pause), pause
                host.early = host.active - {row}
            in_time = row not in host.early
            host.early.discard(row)
            return in_time

    def give_up(self, row: int) -> list[int]:
        """Rows of the same host that wait, which are not handed out any more."""
        with self._changed:
            host = self._hosts[self._host_of[row]]
            rows = list(host.rows)
            host.rows.clear()
            self._changed.notify_all()
            return rows

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _push(self, name: str) -> None:
        host = self._hosts[name]
        if host.rows and not host.queued and len(host.active) < self._per_host:
            host.queued = True
            heapq.heappush(self._heap, (host.next_at, next(self._serial), name))
