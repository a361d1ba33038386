"""Ctrl-C and SIGTERM: the first requests a graceful stop, further ones terminate; exit codes 130 and 143.

Python runs a handler only when its main thread returns from native code. A process that waits for another one
inside of a collective never does, so signals are also read from a pipe, by a thread that can end the process from outside.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

WATCHED = (signal.SIGINT, signal.SIGTERM)
GRACE = 5.0
"""Seconds that the main thread has to take a first signal up, where nothing is saved after it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread where Ctrl-C raises KeyboardInterrupt: what cleans up after one does so after both."""


class StopRequested(Exception):
    """Raised by `check_stop` between two parts of long work, of which those that are finished are kept."""


def check_stop() -> None:
    """Raises StopRequested if a watch that waits for work to come to an end has noted a signal."""
    if any(watch.stop_requested and not watch.raises for watch in _entered):
        raise StopRequested


def exit_code(number: int) -> int:
    """Shell exit code of a process ended by signal `number`: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def raise_interrupt(number: int) -> None:
    """Raises what a first signal means if there is nothing to finish: KeyboardInterrupt or Terminated."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


class SignalWatch:
    """Takes SIGINT and SIGTERM while it is entered; the handlers from before are back when it is left.

    first       called in the main thread with the number of the first signal; None only notes it, in `number`
    before_end  called before the process is ended from outside, by a thread
    grace       seconds until a first signal that the main thread did not take up ends the process; None waits for ever

    A second Ctrl-C raises KeyboardInterrupt. A second SIGTERM, and any third signal, ends the process at once with its exit code,
    also when the main thread does not come back to Python. Outside of the main thread, where Python allows no handlers, and while
    somebody else's handlers stand in for these, it does nothing.
    """

    def __init__(
        self,
        first: Callable[[int], None] | None = None,
        *,
        before_end: Callable[[], None] | None = None,
        grace: float | None = None,
    ) -> None:
        self.number: int | None = None
        self._first, self._before_end, self._grace = first, before_end, grace
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None

    @property
    def raises(self) -> bool:
        return self._first is not None

    @property
    def stop_requested(self) -> bool:
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._pipe = reading, writing = os.pipe()
            os.set_blocking(writing, False)
            self._wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()
            self._before = {number: signal.signal(number, self._handle) for number in WATCHED}
            _entered.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pipe is None:
            return
        if self in _entered:  # not in a fork
            _entered.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])  # the thread reads to the end and closes the other side
        self._pipe = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            if self._first:
                self._first(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _watch(self, reading: int) -> None:
        count = 0
        while byte := os.read(reading, 1):
            number = byte[0]
            if number not in WATCHED or signal.getsignal(number) != self._handle:
                continue
            count += 1
            if count > 2 or (count == 2 and number == signal.SIGTERM):
                self._end(number)
            if count == 1 and self._grace is not None:
                select.select([reading], [], [], self._grace)
                if self.number is None and signal.getsignal(number) == self._handle:
                    self._end(number)
        os.close(reading)

    def _end(self, number: int) -> None:
        try:
            if self._before_end:
                self._before_end()
        finally:
            os._exit(exit_code(number))


_entered: list[SignalWatch] = []
"""The innermost last."""


def _forget_in_child() -> None:
    """The pipe is shared after a fork: what a child receives is not for its parent. Nor is a child to clean up after its parent."""
    if _entered:
        signal.set_wakeup_fd(-1)
        if _entered[-1].raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _entered.clear()


os.register_at_fork(after_in_child=_forget_in_child)
