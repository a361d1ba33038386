"""Samples by row, the random draws of a step, and the batch that a recipe builds from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, overload

import numpy as np
import numpy.typing as npt

from diptych.core.sample import Sample

if TYPE_CHECKING:
    import torch


Order = Callable[[int, int, int], npt.NDArray[np.int64]]
"""(seed, epoch, n) -> n rows. Equal arguments, equal rows, in every process."""


class Dataset(Protocol):
    """Samples by row. Rows never change while a `Dataset` object lives; a subset or a split is another object."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes when any uid, text, image hash or group does. Stored with runs, records and claims."""

    @property
    def uids(self) -> Sequence[str]: ...

    @property
    def groups(self) -> Sequence[str]:
        """One group a row; a row without one is its own group (its uid)."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Sample: ...

    def select(self, rows: Sequence[int]) -> Dataset: ...

    def split(self, name: str) -> Dataset: ...


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of an epoch: decoded, with its own random generator.

    rng        keyed by (seed, epoch, uid): augmentation and the choice of a text come from here and nowhere else
    image_HWC  uint8 RGB, decoded at `Recipe.decode_size` or larger; None when the sample has no image or the recipe wants none
    media      what else `Recipe.load` decoded, by name
    """

    sample: Sample
    rng: np.random.Generator
    image_HWC: npt.NDArray[np.uint8] | None = None
    media: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draws(Sequence[Draw]):
    """The draws of one process in one step.

    rng   keyed by (seed, step) alone, so equal on all ranks: label lists, batch-wide negatives
    step  counts optimiser steps from 0
    uint8_images  pictures of the batch may be sent to the device as bytes (`Preprocess.batched`)
    """

    items: tuple[Draw, ...]
    rng: np.random.Generator
    step: int = 0
    uint8_images: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Draw: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Draw, ...]: ...

    def __getitem__(self, index: int | slice) -> Draw | tuple[Draw, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.items)


class Batch(Protocol):
    """A dataclass of tensors (and of tuples, where rows are ragged). Fields that are declared `Rows` (`core/rows.py`) have an entry a
    row and are cut by chunking; the others are shared by all chunks. Names end in their shape and have to agree."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Self: ...

    def rows(self, start: int, stop: int) -> Self:
        """The same batch, only these rows; views where possible."""
