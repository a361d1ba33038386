"""First-come first-served limit on the units (such as bytes) that several threads hold at once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class WeightedSemaphore:
    """Semaphore of `whole` units, granted in order of arrival; a request larger than the whole is granted alone."""

    def __init__(self, whole: int) -> None:
        self.whole = whole
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)  # threads that held something are not in the child

    def _begin(self) -> None:
        self._free, self._waiting = self.whole, deque[object]()
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, units: int) -> Iterator[None]:
        """Hold this many units for a block."""
        needed, ticket = min(units, self.whole), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= needed)
            finally:  # also where the wait was interrupted
                self._waiting.remove(ticket)
            self._free -= needed
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()
