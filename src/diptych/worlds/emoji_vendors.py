"""The emoji that come with Diptych as a stream of tasks: the same concepts, drawn by one vendor after the other.

Rows of the split "test" are those that "train" begins with, so that they ask what was kept and not what generalises. Nothing is drawn at
random: the seed only names the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of

NAME = "emoji_vendors"


@dataclass(frozen=True)
class EmojiVendors:
    """The configuration. Row k is of vendor k modulo their number, so that every vendor has equally many; the extra "task" names it."""

    seed: int = 0

    @property
    def identity(self) -> Any:
        return [self.seed, _stream()[0].fingerprint]

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def group(self, split: str, index: int) -> str:
        return str(_stream()[0].groups[self._row(index)])

    def sample(self, split: str, index: int) -> Sample:
        sample = _stream()[0][self._row(index)]
        names = tuple(text for text in sample.texts if text.origin == "label")
        extras = {"split": split, "task": str(sample.extras["style"])}
        return replace(sample, uid=uid_of(NAME, self.seed, split, index), texts=names, extras=extras)

    def _row(self, index: int) -> int:
        vendors = _stream()[1]
        return vendors[index % len(vendors)][index // len(vendors)]


@lru_cache(maxsize=1)
def _stream() -> tuple[Pool, list[list[int]]]:
    """The training rows of the emoji, and which of them are of each vendor, in their order."""
    rows: Pool = read("emoji").split("train").in_language("en")
    by_vendor: dict[str, list[int]] = {}
    for row, style in enumerate(rows.column("style")):
        by_vendor.setdefault(str(style), []).append(row)
    return rows, list(by_vendor.values())


def emoji_vendors(n: int = 3_000, *, seed: int = 0, split: Literal["train", "test"] = "train") -> RenderedDataset:
    """The first `n` rows of one split, an equal number by each vendor. Raises ConfigError when there are fewer."""
    vendors = _stream()[1]
    most = len(vendors) * min(map(len, vendors))
    if n > most:
        raise ConfigError(f"n is {n} (expected at most {most}: the pictures of {len(vendors)} vendors)")
    world = EmojiVendors(seed)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
