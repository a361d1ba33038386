"""Progress bar on stderr in interactive terminals: samples, samples per second, remaining time."""

from __future__ import annotations

from collections.abc import Iterator

from diptych.core.terminal.progress import bar_allowed
from diptych.index.items import ItemBatch


def with_bar(blocks: Iterator[ItemBatch], total: int, show: bool) -> Iterator[ItemBatch]:
    """The same blocks; the bar moves when the consumer has come back for the next one, that is when a block is stored."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")

    console = Console(stderr=True)
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with (
        bar_allowed("embedding") as free,
        Progress(*columns, console=console, disable=not (show and free), transient=True) as bar,
    ):
        task = bar.add_task("embedding", total=total)
        for block in blocks:
            yield block
            bar.advance(task, block.samples)
