"""A bar on stderr where a person is watching; nothing where none is, as in a pipe or a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

ANY = TypeVar("ANY")


def shown(steps: Iterable[ANY], total: int, what: str) -> Iterator[ANY]:
    """The steps, with a bar that says what is done, how much of it, and for how long still; it goes when they are through.

    A turning sign shows that a step of many seconds is at work.
    """
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

    console = Console(stderr=True)
    about = TextColumn("[progress.description]{task.description}")
    columns = (SpinnerColumn(), about, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield from bar.track(steps, total=total, description=what)
