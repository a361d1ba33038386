"""Planted models that answer questions with options, whose knowledge and faults are known: what a protocol must tell apart.

The questions mean nothing, and a responder knows an answer by its question. Whether it knows one is drawn once a question, so
that its accuracy is known: `knows` + (1 - `knows`) / options for a knower that guesses where it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.prompt import PromptLike, TextPart
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import FIELD
from diptych.tasks.choice.multiple_choice import MultipleChoice

Kind = Literal["knower", "first letter", "content guesser", "always none", "pulled knower"]
OPTION = re.compile(r"^(?:\(([A-Z])\)|([A-Z])\.) (.*)$", re.MULTILINE)
ASKED = re.compile(r"Which of these is meant by number (\d+) \?")
SMOKE_QUESTIONS = 12
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jade", "knoll", "lagoon")


def quiz(questions: int, *, seed: int, options: int = 6) -> Pool:
    """Questions about plain pictures, each a sample of its own, with so many options in a drawn order."""
    picture = ArrayImage(np.full((4, 4, 3), 128, np.uint8), "plain")
    samples = []
    for number in range(questions):
        rng = keyed_rng("quiz", seed, number)
        offered = [WORDS[place] for place in rng.permutation(len(WORDS))[:options]]
        asked = {
            "id": f"q{number}",
            "question": f"Which of these is meant by number {number} ?",
            "answer": offered[int(rng.integers(options))],
            "choices": offered,
        }
        samples.append(Sample(f"s{number:04d}", picture, extras={FIELD: [asked]}))
    return Pool.from_samples(samples, name="planted quiz")


@dataclass(frozen=True)
class Responder:
    """A model that writes.

    kind    "knower" knows a share of the answers and guesses an option by its content where it does not; "first letter" takes
            A; "content guesser" guesses every time, the same content in every order; "always none" says that none is right;
            "pulled knower" is a knower whose letter is A in a share of all that it is asked
    knows   the share
    pull    the share
    rejects says "none" where it knows the answer, and it is not offered
    wordy   names other letters on the way to its own
    fault   the share of replies that name no option
    """

    kind: Kind = "knower"
    knows: float = 0.7
    pull: float = 0.3
    rejects: bool = True
    wordy: bool = False
    fault: float = 0.0
    none_option: str = ""
    seed: int = 0
    truths: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}{f', knows {self.knows:g}' if 'knower' in self.kind else ''}"

    def taught(self, data: Pool) -> Responder:
        """One that can look up the answers of these questions."""
        found = (question for row in range(len(data)) for question in data[row].extras[FIELD])
        return replace(self, truths={question["question"]: question["answer"] for question in found})

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self._reply(_words(prompt)) for prompt in prompts]

    def _reply(self, text: str) -> str:
        asked = ASKED.findall(text)[-1]
        offered = [(first or second, content) for first, second, content in OPTION.findall(text[text.rindex("Which of these") :])]
        letter = self._letter(asked, offered, text)
        if keyed_rng("fault", self.seed, text).random() < self.fault:
            return "I would rather not say."
        if not self.wordy:
            return f"({letter})"
        other = next(one for one, _ in reversed(offered) if one != letter)
        return f"The answer is ({letter}): I looked at ({other}) first, and ({other}) fails."

    def _letter(self, asked: str, offered: Sequence[tuple[str, str]], text: str) -> str:
        by_content = {content: letter for letter, content in offered}
        if self.kind == "first letter":
            return offered[0][0]
        if self.kind == "always none":
            return by_content.get(self.none_option, offered[-1][0])
        if self.kind == "pulled knower" and keyed_rng("pull", self.seed, text).random() < self.pull:
            return offered[0][0]
        rng = keyed_rng("knows", self.seed, asked)
        knows, guess = self.kind != "content guesser" and rng.random() < self.knows, rng.permutation(len(WORDS))
        truth = self.truths[f"Which of these is meant by number {asked} ?"]
        if knows and truth in by_content:
            return by_content[truth]
        if knows and self.rejects and self.none_option in by_content:
            return by_content[self.none_option]
        ranked = sorted(by_content, key=lambda content: int(guess[WORDS.index(content)]) if content in WORDS else -1)
        return by_content[ranked[int(guess[0]) % len(ranked)]]


@dataclass(frozen=True)
class Responding:
    """What a protocol says of a responder on so many questions."""

    responder: Responder
    task: MultipleChoice
    questions: int = 200

    def __call__(self, cell: Cell) -> Scores:
        data = quiz(SMOKE_QUESTIONS if cell.smoke else self.questions, seed=cell.seed)
        model = replace(self.responder, seed=cell.seed, none_option=self.task.none_option).taught(data)
        result = self.task.score(self.task.predict(model, data))
        found = {name: metric.value for name, metric in result.metrics.items() if "/" not in name and not np.isnan(metric.value)}
        released: Any = result.notes.get("accuracy_by_extractor", {})
        return found | {f"accuracy_by_{name}": value for name, value in released.items() if "/" not in name}


def _words(prompt: PromptLike) -> str:
    if isinstance(prompt, str):
        return prompt
    return "".join(part.text for part in prompt if isinstance(part, TextPart))  # type: ignore[union-attr]
