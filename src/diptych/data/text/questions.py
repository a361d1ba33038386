"""Questions about a sample with their answers, as they lie beside it: `extras["questions"]`.

[{"question": "what colour is the circle ?", "answer": "red"}, {"question": "...", "answers": ["red", "dark red"], "kind": "colour"},
 {"question": "...", "answer": "red", "choices": ["red", "green", "blue"]}]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample

FIELD = "questions"


@dataclass(frozen=True, slots=True)
class Question:
    """answers  what people answered, the most frequent first; kind  what sort of question it is, "" for none; choices  what is offered"""

    text: str
    answers: tuple[str, ...]
    kind: str = ""
    choices: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The one to learn from."""
        return self.answers[0]


def questions_of(sample: Sample) -> list[Question]:
    """The questions of a sample; none where it has no such field. Raises DataError that names sample and question."""
    value = sample.extras.get(FIELD, ())
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise DataError(f"sample '{sample.uid}': {FIELD} is a {type(value).__name__}", field=FIELD, expected="a list")
    return [_question(entry, f"sample '{sample.uid}', question {number}") for number, entry in enumerate(value)]


def _question(entry: Any, where: str) -> Question:
    text = entry.get("question") if isinstance(entry, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} is {str(entry)[:60]}", field=FIELD, expected='{"question": words, "answer": words}')
    given = entry.get("answers", entry.get("answer"))
    answers = [given] if isinstance(given, str) else list(given or ())
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise DataError(f"{where} has no answer", field=FIELD, expected='"answer": words, or "answers": a list of them')
    return Question(text, tuple(answers), str(entry.get("kind", "")), _choices(entry.get("choices", ()), answers[0], where))


def _choices(given: Any, answer: str, where: str) -> tuple[str, ...]:
    if not given:
        return ()
    whole = not isinstance(given, str) and hasattr(given, "__iter__")
    choices = tuple(given) if whole else ()
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError(
            f"{where} has the choices {str(given)[:60]}", field=FIELD, expected='"choices": a list of two texts or more'
        )
    if len(set(choices)) < len(choices) or answer not in choices:
        problem = f"has not its answer {answer!r} among its choices" if answer not in choices else "has a choice twice"
        raise DataError(f"{where} {problem}", field=FIELD, expected="different choices, the answer among them")
    return choices
