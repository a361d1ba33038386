"""A fixed list of answers, and what people's answers to a question make of it: VQA as classification.  Letters: B questions, K
answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.data.text.question_answering.questions import Question

PEOPLE = 4
"""From this many answers on, an answer that few people gave counts for less."""
SHARES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""What an answer is worth that none, one, two, three or more people gave."""


def answer_list(questions: Iterable[Question], *, least: int, alike: Callable[[str], str]) -> tuple[str, ...]:
    """The answers that are the most frequent one of at least `least` questions, sorted. `alike` makes equal what counts as equal.

    Raises DataError if no answer is that frequent.
    """
    counts = Counter(alike(question.answer) for question in questions)
    answers = tuple(sorted(answer for answer, count in counts.items() if count >= least))
    if not answers:
        raise DataError(
            f"no answer is given to {least} questions or more ({len(counts)} different answers)",
            field="questions",
            expected="more questions, or a smaller answers_least",
        )
    return answers


def answer_targets(
    asked: Sequence[Question | None], answers: Sequence[str], *, alike: Callable[[str], str]
) -> tuple[Tensor, Tensor]:
    """target_BK float32, what each answer is worth, and there_B, False if there is no question.

    Of four people or more an answer is worth 0.3, 0.6, 0.9 or 1 by how many gave it; of fewer, 1. Answers that are not in the list are
    worth nothing.
    """
    position_of = {answer: position for position, answer in enumerate(answers)}
    target_BK = torch.zeros(len(asked), len(answers))
    for row, question in enumerate(asked):
        if question is None:
            continue
        counts = Counter(alike(answer) for answer in question.answers)
        for answer, count in counts.items():
            if answer in position_of:
                worth = SHARES[min(count, PEOPLE)] if len(question.answers) >= PEOPLE else 1.0
                target_BK[row, position_of[answer]] = worth
    return target_BK, torch.tensor([question is not None for question in asked])
