"""Questions about a sample with their answers, as they lie beside it: `extras["questions"]`.

[{"question": "what colour is the circle ?", "answer": "red"}, {"question": "...", "answers": ["red", "dark red"], "kind": "colour"}]
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
    """answers  what people answered, the most frequent first; kind  what sort of question it is, "" for none"""

    text: str
    answers: tuple[str, ...]
    kind: str = ""

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
    return Question(text, tuple(answers), str(entry.get("kind", "")))
