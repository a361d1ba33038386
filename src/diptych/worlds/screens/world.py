"""Rendered pages with an instruction each: `world:screens`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.screens.pages import Asked, Page, drawn, page

NAME = "screens"
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class ScreenWorld:
    """The configuration.

    size      side in pixels
    elements  of a page, each in a cell of a grid of this many `columns` and `rows`
    asked     an instruction names its element by "colour" or by "label"
    noise     of training boxes: deviation of each side, as a share of the box's; boxes of other splits are exact
    """

    seed: int = 0
    size: int = 96
    elements: int = 5
    columns: int = 2
    rows: int = 4
    asked: Asked = "colour"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 24 <= self.size <= 2048 or self.asked not in ("colour", "label") or self.noise < 0:
            raise ConfigError(
                f"size {self.size}, asked {self.asked!r}, noise {self.noise} (expected 24 to 2048, colour | label, 0 or more)"
            )

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def page(self, split: str, index: int) -> Page:
        """Elements and instruction of one page."""
        rng = keyed_rng(NAME, self.seed, split, index)
        return page(rng, elements=self.elements, columns=self.columns, rows=self.rows, asked=self.asked)

    def group(self, split: str, index: int) -> str:
        return f"{split}-page-{index}"

    def sample(self, split: str, index: int) -> Sample:
        made, uid = self.page(split, index), uid_of(NAME, self.seed, split, index)
        regions = [
            Region(self._box(one.box, split, index, n), one.kind, (one.colour, one.label)) for n, one in enumerate(made.elements)
        ]
        spans = [[0, len(made.instruction)]]
        return Sample(
            uid,
            ArrayImage(drawn(made, self.size), uid),
            (Text(made.instruction, "en"),),
            regions=tuple(regions),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={
                "split": split,
                "grounding": [{"text": made.instruction, "phrases": [{"spans": spans, "regions": [made.target]}]}],
            },
        )

    def _box(
        self, box: tuple[float, float, float, float], split: str, index: int, number: int
    ) -> tuple[float, float, float, float]:
        """Pixels of a box, moved in training where there is noise."""
        x0, y0, x1, y1 = (value * self.size for value in box)
        if split != "train" or not self.noise:
            return (x0, y0, x1, y1)
        moves = keyed_rng(NAME, "noise", self.seed, index, number).normal(0.0, self.noise, 4).tolist()
        x0, x1 = x0 + moves[0] * (x1 - x0), x1 + moves[1] * (x1 - x0)
        y0, y1 = y0 + moves[2] * (y1 - y0), y1 + moves[3] * (y1 - y0)
        left, top = min(max(0.0, x0), self.size - 2.0), min(max(0.0, y0), self.size - 2.0)
        return (left, top, min(max(left + 1, x1), float(self.size)), min(max(top + 1, y1), float(self.size)))


def screens(
    n: int = 500,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 96,
    elements: int = 5,
    columns: int = 2,
    rows: int = 4,
    asked: Asked = "colour",
    noise: float = 0.0,
) -> RenderedDataset:
    """The first `n` pages of one split, with buttons, fields and icons."""
    world = ScreenWorld(seed, size, elements, columns, rows, asked, noise)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
