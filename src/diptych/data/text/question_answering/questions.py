"""Questions about a sample with their answers, stored in `extras["questions"]`.

[{"question": "what colour is the circle ?", "answer": "red"},
 {"question": "...", "answers": ["red", "dark red"], "kind": "colour"},
 {"question": "...", "answer": "red", "choices": ["red", "green", "blue"]}]

A question with choices whose answer is kept secret has "answer": null; "doubles": true lets wrong choices read alike. "id" names
it beyond this data set; questions of one "same_as" are the same question asked in several ways; "hints" and "facets" are words
about it, by name: facts that a model may be given, and columns that results are broken down by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample

FIELD = "questions"


@dataclass(frozen=True, slots=True)
class Question:
    """answers  what people answered, the most frequent first; none where they are kept secret
    kind     what sort of question it is, "" for none
    choices  what is offered
    id, same_as, hints, facets  see above
    """

    text: str
    answers: tuple[str, ...]
    kind: str = ""
    choices: tuple[str, ...] = ()
    id: str = ""
    same_as: str = ""
    hints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    facets: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The one to learn from. Raises DataError if it is kept secret."""
        if not self.answers:
            raise DataError(f"the answer to '{self.text[:60]}' is not given", field=FIELD, expected='"answer": words')
        return self.answers[0]


def questions_of(sample: Sample) -> list[Question]:
    """The questions of a sample; none if it has no such field. Raises DataError that names sample and question."""
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
    secret = not answers and "answer" in entry and bool(entry.get("choices"))
    if not secret and (not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers)):
        raise DataError(f"{where} has no answer", field=FIELD, expected='"answer": words, or "answers": a list of them')
    return Question(
        text,
        tuple(answers),
        str(entry.get("kind", "")),
        _choices(entry.get("choices", ()), answers[0] if answers else "", where, doubles=entry.get("doubles") is True),
        str(entry.get("id") or ""),
        str(entry.get("same_as") or ""),
        _words(entry.get("hints"), where, "hints"),
        _words(entry.get("facets"), where, "facets"),
    )


def _words(given: Any, where: str, name: str) -> dict[str, tuple[str, ...]]:
    if not given:
        return {}
    words_by_key = {str(k): (v,) if isinstance(v, str) else v for k, v in given.items()} if isinstance(given, Mapping) else None
    if words_by_key is None or not all(
        hasattr(v, "__iter__") and all(isinstance(one, str) for one in v) for v in words_by_key.values()
    ):
        raise DataError(
            f"{where} has the {name} {str(given)[:60]}", field=FIELD, expected=f'"{name}": words, or lists of them, by name'
        )
    return {name: tuple(words) for name, words in words_by_key.items()}


def _choices(given: Any, answer: str, where: str, *, doubles: bool) -> tuple[str, ...]:
    if not given:
        return ()
    whole = not isinstance(given, str) and hasattr(given, "__iter__")
    choices = tuple(given) if whole else ()
    if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError(
            f"{where} has the choices {str(given)[:60]}", field=FIELD, expected='"choices": a list of two texts or more'
        )
    absent = bool(answer) and answer not in choices
    if (len(set(choices)) < len(choices) and not (doubles and choices.count(answer) < 2)) or absent:
        problem = f"has not its answer {answer!r} among its choices" if absent else "has a choice twice"
        raise DataError(f"{where} {problem}", field=FIELD, expected="different choices, the answer among them")
    return choices
