"""Sudoku data sets made of few hard puzzles: digits are renamed and cells of the solution revealed (Palm et al., 2018, 1711.08028).

The published sets are made of 49,151 puzzles with 17 given cells: 18 numbers of given cells, 17 to 34, with 10,000 puzzles each to
train with and 1,000 each to validate and test with, of puzzles that no other split has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from diptych.core.errors import ConfigError

EXTRA = 17
"""Most cells that are revealed."""
Puzzle = tuple[str, str]
"""Given cells and solution, a digit a cell row by row, "0" for an empty cell."""


@dataclass(frozen=True, kw_only=True)
class SudokuSets:
    """Puzzles of each split.

    test_pool, valid_pool  hard puzzles that are kept for the split; the others are for training
    train, valid, test     puzzles that are made for each number of given cells
    extra                  most cells that are revealed beyond those given
    """

    test_pool: int = 10_000
    valid_pool: int = 1_000
    train: int = 10_000
    valid: int = 1_000
    test: int = 1_000
    extra: int = EXTRA

    def make(self, hard: Sequence[Puzzle], rng: Random) -> dict[str, list[Puzzle]]:
        """The splits "train", "valid" and "test" of these puzzles. Raises ConfigError for too few of them."""
        if len(hard) <= self.test_pool + self.valid_pool:
            raise ConfigError(
                f"{len(hard)} hard puzzles (expected more than {self.test_pool} for test and {self.valid_pool} for valid)"
            )
        mixed = rng.sample(list(hard), len(hard))
        kept = self.test_pool + self.valid_pool
        pools = {"train": mixed[kept:], "valid": mixed[self.test_pool : kept], "test": mixed[: self.test_pool]}
        return {split: varied(pool, getattr(self, split), rng, extra=self.extra) for split, pool in pools.items()}

    def write(self, hard: Sequence[Puzzle], folder: Path, rng: Random) -> None:
        """Writes train.csv, valid.csv and test.csv, which are read as a data set of Sudoku."""
        folder.mkdir(parents=True, exist_ok=True)
        for split, puzzles in self.make(hard, rng).items():
            lines = "".join(f"{cells},{solution}\n" for cells, solution in puzzles)
            (folder / f"{split}.csv").write_text(lines, encoding="utf-8")


def varied(pool: Sequence[Puzzle], count: int, rng: Random, *, extra: int = EXTRA) -> list[Puzzle]:
    """`count` puzzles each with 0, 1, ..., `extra` more given cells: random ones of the pool, with digits renamed, in random order."""
    puzzles = []
    for more in range(extra + 1):
        puzzles += [revealed(renamed(rng.choice(pool), rng), more, rng) for _ in range(count)]
    rng.shuffle(puzzles)
    return puzzles


def renamed(puzzle: Puzzle, rng: Random) -> Puzzle:
    """The puzzle with its digits exchanged for one another.

    >>> cells, solution = renamed(("1000", "1234"), Random(0))
    >>> cells[0] == solution[0], cells[1:], len(set(solution))
    (True, '000', 4)
    """
    digits = sorted(set(puzzle[1]))
    names = str.maketrans(dict(zip(digits, rng.sample(digits, len(digits)), strict=True)))
    return puzzle[0].translate(names), puzzle[1].translate(names)


def revealed(puzzle: Puzzle, count: int, rng: Random) -> Puzzle:
    """The puzzle with `count` of its empty cells given, one after the other."""
    cells, solution = puzzle
    for _ in range(count):
        cell = rng.choice([number for number, digit in enumerate(cells) if digit == "0"])
        cells = cells[:cell] + solution[cell] + cells[cell + 1 :]
    return cells, solution
