"""Out-of-memory handling of a step: it is repeated in chunks of half the size, with the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from diptych.core.contracts import Batch
from diptych.core.errors import RunError
from diptych.models.io.device import halved

if TYPE_CHECKING:
    from diptych.train.state import Training

R = TypeVar("R")


def with_smaller_chunks(run: Training, batch: Batch, work: Callable[[int], R]) -> R:
    """The result of `work(micro_batch)`, with half of it as often as the memory of the device runs out. The run keeps the smaller size
    (and its log a note), random numbers are redrawn from where they stood, averages of batch norm may have moved twice.

    Raises RunError, in one line, where chunks cannot be smaller: for a recipe that needs its batch whole, and with several processes,
    the others of which are past this point.
    """
    device = run.world.device
    if device.type == "cpu":
        return work(run.micro_batch)  # its memory gives out otherwise
    states = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    while True:
        result = _or_no_memory(work, run.micro_batch)
        if result is not None:
            return result[0]
        size = min(run.micro_batch or len(batch), len(batch))
        if not run.recipe.cacheable:
            raise RunError(
                f"the memory of {device} does not hold a batch of {len(batch)}, and '{run.recipe.slug}' needs it whole: "
                f"use a smaller one, such as batch_size={max(1, len(batch) // 2)}"
            )
        if run.world.size > 1:
            raise RunError(
                f"the memory of {device} is too small for {size} samples at once: continue with fewer, such as "
                f"--resume {run.folder.path} --micro-batch {max(1, size // 2)}"
            )
        run.micro_batch = halved(size, device, "samples")
        run.note(f"the memory of {device} does not hold {size} samples at once: micro_batch is {run.micro_batch} from here on")
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state(states[1], device)


def _or_no_memory(work: Callable[[int], R], size: int) -> tuple[R] | None:
    """The result, or None if memory ran out. The error is dropped before the next attempt: its traceback holds tensors."""
    try:
        return (work(size),)
    except torch.OutOfMemoryError:
        return None
