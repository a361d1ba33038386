"""Arms on Sudoku of four digits: a recipe learns from puzzles with many given cells and is asked ones with few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.sample import Sample
from diptych.data.problems.problem import SudokuProblem, problem_of
from diptych.recipes.relations.rrn import RRN
from diptych.worlds.problems.sudoku import sudoku
from diptych.worlds.rendered import RenderedDataset

PUZZLES, TESTED, SMOKE_ROWS = 3000, 400, 24
MANY, FEW = (6, 9), (4, 5)
"""Given cells of training and of the test, whose solutions are none of training."""


@dataclass(frozen=True)
class FewGivens:
    """Trains on puzzles of the cell's seed. "solved" is the share of test puzzles whose every cell is right, "cells" that of cells that
    were empty; "solved/trained" the first after the steps of training alone, where a model takes more.

    learns  False asks the model as it is before its first step
    """

    recipe: RRN
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows, tested = _puzzles(cell)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        answers = model.reason(tested)
        trained = min(self.recipe.reasoning_steps, len(answers[0]))
        return {
            **_scores(tested, [[int(digit) for digit in steps[-1]] for steps in answers]),
            "solved/trained": _scores(tested, [[int(digit) for digit in steps[trained - 1]] for steps in answers])["solved"],
        }


@dataclass(frozen=True)
class NearestSolution:
    """The solution of training that agrees with most of the given cells, which then stand as given."""

    def __call__(self, cell: Cell) -> Scores:
        rows, tested = _puzzles(cell)
        solution_SN = np.array(sorted({_puzzle(rows[row]).solution for row in range(len(rows))}))
        answers = []
        for sample in tested:
            given_N = np.array(_puzzle(sample).cells)
            nearest_N = solution_SN[((solution_SN == given_N) & (given_N > 0)).sum(1).argmax()]
            answers.append(np.where(given_N > 0, given_N, nearest_N).tolist())
        return {**_scores(tested, answers), "solved/trained": _scores(tested, answers)["solved"]}


def _puzzles(cell: Cell) -> tuple[RenderedDataset, list[Sample]]:
    rows = sudoku(SMOKE_ROWS if cell.smoke else PUZZLES, seed=cell.seed, least=MANY[0], most=MANY[1])
    test = sudoku(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test", least=FEW[0], most=FEW[1])
    return rows, [test[row] for row in range(len(test))]


def _puzzle(sample: Sample) -> SudokuProblem:
    problem = problem_of(sample)
    assert isinstance(problem, SudokuProblem)
    return problem


def _scores(samples: Sequence[Sample], answers: Sequence[Sequence[int]]) -> dict[str, float]:
    right_PN = np.array([_puzzle(sample).solution for sample in samples]) == np.array(answers)
    empty_PN = np.array([_puzzle(sample).cells for sample in samples]) == 0
    return {"solved": float(right_PN.all(1).mean()), "cells": float(right_PN[empty_PN].mean())}
