"""Question programs: write questions, answers and reasoning from the symbols of an image.

A program asks only what the symbols determine: about objects with a unique label, counts up to ten, and unambiguous positions.
Questions that need world knowledge (actions, prediction, planning, values) are left to a language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.curate.text.plurals import plural
from diptych.data.text.question_answering.symbols import SymbolicObject, Symbols
from diptych.data.text.question_answering.triplets import Triplet

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
EDGE = 0.1
"""Minimum distance of an object's centre from the middle, as a fraction of the image, to name a side."""


@dataclass(frozen=True)
class SymbolVocabulary:
    """Sorted labels, attributes and predicates of a data set, for wrong options and absent objects."""

    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    predicates: tuple[str, ...]

    @classmethod
    def of(cls, every: Sequence[Symbols]) -> SymbolVocabulary:
        things = [thing for symbols in every for thing in symbols.things]
        return cls(
            tuple(sorted({thing.label for thing in things})),
            tuple(sorted({thing.attributes[0] for thing in things if thing.attributes})),
            tuple(sorted({predicate for symbols in every for _, predicate, _ in symbols.relations})),
        )


def write_questions(uid: str, symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any, *, options: int = 4) -> list[Triplet]:
    """Questions of all programs, one from each that applies. options: per closed question; fewer if the vocabulary is smaller."""
    questions: list[Triplet] = []
    for program in PROGRAMS:
        for draft in program(symbols, vocabulary, rng):
            offered = _draw_options(draft, rng, options)
            questions.append(
                Triplet(
                    uid, draft.ability, draft.sub_ability, draft.question, draft.answer, offered, draft.reasoning, draft.support
                )
            )
    return questions


@dataclass(frozen=True, slots=True)
class _QuestionDraft:
    ability: str
    sub_ability: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    reasoning: str
    support: tuple[str, ...]


Program = Callable[[Symbols, SymbolVocabulary, Any], Iterator[_QuestionDraft]]


def _draw_options(draft: _QuestionDraft, rng: Any, count: int) -> tuple[str, ...]:
    wrong = [option for option in dict.fromkeys(draft.wrong) if option != draft.answer]
    drawn = [wrong[index] for index in rng.permutation(len(wrong))[: count - 1]]
    every = [draft.answer, *drawn]
    return tuple(every[index] for index in rng.permutation(len(every)))


def _one(things: Sequence[Any], rng: Any) -> Any:
    return things[int(rng.integers(len(things)))]


def _single(symbols: Symbols) -> list[tuple[int, SymbolicObject]]:
    """Objects whose label occurs once."""
    return [(row, thing) for row, thing in enumerate(symbols.things) if len(symbols.named(thing.label)) == 1]


def _at(row: int, thing: SymbolicObject) -> str:
    return f"{row} {thing.label}"


