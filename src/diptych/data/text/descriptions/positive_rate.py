"""Sampling of the numbers of right and wrong texts in a query, so that its length does not reveal them (DesCo, 2306.14060).

A cell is a length L, 1 to `longest`, with P right ones among them. The weight of L is that of a normal distribution (20, 4) cut there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Cell = tuple[int, int]
"""(length, right ones)."""
SLACK = 10.0


@dataclass
class PositiveRate:
    """Counts per cell, and which cell comes next (the release's PosRateControllerV2).

    `next` decides without drawing: among the cells that can be filled and whose count by weight is within 10 of the least, the one whose
    right ones are nearest to those at hand. `draw` has no memory: a length by its weight, then any number of right ones, which is what
    the counts settle at where all cells can be filled. Loaders use it, since a sample must not depend on those before it.
    """

    longest: int = 35
    centre: float = 20.0
    spread: float = 4.0
    counts: dict[Cell, int] = field(default_factory=dict)

    @cached_property
    def weights(self) -> dict[int, float]:
        """Of each length; together 1."""

        def below(value: float) -> float:
            return 0.5 * (1 + math.erf((value - self.centre) / (self.spread * math.sqrt(2))))

        raw = {length: below(length + 0.5) - below(length - 0.5) for length in range(1, self.longest + 1)}
        whole = sum(raw.values())
        return {length: weight / whole for length, weight in raw.items()}

    def cells(self, right: int, wrong: int, most: int | None = None) -> list[Cell]:
        """Those that so many right and wrong texts can fill, shortest first; `most` limits the length."""
        longest = min(self.longest, right + wrong, self.longest if most is None else most)
        return [(length, p) for length in range(1, longest + 1) for p in range(length + 1) if p <= right and length - p <= wrong]

    def next(self, right: int, wrong: int, most: int | None = None) -> tuple[int, int]:
        """(right, wrong) of the next query; all of them where no cell can be filled."""
        cells = self.cells(right, wrong, most)
        if not cells:
            return right, wrong
        loads = {cell: self.counts.get(cell, 0) / self.weights[cell[0]] for cell in cells}
        least = min(loads.values())
        length, p = min((cell for cell in cells if loads[cell] <= least + SLACK), key=lambda cell: abs(cell[1] - right))
        return p, length - p

    def count(self, right: int, length: int) -> None:
        """A query that came out so; an empty one is not counted."""
        if length:
            self.counts[length, right] = self.counts.get((length, right), 0) + 1

    def draw(self, right: int, wrong: int, rng: np.random.Generator, most: int | None = None) -> tuple[int, int]:
        """(right, wrong) of a query, drawn; all of them where no cell can be filled."""
        cells = self.cells(right, wrong, most)
        if not cells:
            return right, wrong
        weight = np.array([self.weights[length] / (length + 1) for length, _ in cells])
        length, p = cells[int(rng.choice(len(cells), p=weight / weight.sum()))]
        return p, length - p
