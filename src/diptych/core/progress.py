"""A bar on stderr where a person is watching; nothing where none is, as in a pipe or a log. One bar at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

ANY = TypeVar("ANY")
_DRAWN: list[str] = []
"""What the bar that is drawn now says, where there is one."""


@contextmanager
def alone(what: str) -> Iterator[bool]:
    """Whether a bar may be drawn inside: somebody watches, and none is drawn around it, as by a training that stops to evaluate."""
    from rich.console import Console

    free = Console(stderr=True).is_terminal and not _DRAWN
    if free:
        _DRAWN.append(what)
    try:
        yield free
    finally:
        if free:
            _DRAWN.remove(what)


def shown(steps: Iterable[ANY], total: int, what: str, *, least: int = 1) -> Iterator[ANY]:
    """The steps, with a bar that says what is done, how much of it, and for how long still; it goes when they are through.

    A turning sign shows that a step of many seconds is at work. Fewer steps than `least` are over before one looks, and have no bar.
    """
    if total < least:
        yield from steps
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
        alone(what) as free,
        Progress(*columns, console=Console(stderr=True), disable=not free, transient=True) as bar,
    ):
        yield from bar.track(steps, total=total, description=what)
