"""Sudoku with one solution each, of 4, 6 or 9 digits: `world:sudoku`.

Cells of a solution are emptied in random order as long as there is one solution, until this many are given as was drawn. Which solutions
may come up is what tells the splits apart: none of "train" is in "val" or "test".

>>> puzzle = sudoku(2, seed=0)[1].extras["problem"]
>>> len(puzzle["cells"]), set(puzzle["answer"]) == set("1234")
(16, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.data.problems.problem import FIELD
from diptych.data.problems.sudoku import BOXES, sudoku_rules
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of

NAME = "sudoku"
Split = Literal["train", "val", "test"]
SHARES = {"val": 1, "test": 2}
"""Tenths of the solutions."""
USUAL = {4: (4, 8), 6: (10, 18), 9: (26, 40)}
"""Given cells at least and at most, where nobody says."""


@dataclass(frozen=True)
class SudokuWorld:
    """Puzzles of one side. A puzzle that cannot be emptied as far as was drawn has more given cells."""

    seed: int = 0
    side: int = 4
    least: int = 4
    most: int = 8

    @property
    def splits(self) -> tuple[str, ...]:
        return get_args(Split)

    @property
    def identity(self) -> Any:
        return {"world": NAME, "seed": self.seed, "side": self.side, "least": self.least, "most": self.most}

    def group(self, split: str, index: int) -> str:
        return "".join(map(str, self._solution(split, index)[0]))

    def sample(self, split: str, index: int) -> Sample:
        solution, dice = self._solution(split, index)
        cells = self._emptied(solution, dice)
        problem = {"kind": NAME, "cells": "".join(map(str, cells)), "answer": "".join(map(str, solution))}
        return Sample(
            uid_of(NAME, self.seed, split, index),
            group=problem["answer"],
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, FIELD: problem},
        )

    def _solution(self, split: str, index: int) -> tuple[tuple[int, ...], SceneRandom]:
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        rules = sudoku_rules(self.side)
        while True:
            (solution,) = rules.solutions([0] * rules.cells, limit=1, choose=dice.shuffled)
            if split_of(solution) == split:
                return solution, dice

    def _emptied(self, solution: Sequence[int], dice: SceneRandom) -> list[int]:
        rules, cells, wanted = sudoku_rules(self.side), list(solution), dice.between(self.least, self.most)
        given = len(cells)
        for cell in dice.shuffled(range(len(cells))):
            if given == wanted:
                break
            digit, cells[cell] = cells[cell], 0
            if len(rules.solutions(cells)) == 1:
                given -= 1
            else:
                cells[cell] = digit
        return cells


@lru_cache(maxsize=1 << 16)
def split_of(solution: tuple[int, ...]) -> str:
    """The split in which a solution may come up: "val" for a tenth of them, "test" for two, "train" for the others."""
    tenth, start = keyed_seed(NAME, *solution) % 10, 0
    for split, share in SHARES.items():
        start += share
        if tenth < start:
            return split
    return "train"


def sudoku(
    n: int = 2000, *, seed: int = 0, split: Split = "train", side: int = 4, least: int = 0, most: int = 0
) -> RenderedDataset:
    """The first `n` puzzles of one split, with from `least` to `most` cells given (0: what is usual for the side)."""
    if side not in BOXES:
        raise ConfigError(f"side is {side} (expected {' | '.join(map(str, BOXES))})")
    low, high = least or USUAL[side][0], most or USUAL[side][1]
    if not 0 < low <= high <= side**2:
        raise ConfigError(f"least is {low} and most {high} (expected 0 < least <= most <= {side**2})")
    world = SudokuWorld(seed, side, low, high)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
