"""Running a module without training it: in evaluation mode, a part of the inputs at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from diptych.core.terminal.progress import with_bar

MANY = 8
"""This many parts take long enough for a bar."""
T = TypeVar("T")
R = TypeVar("R")


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive batches of the items, `size` each, the last may be shorter; with a progress bar in a terminal if there are many."""
    starts = range(0, len(items), size)
    for start in with_bar(starts, len(starts), f"{len(items):,} through the model", least=MANY):
        yield items[start : start + size]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each submodule is back in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def prefetch(items: Sequence[T], work: Callable[[T], R], *, workers: int = 0) -> Iterator[R]:
    """`work` of each item, in order; while one result is used the next ones are computed in threads. An error comes where its
    result would have.

    workers  0: as many as PyTorch has threads, four at most. One item is worked on where it is
    """
    if len(items) < 2:
        yield from map(work, items)
        return
    workers = workers or min(4, torch.get_num_threads())
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
