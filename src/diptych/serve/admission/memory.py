"""Memory limit of all requests together: bodies that are being read, and pictures by the size that their headers declare.

It is taken before it is used, and given back when the request ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from diptych.serve.refusals import RequestError


class MemoryBudget:
    """room: bytes for all requests together, and so also for one."""

    def __init__(self, room: int) -> None:
        self.room, self.held = room, 0
        self._mine: ContextVar[list[int]] = ContextVar("held by this request")

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around a request, in its own task."""
        mine: list[int] = []
        before = self._mine.set(mine)
        try:
            yield
        finally:
            self.held -= sum(mine)
            self._mine.reset(before)

    def take(self, count: int) -> None:
        """Raises Refused: 413 when this request alone is too much, 429 when the others leave no room. Takes nothing then."""
        mine = self._mine.get()
        if sum(mine) + count > self.room:
            raise RequestError(413, f"the request and its pictures take more than {self.room:,} bytes")
        if self.held + count > self.room:
            raise RequestError(429, "too many large requests at once: try again later", retry_after=1)
        mine.append(count)
        self.held += count
