"""Rules of Sudoku for 4 x 4, 6 x 6 and 9 x 9 grids: which cells exclude each other, solutions, unique ones.

Cells are numbered row by row; 0 is an empty cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from diptych.core.errors import DataError

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by the side of the grid."""
Choose = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class SudokuRules:
    """Which cells share a row, a column or a box.

    side   cells in a row
    peers  for each cell the cells that may not hold its digit, in order: 7 of 4 x 4, 20 of 9 x 9
    """

    side: int
    peers: tuple[tuple[int, ...], ...]

    @property
    def cells(self) -> int:
        return self.side**2

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every ordered pair of cells that exclude each other: 112 of 4 x 4, 1,620 of 9 x 9."""
        return tuple((source, target) for source, others in enumerate(self.peers) for target in others)

    def solutions(self, cells: Sequence[int], *, limit: int = 2, choose: Choose | None = None) -> list[tuple[int, ...]]:
        """Up to `limit` completions of a grid. `choose` orders the digits that are tried in a cell; None tries the lowest first."""
        grid = list(cells)
        if any(digit and digit in (grid[peer] for peer in self.peers[cell]) for cell, digit in enumerate(grid)):
            return []
        solutions: list[tuple[int, ...]] = []
        self._complete(grid, limit, choose, solutions)
        return solutions

    def _complete(self, grid: list[int], limit: int, choose: Choose | None, solutions: list[tuple[int, ...]]) -> None:
        best, options = -1, list[int]()
        for cell, digit in enumerate(grid):
            if digit:
                continue
            used = {grid[peer] for peer in self.peers[cell]}
            free = [d for d in range(1, self.side + 1) if d not in used]
            if best < 0 or len(free) < len(options):
                best, options = cell, free
                if len(free) < 2:
                    break
        if best < 0:
            solutions.append(tuple(grid))
            return
        for digit in choose(options) if choose else options:
            grid[best] = digit
            self._complete(grid, limit, choose, solutions)
            if len(solutions) >= limit:
                break
        grid[best] = 0


@cache
def sudoku_rules(side: int) -> SudokuRules:
    """The rules of a grid. Raises DataError for a side other than 4, 6 and 9."""
    if side not in BOXES:
        raise DataError(f"a grid of {side} x {side} cells", field="cells", expected=" | ".join(f"{n} x {n}" for n in BOXES))
    high, wide = BOXES[side]
    peers = []
    for row in range(side):
        for column in range(side):
            line = {row * side + other for other in range(side)} | {other * side + column for other in range(side)}
            top, left = row // high * high, column // wide * wide
            box = {(top + i) * side + left + j for i in range(high) for j in range(wide)}
            peers.append(tuple(sorted((line | box) - {row * side + column})))
    return SudokuRules(side, tuple(peers))


def side_of(cells: int) -> int:
    """The side of a grid of this many cells. Raises DataError if there is none."""
    side = round(cells**0.5)
    if side * side != cells:
        raise DataError(f"{cells} cells", field="cells", expected="16, 36 or 81 digits")
    return sudoku_rules(side).side
