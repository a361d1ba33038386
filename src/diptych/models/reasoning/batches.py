"""Batches of reasoning problems: grids, stories, objects.

Letters: B batch, N cells, facts or objects, L words, A answers, Q features of a question, C H W of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch
from diptych.data.problems.problem import JumpProblem, Kind, Problem, StoryProblem, SudokuProblem

P = TypeVar("P")
UNKNOWN = "UNK"
"""The last word of a vocabulary, for unknown words."""


@dataclass(frozen=True, kw_only=True)
class ProblemForm:
    """Names and sizes that define the tensors of a problem.

    side     of a grid
    words    of stories, `UNKNOWN` last; answers are words too
    facts    maximal number of facts of a story; the last ones are kept
    colours, markers   of objects
    most_jumps  maximal number of jumps in a question
    """

    problem: Kind = "sudoku"
    side: int = 9
    words: tuple[str, ...] = ()
    facts: int = 20
    colours: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    most_jumps: int = 7

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        if self.problem == "sudoku":
            return tuple(map(str, range(self.side + 1)))
        return self.words if self.problem == "story" else (*self.colours, *self.markers)

    @property
    def question_width(self) -> int:
        """Number of features of a question about objects: its start, and its number of jumps."""
        return len(self.colours) + len(self.markers) + self.most_jumps + 1


@dataclass(frozen=True, kw_only=True)
class ReasoningBatch(TensorBatch):
    """answer_BA  int64, the class of each answer: one per cell, or one per question."""

    answer_BA: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class GridBatch(ReasoningBatch):
    """cell_BN  int64, 0 where a cell is empty."""

    cell_BN: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class StoryBatch(ReasoningBatch):
    """Word ids of facts and questions; `exists_BN` is False for padding facts, whose length is 0.

    position_BN  int64, 0 for the first fact used, plus the story's offset
    """

    word_BNL: Rows[Tensor]
    length_BN: Rows[Tensor]
    exists_BN: Rows[Tensor]
    position_BN: Rows[Tensor]
    question_BL: Rows[Tensor]
    question_length_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class ThingBatch(ReasoningBatch):
    """thing_BNF   position, colour and marker of each object, names as one-hot vectors
    exists_BN   False for padding objects
    question_BQ start and number of jumps, one-hot
    image_BCHW  the picture, if it is the input instead of the objects
    """

    thing_BNF: Rows[Tensor]
    exists_BN: Rows[Tensor]
    question_BQ: Rows[Tensor]
    image_BCHW: Rows[Tensor] | None = None


def batch_of(
    problems: Sequence[Problem], form: ProblemForm, *, offsets: Sequence[int] = (), image: Tensor | None = None
) -> ReasoningBatch:
    """Collate problems of one kind. Raises DataError for another kind or size, or a name that is not in the form.

    offsets  added to the positions of each story's facts; none: 0
    image    [B, C, H, W] of objects
    """
    if form.problem == "sudoku":
        return _grids([_expect(one, SudokuProblem, form) for one in problems], form)
    if form.problem == "story":
        return _stories([_expect(one, StoryProblem, form) for one in problems], form, offsets or [0] * len(problems))
    return _things([_expect(one, JumpProblem, form) for one in problems], form, image)


def _expect(problem: Problem, kind: type[P], form: ProblemForm) -> P:
    if not isinstance(problem, kind):
        raise DataError(f"a {type(problem).__name__} came", field="problem", expected=f"problems of kind {form.problem}")
    return problem


def _grids(problems: Sequence[SudokuProblem], form: ProblemForm) -> GridBatch:
    if wrong := [one.side for one in problems if one.side != form.side]:
        raise DataError(
            f"a grid of {wrong[0]} x {wrong[0]}", field="cells", expected=f"{form.side} x {form.side}, as in training"
        )
    return GridBatch(
        answer_BA=torch.tensor([one.solution for one in problems]), cell_BN=torch.tensor([one.cells for one in problems])
    )


def _stories(problems: Sequence[StoryProblem], form: ProblemForm, offsets: Sequence[int]) -> StoryBatch:
    id_of = {word: number for number, word in enumerate(form.words)}
    unknown = len(form.words) - 1

    def numbers(text: str) -> list[int]:
        return [id_of.get(word, unknown) for word in text.split()]

    facts = [[numbers(fact) for fact in one.facts[-form.facts :]] for one in problems]
    asked = [numbers(one.question) for one in problems]
    nodes, longest = max(map(len, facts)), max(len(fact) for story in facts for fact in story)
    word_BNL = np.zeros((len(problems), nodes, longest), np.int64)
    length_BN = np.zeros((len(problems), nodes), np.int64)
    for row, story in enumerate(facts):
        for node, fact in enumerate(story):
            word_BNL[row, node, : len(fact)] = fact
            length_BN[row, node] = len(fact)
    question_BL = np.zeros((len(problems), max(map(len, asked))), np.int64)
    for row, words in enumerate(asked):
        question_BL[row, : len(words)] = words
    count_B1 = torch.tensor([[len(story)] for story in facts])
    node_N = torch.arange(nodes)
    return StoryBatch(
        answer_BA=torch.tensor([[id_of.get(one.answer, unknown)] for one in problems]),
        word_BNL=torch.from_numpy(word_BNL),
        length_BN=torch.from_numpy(length_BN),
        exists_BN=node_N < count_B1,
        position_BN=(node_N + torch.tensor(offsets)[:, None]),
        question_BL=torch.from_numpy(question_BL),
        question_length_B=torch.tensor([len(words) for words in asked]),
    )


def _things(problems: Sequence[JumpProblem], form: ProblemForm, image: Tensor | None) -> ThingBatch:
    column_of = {name: number for number, name in enumerate(form.names)}
    most = max(len(one.things) for one in problems)
    thing_BNF = torch.zeros(len(problems), most, 2 + len(column_of))
    exists_BN = torch.zeros(len(problems), most, dtype=torch.bool)
    question_BQ = torch.zeros(len(problems), form.question_width)
    answers = []
    for row, one in enumerate(problems):
        wanted = {one.start, one.answer, *(name for thing in one.things for name in (thing.colour, thing.marker))}
        if strange := sorted(wanted - set(column_of)):
            raise DataError(f"the name {strange[0]!r}", field="things", expected=f"one of {', '.join(column_of)}, as in training")
        if one.jumps > form.most_jumps:
            raise DataError(f"{one.jumps} jumps", field="jumps", expected=f"at most {form.most_jumps}, as in training")
        for node, thing in enumerate(one.things):
            thing_BNF[row, node, :2] = torch.tensor((thing.x, thing.y))
            thing_BNF[row, node, [2 + column_of[thing.colour], 2 + column_of[thing.marker]]] = 1.0
            exists_BN[row, node] = True
        question_BQ[row, [column_of[one.start], len(column_of) + one.jumps]] = 1.0
        answers.append([column_of[one.answer]])
    return ThingBatch(
        answer_BA=torch.tensor(answers), thing_BNF=thing_BNF, exists_BN=exists_BN, question_BQ=question_BQ, image_BCHW=image
    )
