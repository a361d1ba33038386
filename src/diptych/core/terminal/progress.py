"""Progress bars on stderr in interactive terminals; none in pipes and logs. Nested steps get a line of their own below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

ANY = TypeVar("ANY")
_DRAWN: list[str] = []
"""What the bar that is drawn now says, if there is one."""
_LINES: list[Progress] = []
"""The bar that `shown` draws now, if there is one: it has room for a line more."""


@contextmanager
def bar_allowed(what: str) -> Iterator[bool]:
    """Context that yields True if a progress bar may be drawn: stderr is a terminal and no other bar is shown."""
    from rich.console import Console

    free = Console(stderr=True).is_terminal and not _DRAWN
    if free:
        _DRAWN.append(what)
    try:
        yield free
    finally:
        if free:
            _DRAWN.remove(what)


def with_bar(steps: Iterable[ANY], total: int, what: str, *, least: int = 1) -> Iterator[ANY]:
    """Iterate over steps with a progress bar (description, count, remaining time), which is removed at the end.

    A turning sign shows that a step of many seconds is at work. Fewer steps than `least` are over before one looks, and have no bar.
    Called within a step of another call, its bar is a line below the other's: a part of a thousand answers moves, too.
    """
    if total < least:
        yield from steps
        return
    if _LINES:
        around = _LINES[0]
        line = around.add_task(what, total=total)
        try:
            yield from around.track(steps, task_id=line)
        finally:
            around.remove_task(line)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    about = TextColumn("[progress.description]{task.description}")
    columns = (SpinnerColumn(), about, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        bar_allowed(what) as free,
        Progress(*columns, console=Console(stderr=True), disable=not free, transient=True) as bar,
    ):
        if not free:
            yield from steps
            return
        _LINES.append(bar)
        try:
            yield from bar.track(steps, total=total, description=what)
        finally:
            _LINES.remove(bar)