def presence(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on the presence of a thing. Yes and no come up equally often where the vocabulary has other things."""
    here = sorted({thing.label for thing in symbols.things})
    away = [label for label in vocabulary.labels if label not in here]
    if not here:
        return
    target = _one(away, rng) if away and rng.random() < 0.5 else _one(here, rng)
    answer = "yes" if target in here else "no"
    support = tuple(_at(row, thing) for row, thing in enumerate(symbols.things) if answer == "no" or thing.label == target)
    reason = f"The things are: {', '.join(here)}."
    yield _QuestionDraft("perception", "object", f"Is there a {target} in the picture?", answer, ("yes", "no"), reason, support)


def count(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on the number of things of a label; neighbouring numbers are the wrong options."""
    labels = sorted({thing.label for thing in symbols.things})
    if not labels:
        return
    label = _one(labels, rng)
    rows = [row for row, thing in enumerate(symbols.things) if thing.label == label]
    if len(rows) >= len(NUMBERS):
        return
    near = tuple(NUMBERS[number] for number in range(max(0, len(rows) - 3), min(len(NUMBERS), len(rows) + 4)))
    support = tuple(_at(row, symbols.things[row]) for row in rows)
    reason = f"A {label} is listed {NUMBERS[len(rows)]} time{'s' if len(rows) > 1 else ''}."
    yield _QuestionDraft("perception", "count", f"How many {plural(label)} are there?", NUMBERS[len(rows)], near, reason, support)


def attribute(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on the attribute of the only thing of a label."""
    candidates = [(row, thing) for row, thing in _single(symbols) if thing.attributes]
    if candidates:
        row, thing = _one(candidates, rng)
        answer = thing.attributes[0]
        reason = f"The only {thing.label} is {answer}."
        question = f"Which word describes the {thing.label}?"
        yield _QuestionDraft(
            "perception", "attribute", question, answer, _but(vocabulary.attributes, thing.attributes), reason, (_at(row, thing),)
        )


def location(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on the half of the image that contains the only object of a label, across and down; not asked near the middle."""
    for axis, (low, high) in ((0, ("left", "right")), (1, ("top", "bottom"))):
        candidates = [(row, thing) for row, thing in _single(symbols) if abs(thing.centre[axis] - 0.5) >= EDGE]
        if candidates:
            row, thing = _one(candidates, rng)
            answer = low if thing.centre[axis] < 0.5 else high
            reason = (
                f"The centre of the {thing.label} is at {thing.centre[axis]:.2f} of the {'width' if axis == 0 else 'height'}."
            )
            question = f"Is the {thing.label} in the {low} or the {high} half?"
            yield _QuestionDraft("perception", "location", question, answer, (low, high), reason, (_at(row, thing),))


def relation(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on the relation of two things that are the only ones of their labels."""
    single = {row for row, _ in _single(symbols)}
    candidates = [one for one in symbols.relations if one[0] in single and one[2] in single]
    if candidates:
        a, answer, b = _one(candidates, rng)
        first, second = symbols.things[a].label, symbols.things[b].label
        holds = [predicate for x, predicate, y in symbols.relations if (x, y) == (a, b)]
        question = f"How does the {first} relate to the {second}?"
        support = (f"{a} {first} {answer} {b} {second}",)
        reason = f"The {first} is {answer} the {second}."
        yield _QuestionDraft("perception", "relation", question, answer, _but(vocabulary.predicates, holds), reason, support)


def comparison(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on which of two labels has more things; not asked on a tie."""
    labels = sorted({thing.label for thing in symbols.things})
    if len(labels) < 2:
        return
    first, second = (labels[index] for index in rng.permutation(len(labels))[:2])
    a, b = len(symbols.named(first)), len(symbols.named(second))
    if a != b and max(a, b) < len(NUMBERS):
        more = first if a > b else second
        reason = f"There are {NUMBERS[a]} of {first} and {NUMBERS[b]} of {second}."
        support = tuple(_at(row, thing) for row, thing in enumerate(symbols.things) if thing.label in (first, second))
        question = f"Are there more {plural(first)} or more {plural(second)}?"
        yield _QuestionDraft("reasoning", "comparison", question, plural(more), (plural(first), plural(second)), reason, support)


def counterfactual(symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Iterator[_QuestionDraft]:
    """Question on the number of things left without those of one label."""
    labels = sorted({thing.label for thing in symbols.things})
    if not labels or len(symbols.things) >= len(NUMBERS):
        return
    label = _one(labels, rng)
    gone = len(symbols.named(label))
    left = len(symbols.things) - gone
    near = tuple(NUMBERS[number] for number in range(max(0, left - 3), min(len(NUMBERS), left + 4)))
    reason = f"Of {NUMBERS[len(symbols.things)]} things {NUMBERS[gone]} would go."
    question = f"If every {label} were taken away, how many things would be left?"
    support = tuple(_at(row, thing) for row, thing in enumerate(symbols.things))
    yield _QuestionDraft("reasoning", "counterfactual", question, NUMBERS[left], near, reason, support)


def _but(every: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in every if one not in without)


PROGRAMS: tuple[Program, ...] = (presence, count, attribute, location, relation, comparison, counterfactual)
