"""Rate limit: a token bucket for each client or kind, with a bound on the number of buckets."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

REMEMBERED = 10_000


class RateLimiter:
    """A bucket of tokens a client: `burst` at first, filled up by `rate` a second. The clients seen longest ago are forgotten."""

    def __init__(self, rate: float, burst: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._now = rate, burst, now
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def wait(self, client: Hashable) -> float:
        """0 when the client may come in (which is counted), else the seconds until it may."""
        if not self.rate:
            return 0.0
        now = self._now()
        left, last_seen = self._buckets.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - last_seen) * self.rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate
