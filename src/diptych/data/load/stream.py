"""Batches by step number: the content of step k is a pure function of the data, the recipe and the seed.

It does not depend on worker count, on where the stream started, or on what went wrong before. So a run that stops after any step
goes on exactly where it was, with as many or as few workers as there are now, and prefetched batches are simply made again.

Workers are forked where the system can: the data set is shared and not copied, and recipes may hold functions. That is safe
because a worker uses one thread and no GPU. They live as long as the stream.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from diptych.core.contracts import Dataset, Draw, Draws, Order, Recipe
from diptych.core.errors import ConfigError, DataError, DecodeError, DiptychError, RunError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.load.order import order, span
from diptych.data.load.shard_order import AheadFetcher

AHEAD = 32
"""Steps by which shards of object storage are fetched before they are needed."""
HANDFUL = 5
"""This many bad samples never stop a run, however small the data."""
LONGEST_BAD_RUN = 100
"""A stretch of this many unusable rows is taken for broken data rather than searched further."""


@dataclass(frozen=True, slots=True)
class SampleFailure:
    """Sample that could not be used. stage: "read", "load", the medium that could not be decoded, or the missing field."""

    uid: str
    stage: str
    reason: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Step:
    """Batch of one process for one training step, with the samples that were replaced in it."""

    step: int
    batch: Any
    failures: tuple[SampleFailure, ...] = ()

    def pin_memory(self) -> Step:
        return replace(self, batch=self.batch.pin_memory()) if hasattr(self.batch, "pin_memory") else self


@dataclass(frozen=True, slots=True)
class _WorkerError:
    """Carries an error out of a worker: the loader would bury its one line in a traceback."""

    kind: type[DiptychError]
    text: str

    def error(self) -> DiptychError:
        error = self.kind.__new__(self.kind, self.text)
        assert isinstance(error, DiptychError)
        return error


def batches(
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    start: int = 0,
    stop: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    bad_limit: float = 0.01,
    known_bad: Collection[str] = (),
    order: Order = order,
    uint8_images: bool = False,
) -> Iterator[Step]:
    """Steps start..stop-1 of the run with this seed.

    A step takes `recipe.batch_size` positions of the concatenated epochs, and process `rank` of `world` its contiguous part. A
    sample that cannot be used is reported in `Step.failures` and replaced by the first usable row that comes a batch later in the
    order, so that no row of the batch is taken twice. `known_bad` uids count as met already. With `uint8_images` recipes that can keep
    pictures as bytes until the batch moves to its device.

    Raises `DataError` when more than `bad_limit` of the samples (and more than a handful) were unusable, each counted once; every
    process counts those that it met.
    """
    if recipe.batch_size % world:
        raise ConfigError(
            f"batch_size {recipe.batch_size} cannot be shared by {world} processes (expected a multiple of {world})"
        )
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world} processes (expected 0 to {world - 1})")
    if len(data) == 0:
        raise DataError(f"'{data.name}' has no samples", expected="at least one")
    return _stop_at_bad_limit(
        _loader(StepData(data, recipe, seed, rank, world, order, uint8_images), start, stop, workers), data, bad_limit, known_bad
    )


def _stop_at_bad_limit(loader: Any, data: Dataset, bad_limit: float, known_bad: Collection[str]) -> Iterator[Step]:
    bad: dict[str, str] = dict.fromkeys(known_bad, "met before")
    steps = iter(loader)
    try:
        for item in steps:
            if isinstance(item, _WorkerError):
                raise item.error()
            for failure in item.failures:
                bad.setdefault(failure.uid, f"{failure.stage}: {failure.reason}")
            check_bad_limit(bad, data, bad_limit)
            yield item
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        hint = "most often for want of memory (try fewer workers or a smaller batch)"
        raise RunError(f"a loader worker was killed, {hint}") from error
    finally:
        del steps  # ends the workers now, also when an error keeps this frame alive


def check_bad_limit(bad: Mapping[str, str], data: Dataset, bad_limit: float) -> None:
    """Raises DataError if more than `bad_limit` of the samples, and more than a handful, cannot be used: reasons by uid."""
    if len(bad) <= max(HANDFUL, bad_limit * len(data)):
        return
    last = "; ".join(f"'{uid}' {reason}" for uid, reason in list(bad.items())[-3:])
    count = f"{len(bad):,} of {len(data):,} samples cannot be used, more than the limit of {bad_limit:.1%}"
    advice = (
        "`diptych data build` leaves them out and lists them in quarantine.parquet; or raise the limit: bad_limit=1.0 takes any"
    )
    raise DataError(f"{count}: {last}; {advice}", file=data.name)


def _loader(steps: StepData, start: int, stop: int, workers: int) -> Any:
    forks = "fork" in multiprocessing.get_all_start_methods()
    return DataLoader(
        cast(MapDataset[Any], steps),
        sampler=range(start, stop),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=("fork" if forks else "spawn") if workers else None,
        worker_init_fn=_start_worker if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of its own, or making a loader would advance the run's random state
    )


def _start_worker(worker: int) -> None:
    """One thread each. Interrupts and terminations that reach the whole process group are for the main process, which first saves
    and then stops its workers: a worker obeys nobody else."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class StepData(MapDataset[Any]):
    """Item k is step k. Holds no state, so any process can make any step."""

    def __init__(
        self,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        rank: int = 0,
        world: int = 1,
        order: Order = order,
        uint8_images: bool = False,
    ) -> None:
        self.data, self.recipe, self.seed, self.rank, self.world, self.order = data, recipe, seed, rank, world, order
        self.uint8_images = uint8_images
        self._ahead = AheadFetcher(data)

    def __getitem__(self, step: int) -> Step | _WorkerError:
        try:
            return self._step(step)
        except DiptychError as error:
            return _WorkerError(type(error), str(error))

    def _step(self, step: int) -> Step:
        size = self.recipe.batch_size
        share = size // self.world
        first = step * size + self.rank * share
        epoch_S, row_S = span(self.seed, len(self.data), first, first + share, order=self.order)
        if self._ahead:
            later = first + AHEAD * size
            self._ahead.fetch(np.concatenate([row_S, span(self.seed, len(self.data), later, later + share, order=self.order)[1]]))
        failures: list[SampleFailure] = []
        draws = []
        for position, (epoch, row) in enumerate(zip(epoch_S.tolist(), row_S.tolist(), strict=True)):
            draw = self._usable(row, epoch)
            if isinstance(draw, SampleFailure):
                failures.append(draw)
                draw = self._later(first + position + size, failures)
            draws.append(draw)
        rng = keyed_rng(self.seed, "step", step)
        batch = self.recipe.batch(Draws(tuple(draws), rng=rng, step=step, uint8_images=self.uint8_images))
        return Step(step, batch, tuple(dict.fromkeys(failures)))

    def _later(self, position: int, failures: list[SampleFailure]) -> Draw:
        """The draw of the first usable row from a position on; the rows that were passed over join `failures`."""
        epoch_S, row_S = span(self.seed, len(self.data), position, position + LONGEST_BAD_RUN, order=self.order)
        for epoch, row in zip(epoch_S.tolist(), row_S.tolist(), strict=True):
            draw = self._usable(row, epoch)
            if isinstance(draw, Draw):
                return draw
            failures.append(draw)
        reason = f"{failures[-1].stage}: {failures[-1].reason}"
        raise DataError(
            f"{LONGEST_BAD_RUN + 1} samples in a row cannot be used, the last for this reason: {reason}",
            file=self.data.name,
            expected="data that `diptych data verify` finds sound",
        )

    def _usable(self, row: int, epoch: int) -> Draw | SampleFailure:
        uid = self.data.uids[row]
        try:
            sample = self.data[row]
        except DataError as error:
            return SampleFailure(uid, "read", str(error), epoch)
        if lacking := missing_field(sample, self.recipe):
            return SampleFailure(uid, lacking, f"the sample has no {lacking}", epoch)
        rng = keyed_rng(self.seed, epoch, sample.uid)
        try:
            media = dict(self.recipe.load(sample, rng))
        except DataError as error:
            return SampleFailure(uid, error.medium if isinstance(error, DecodeError) else "load", str(error), epoch)
        return Draw(sample, rng, media.pop("image", None), media)


def missing_field(sample: Sample, recipe: Recipe) -> str:
    """First field that the recipe needs and the sample lacks, or "". Texts count in the recipe's language, if any."""
    for name in recipe.needs:
        if name == "texts":
            value: Any = sample.positives(getattr(recipe, "language", ""))
        else:
            value = getattr(sample, name) if hasattr(sample, name) else sample.media.get(name, sample.extras.get(name))
        if value is None or (isinstance(value, str | tuple | list) and not value):
            return name
    return ""
