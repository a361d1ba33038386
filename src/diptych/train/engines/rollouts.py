"""Rows of a rollout: checked, gathered, shuffled, and drawn by random numbers that do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diptych.core.contracts import Batch
from diptych.core.errors import ConfigError, RunError
from diptych.core.rows import row_fields
from diptych.objectives.gather import all_gather, all_gather_json, check_equal_rows, world


def shared_seed(device: torch.device | str = "cpu") -> int:
    """A seed from torch's generator, that of the first process on all of them."""
    own = torch.randint(2**62, (1,))
    return int(all_gather(own.to(device))[0]) if world()[1] > 1 else int(own)


class RowNoise:
    """Uniform random numbers for the rows of this process: those that one process would draw for the rows of all.

    A rollout that takes its chances from here is the same however many processes share it. Numbers are float64 in [0, 1), on `device`.
    """

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        self._rank, self._count = world()
        self._rows, self._device = rows, device
        self._generator = torch.Generator().manual_seed(shared_seed(device))

    def uniform(self, *shape: int) -> Tensor:
        """[rows, *shape], new numbers at each call."""
        all_rows = torch.rand(self._count * self._rows, *shape, generator=self._generator, dtype=torch.float64)
        return all_rows[self._rank * self._rows :][: self._rows].to(self._device)


def check_rollout(rollout: Any, *, step: int) -> None:
    """Refuses a rollout without rows, or with a floating row that is not finite: a reward that returned NaN ends here with its row."""
    if len(rollout) == 0:
        raise RunError(f"the rollout of step {step} has no rows (expected one or more: an answer has at least its end mark)")
    values = {name: getattr(rollout, name) for name in row_fields(type(rollout))}
    floating = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()}
    if not floating or bool(torch.stack([value.isfinite().all() for value in floating.values()]).all()):
        return  # after one look at the values, for which the host waits
    for name, value in floating.items():
        if bool(value.isfinite().all()):
            continue
        row = int((~value.isfinite()).flatten(1).any(1).nonzero()[0]) if value.ndim > 1 else int((~value.isfinite()).nonzero()[0])
        worst = float(value[row].flatten()[~value[row].flatten().isfinite()][0])
        raise RunError(
            f"the rollout of step {step}, row {row}: {name} is {worst} (expected finite rewards and log-probabilities)"
        )


def minibatches(rollout: Any, size: int, *, passes: int, shuffled: bool) -> Iterator[Batch]:
    """Parts of a rollout, `passes` times over: `size` rows over all processes each, of which this process gets its share.

    size      0 is the whole rollout at once, each process with the rows that it made
    shuffled  in another random order at each pass; else rows are consecutive
    """
    rank, count = world()
    if not size:
        yield from (rollout for _ in range(passes))
        return
    whole = gathered_rollout(rollout)
    rows = len(whole)
    if any(part % count for part in (min(size, rows), rows % size)):
        raise ConfigError(f"minibatches of {size} from {rows} rows cannot be shared equally by {count} processes")
    generator = torch.Generator().manual_seed(shared_seed(_device_of(rollout))) if shuffled else None
    for _ in range(passes):
        order = torch.randperm(rows, generator=generator) if shuffled else torch.arange(rows)
        for start in range(0, rows, size):
            part = order[start : start + size]
            share = len(part) // count
            yield selected_rows(whole, part[rank * share : (rank + 1) * share], sliced=not shuffled)


def selected_rows(batch: Any, index_N: Tensor, *, sliced: bool = False) -> Any:
    """The rows of a batch in the order of an index. sliced: the index counts up by one, so that views do."""
    if sliced:
        return batch.rows(int(index_N[0]), int(index_N[-1]) + 1)
    picked: dict[str, Any] = {}
    for name in row_fields(type(batch)):
        value = getattr(batch, name)
        if isinstance(value, Tensor):
            picked[name] = value[index_N.to(value.device)]
        elif value is not None:
            picked[name] = type(value)(value[row] for row in index_N.tolist())
    return replace(batch, **picked)


def gathered_rollout(rollout: Any) -> Any:
    """The rows of all processes, in the order of the processes; itself if there is one. Texts travel as JSON."""
    if world()[1] == 1:
        return rollout
    joined: dict[str, Any] = {}
    values = {name: value for name in row_fields(type(rollout)) if (value := getattr(rollout, name)) is not None}
    check_equal_rows(None, **{name: value for name, value in values.items() if isinstance(value, Tensor)})
    for name, value in values.items():
        if isinstance(value, Tensor):
            plain = value.to(torch.uint8) if value.dtype == torch.bool else value
            joined[name] = all_gather(plain).flatten(0, 1).to(value.dtype)
        else:
            joined[name] = _gathered_texts(name, value, _device_of(rollout))
    return replace(rollout, **joined)


def _gathered_texts(name: str, rows: Any, device: torch.device) -> tuple[Any, ...]:
    try:
        parts = all_gather_json(list(rows), device)
    except TypeError:
        raise ConfigError(
            f"rows of a rollout's '{name}' are neither tensors nor texts (expected none, where several processes share a rollout)"
        ) from None
    return tuple(tuple(row) if isinstance(row, list) else row for part in parts for row in part)


def _device_of(rollout: Any) -> torch.device:
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
