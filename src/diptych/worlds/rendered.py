"""A data set whose samples are rendered on access: row in, pixels and ground truth out, nothing stored.

Every sample is a pure function of (seed, split, index), so any process draws the same bytes for the same row, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from diptych.core.config import config_hash
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.terminal import notebook

if TYPE_CHECKING:
    from diptych.data.dataset import Pool

SPLITS = ("train", "val", "test", "unseen")
RENDERER = 2  # raised when the same seed would give other pixels or texts
RANGE = 1 << 40  # scene numbers a split owns; ranges cannot meet
PLAIN = 1 << 12  # bytes that a sample without a picture takes, at most about
REMEMBERED = 1 << 28  # bytes of pixels that `RenderedDataset.remembering` keeps


KEPT_POOLS = 4
_kept: dict[tuple[str, str], Pool] | None = None


@contextmanager
def keeping_pools() -> Iterator[None]:
    """Within, `RenderedDataset.to_pool` renders equal rows once: the last few pools are kept."""
    global _kept
    before, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


class World(Protocol):
    """The configuration of a world: frozen, picklable, hashed into the fingerprint."""

    @property
    def seed(self) -> int: ...

    @property
    def splits(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> Any:
        """Plain values that change when any sample would."""

    def group(self, split: str, index: int) -> str:
        """Group of a scene: the statement that every caption of it makes. Computed without rendering."""

    def sample(self, split: str, index: int) -> Sample: ...


@dataclass(frozen=True)
class ChangedWorld:
    """A world whose samples are changed on access; `label` names the change in the fingerprint."""

    world: World
    change: Callable[[Sample], Sample]
    label: str

    @property
    def seed(self) -> int:
        return self.world.seed

    @property
    def splits(self) -> tuple[str, ...]:
        return self.world.splits

    @property
    def identity(self) -> Any:
        return [self.label, self.world.identity]

    def group(self, split: str, index: int) -> str:
        return self.world.group(split, index)

    def sample(self, split: str, index: int) -> Sample:
        return self.change(self.world.sample(split, index))


@dataclass(frozen=True)
class RenderedDataset:
    """Rows of a world as a `Dataset`. Holds (split, index) pairs and a configuration, so it forks and pickles cheaply."""

    name: str
    world: World
    rows: tuple[tuple[str, int], ...]
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        if "fingerprint" not in self._cache:
            self._cache["fingerprint"] = config_hash([RENDERER, self.name, self.world.identity, self.rows])
        return str(self._cache["fingerprint"])

    @property
    def uids(self) -> Sequence[str]:
        if "uids" not in self._cache:
            self._cache["uids"] = tuple(uid_of(self.name, self.world.seed, *row) for row in self.rows)
        uids: Sequence[str] = self._cache["uids"]
        return uids

    @property
    def groups(self) -> Sequence[str]:
        if "groups" not in self._cache:
            self._cache["groups"] = tuple(self.world.group(*row) for row in self.rows)
        groups: Sequence[str] = self._cache["groups"]
        return groups

    @property
    def split_names(self) -> tuple[str, ...]:
        present = {split for split, _ in self.rows}
        return tuple(split for split in self.world.splits if split in present)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Sample: ...

    @overload
    def __getitem__(self, row: slice) -> RenderedDataset: ...

    def __getitem__(self, row: int | slice) -> Sample | RenderedDataset:
        """Sample of a row, or the data set of several rows: ``scenes[3]``, ``scenes[:100]``."""
        if isinstance(row, slice):
            return self.select(range(len(self))[row])
        drawn: dict[int, Sample] | None = self._cache.get("drawn")
        if drawn is None:
            return self.world.sample(*self.rows[row])
        if row not in drawn:
            sample = self.world.sample(*self.rows[row])
            if len(drawn) >= self._cache["room"]:
                return sample
            drawn[row] = sample
        return drawn[row]

    def __contains__(self, uid: object) -> bool:
        """True if a sample has this uid."""
        return uid in self.uids

    def _repr_html_(self) -> str:
        first = (self[row] for row in range(min(len(self), notebook.SHOWN)))
        return notebook.samples(first, caption=f"{self.name}: {len(self):,} samples, rendered as they are needed")

    def remembering(self, limit: int = REMEMBERED) -> RenderedDataset:
        """The same rows; scenes that were drawn once are kept, up to `limit` bytes of pixels, since rendering one again costs more
        than reading it. Each loader process keeps its own."""
        image = self.world.sample(*self.rows[0]).image
        pixels = image.pixels_HWC.nbytes if isinstance(image, ArrayImage) else PLAIN if image is None else limit
        return RenderedDataset(self.name, self.world, self.rows, {"drawn": {}, "room": limit // max(1, pixels)})

    def select(self, rows: Sequence[int]) -> RenderedDataset:
        return RenderedDataset(self.name, self.world, tuple(self.rows[row] for row in rows))

    def split(self, name: str) -> RenderedDataset:
        if name not in self.split_names:
            raise UnknownName("split", name, self.split_names)
        return RenderedDataset(self.name, self.world, tuple(row for row in self.rows if row[0] == name))

    def named(self, name: str) -> RenderedDataset:
        """The same rows under another name."""
        return RenderedDataset(name, self.world, self.rows)

    def changed(self, change: Callable[[Sample], Sample], label: str) -> RenderedDataset:
        """The same rows with every sample changed by a pure, picklable function; `label` is part of the fingerprint."""
        return RenderedDataset(self.name, ChangedWorld(self.world, change, label), self.rows)

    def to_pool(self) -> Pool:
        """Render every row into memory, as writing the data to disk requires (about 12 KB per row at 64 pixels)."""
        from diptych.data.dataset import Pool

        key = (self.name, self.fingerprint)
        if _kept is not None and key in _kept:
            return _kept[key]
        pool = Pool.from_samples((self[row] for row in range(len(self))), name=self.name)
        if _kept is not None:
            while len(_kept) >= KEPT_POOLS:
                _kept.pop(next(iter(_kept)))
            _kept[key] = pool
        return pool

    def column(self, name: str) -> list[Any]:
        """One value per row: "uid", "group", "split", or an extra (which renders every row)."""
        if name == "split":
            return [split for split, _ in self.rows]
        if name in ("uid", "group"):
            return list(self.uids if name == "uid" else self.groups)
        return [self[row].extras.get(name) for row in range(len(self))]

    def where(self, name: str, value: Any) -> RenderedDataset:
        return self.select([row for row, row_value in enumerate(self.column(name)) if row_value == value])


def uid_of(name: str, seed: int, split: str, index: int) -> str:
    return f"{name}-{seed}-{split}-{index:07d}"


def rows_of(world: World, split: str, n: int) -> tuple[tuple[str, int], ...]:
    """The first `n` rows of a split."""
    if split not in world.splits:
        hint = "; 'unseen' needs hold_out=..." if split == "unseen" else ""
        raise ConfigError(f"this world has no split {split!r} (expected {' | '.join(world.splits)}{hint})")
    if not 0 < n <= RANGE:
        raise ConfigError(f"n is {n} (expected 1..2**40 scenes)")
    return tuple((split, index) for index in range(n))


class SceneRandom:
    """Random numbers of one scene. Drawn in blocks: a scene needs about a hundred, and one call a number would cost more than
    the rendering."""

    def __init__(self, *key: int | str) -> None:
        self._rng = keyed_rng(*key)
        self._block: list[float] = []

    @classmethod
    def of_scene(cls, name: str, seed: int, split: str, index: int) -> SceneRandom:
        """Random numbers of a scene number inside the range that its split owns."""
        return cls(name, seed, SPLITS.index(split) * RANGE + index)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        if not self._block:
            self._block = self._rng.random(128).tolist()
        return low + (high - low) * self._block.pop()

    def below(self, n: int) -> int:
        return min(int(self.uniform() * n), n - 1)

    def between(self, low: int, high: int) -> int:
        """Random integer of low..high, both included."""
        return low + self.below(high - low + 1)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]

    def weighted(self, options: Sequence[tuple[Any, float]]) -> Any:
        mark = self.uniform(0.0, sum(weight for _, weight in options))
        for value, weight in options:
            mark -= weight
            if mark < 0:
                return value
        return options[-1][0]

    def shuffled(self, options: Sequence[Any]) -> list[Any]:
        items = list(options)
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items

    def seed(self) -> int:
        return int(self.uniform() * (1 << 53))


def generator(seed: int) -> np.random.Generator:
    """Numpy generator for the parts that need many numbers at once (noise)."""
    return np.random.Generator(np.random.Philox(key=seed))
