"""Problems of a sample, stored in `extras["problem"]`.

{"kind": "sudoku", "cells": "0040100000020300", "answer": "2341143242133124"}
{"kind": "story", "facts": ["mary moved to the bathroom"], "question": "where is mary", "answer": "bathroom", "task": "qa1"}
{"kind": "jumps", "things": [[0.2, 0.9, "red", "star"], ...], "start": "red", "jumps": 2, "answer": "circle"}

A jump goes to the nearest thing that was not visited. A start is a colour and the answer a marker, or the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.problems.sudoku import side_of

FIELD = "problem"
Kind = Literal["sudoku", "story", "jumps"]


@dataclass(frozen=True, slots=True)
class SudokuProblem:
    """A puzzle and its solution, row by row; 0 is an empty cell."""

    cells: tuple[int, ...]
    solution: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        return "sudoku"

    @property
    def side(self) -> int:
        return side_of(len(self.cells))

    @property
    def answers(self) -> tuple[str, ...]:
        """The digit of every cell."""
        return tuple(map(str, self.solution))

    @property
    def level(self) -> str:
        """Number of given cells, as "30 givens"."""
        return f"{sum(map(bool, self.cells))} givens"


@dataclass(frozen=True, slots=True)
class StoryProblem:
    """Facts in the order in which they are stated, a question, and its answer of one word."""

    facts: tuple[str, ...]
    question: str
    answer: str
    task: str = ""

    @property
    def kind(self) -> Kind:
        return "story"

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer,)

    @property
    def level(self) -> str:
        return self.task


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing at (x, y), shares of the picture's sides."""

    x: float
    y: float
    colour: str
    marker: str


@dataclass(frozen=True, slots=True)
class JumpProblem:
    """Things, the one to start from by its colour or its marker, and how many jumps follow."""

    things: tuple[Thing, ...]
    start: str
    jumps: int
    answer: str

    @property
    def kind(self) -> Kind:
        return "jumps"

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer,)

    @property
    def level(self) -> str:
        return f"{self.jumps} jumps"


Problem = SudokuProblem | StoryProblem | JumpProblem
KINDS: dict[str, type] = {"sudoku": SudokuProblem, "story": StoryProblem, "jumps": JumpProblem}


def problem_of(sample: Sample) -> Problem:
    """The problem of a sample. Raises DataError that names the sample and what is wrong."""
    entry = sample.extras.get(FIELD)
    where = f"sample '{sample.uid}'"
    if not isinstance(entry, Mapping) or entry.get("kind") not in KINDS:
        raise DataError(f"{where} has the problem {str(entry)[:60]}", field=FIELD, expected=f'"kind": {" | ".join(KINDS)}')
    try:
        return _READ[str(entry["kind"])](entry)
    except DataError as error:
        raise DataError(f"{where}: {error}", field=FIELD) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} has no {error}", field=FIELD, expected=f"a problem of kind {entry['kind']}") from error


def digits_of(text: str) -> tuple[int, ...]:
    """Cells of a grid from a digit each; "." is empty too.

    >>> digits_of("1.04")
    (1, 0, 0, 4)
    """
    return tuple(0 if one == "." else int(one) for one in text)


def _sudoku(entry: Mapping[str, Any]) -> SudokuProblem:
    cells, solution = digits_of(entry["cells"]), digits_of(entry["answer"])
    side = side_of(len(cells))
    if len(solution) != len(cells) or not all(1 <= digit <= side for digit in solution):
        raise DataError(
            f"the answer is {str(entry['answer'])[:90]}", field="answer", expected=f"{len(cells)} digits from 1 to {side}"
        )
    if wrong := [cell for cell, digit in enumerate(cells) if digit and digit != solution[cell]]:
        raise DataError(f"the answer changes the given cell {wrong[0]}", field="answer", expected="every given digit as it is")
    return SudokuProblem(cells, solution)


def _story(entry: Mapping[str, Any]) -> StoryProblem:
    facts = tuple(map(str, entry["facts"]))
    if not facts or not str(entry["question"]).strip() or not str(entry["answer"]).strip():
        raise DataError("a fact, the question or the answer is empty", field="facts", expected="words in each")
    return StoryProblem(facts, str(entry["question"]), str(entry["answer"]), str(entry.get("task", "")))


def _jumps(entry: Mapping[str, Any]) -> JumpProblem:
    things = tuple(Thing(float(x), float(y), str(colour), str(marker)) for x, y, colour, marker in entry["things"])
    start, jumps = str(entry["start"]), int(entry["jumps"])
    if sum(start in (thing.colour, thing.marker) for thing in things) != 1:
        raise DataError(
            f"{start!r} does not name a single thing", field="start", expected="a colour or marker that one thing has"
        )
    if not 0 <= jumps < len(things):
        raise DataError(f"{jumps} jumps between {len(things)} things", field="jumps", expected="fewer jumps than things")
    return JumpProblem(things, start, jumps, str(entry["answer"]))


_READ: dict[str, Callable[[Mapping[str, Any]], Problem]] = {"sudoku": _sudoku, "story": _story, "jumps": _jumps}
