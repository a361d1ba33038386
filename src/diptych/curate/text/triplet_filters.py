"""Filters for questions written from a symbolic image description: each returns a drop reason or "" (Auto-Bench, 2311.14580).

format        question, answer or reasoning is empty, or the question is an instruction
length        longer than the word limits
options       an option is repeated, the answer is not among the options, or there is only one option
leak          the question contains the answer, so no image is needed
duplicate     the same question was already asked about the same image
unanswerable  it names a label of the data set that the symbols of this image do not contain
consistency   the answer contradicts the count, presence, attribute, position or relation that the symbols give

A filter passes what it cannot decide, such as a question whose wording it does not recognise. Filters see symbols, never the
image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.curate.text.plurals import plural
from diptych.curate.text.question_programs import EDGE, NUMBERS, SymbolVocabulary
from diptych.data.text.question_answering.symbols import Symbols
from diptych.data.text.question_answering.triplets import Triplet

FILTERS = ("format", "length", "options", "leak", "duplicate", "unanswerable", "consistency")
ASKS = re.compile(r"\?\s*$|^(describe|explain|name|list|tell|state)\b", re.IGNORECASE)
HOW_MANY = re.compile(r"how many ([\w\s-]+?) (?:are|is) (?:there|visible|shown)(?: in the (?:picture|image))?")
IS_THERE = re.compile(r"(?:is|are) there (?:an?|any) ([\w\s-]+?)(?: in the (?:picture|image))?")
WORDS = re.compile(r"[\w'-]+")


@dataclass(frozen=True)
class WordLimits:
    """Largest number of words of a question, of an answer and of the reasoning."""

    question: int = 40
    answer: int = 30
    reasoning: int = 120


def drop_reasons(
    triplets: Iterable[Triplet], symbols: Mapping[str, Symbols], vocabulary: SymbolVocabulary, limits: WordLimits = WordLimits()
) -> list[str]:
    """Drop reason for each question, from the first filter that it fails ("leak: ..."); "" if it is kept."""
    seen: Counter[tuple[str, str]] = Counter()
    out = []
    for triplet in triplets:
        key = triplet.uid, " ".join(_words(triplet.question))
        reason = (
            _format(triplet)
            or _length(triplet, limits)
            or _options(triplet)
            or _leak(triplet)
            or ("duplicate: asked before" if seen[key] else "")
            or _unanswerable(triplet, symbols[triplet.uid], vocabulary)
            or _consistency(triplet, symbols[triplet.uid], vocabulary)
        )
        seen[key] += 1
        out.append(reason)
    return out


def _words(text: str) -> list[str]:
    return WORDS.findall(text.lower())


def _format(triplet: Triplet) -> str:
    empty = next((name for name in ("question", "answer", "reasoning") if not getattr(triplet, name).strip()), "")
    if empty:
        return f"format: no {empty}"
    return "" if ASKS.search(triplet.question.strip()) else "format: no question"


def _length(triplet: Triplet, limits: WordLimits) -> str:
    for name in ("question", "answer", "reasoning"):
        size, most = len(_words(getattr(triplet, name))), getattr(limits, name)
        if size > most:
            return f"length: {size} words of {name}, {most} at most"
    return ""


def _options(triplet: Triplet) -> str:
    options = [option.strip().lower() for option in triplet.options]
    if not options:
        return ""
    if len(options) < 2 or len(set(options)) < len(options):
        return "options: one alone, or one twice"
    return "" if triplet.answer.strip().lower() in options else "options: the answer is not one of them"


def _leak(triplet: Triplet) -> str:
    """Reason "leak" if the question contains the answer more often than some other option ("in the left or the right half?" gives
    nothing away)."""
    question = " ".join(_words(triplet.question))
    times, *others = (
        _times(option, question) for option in (triplet.answer, *(o for o in triplet.options if o != triplet.answer))
    )
    return "leak: the answer stands in the question" if times > min(others, default=0) else ""


def _times(text: str, lowered: str) -> int:
    words = " ".join(_words(text))
    return len(re.findall(rf"(?<![\w-]){re.escape(words)}(?![\w-])", lowered)) if words else 0


def _labels_in(text: str, vocabulary: SymbolVocabulary) -> list[str]:
    """Labels of the data set in a text, singular or plural, by position; the longest one where labels overlap."""
    lowered = " ".join(_words(text))
    spans: list[tuple[int, int, str]] = []
    for label in vocabulary.labels:
        for form in {label.lower(), plural(label.lower())}:
            spans += [
                (match.start(), -len(form), label) for match in re.finditer(rf"(?<![\w-]){re.escape(form)}(?![\w-])", lowered)
            ]
    taken: list[tuple[int, int, str]] = []
    for start, size, label in sorted(spans):
        if not taken or start >= taken[-1][0] - taken[-1][1]:
            taken.append((start, size, label))
    return [label for *_, label in taken]


def _unanswerable(triplet: Triplet, symbols: Symbols, vocabulary: SymbolVocabulary) -> str:
    here = {thing.label for thing in symbols.things}
    lowered = triplet.question.lower()
    if re.search(r"\b(is|are) there\b", lowered) and "how many" not in lowered:
        return ""  # asks whether it is there
    if "how many" in lowered or " more " in f" {lowered} ":
        return ""  # none is an answer
    absent = [label for label in _labels_in(triplet.question, vocabulary) if label not in here]
    return f"unanswerable: there is no {absent[0]}" if absent else ""


def _consistency(triplet: Triplet, symbols: Symbols, vocabulary: SymbolVocabulary) -> str:
    expected = answers_from_symbols(triplet.question, symbols, vocabulary)
    answer = " ".join(_words(triplet.answer))
    if expected is None or answer in expected:
        return ""
    return f"consistency: {triplet.answer}, by the symbols {' or '.join(sorted(expected))}"


def answers_from_symbols(question: str, symbols: Symbols, vocabulary: SymbolVocabulary) -> set[str] | None:
    """Lower-case answers that the symbols allow; None if the symbols cannot answer this kind of question."""
    lowered, labels = " ".join(_words(question)), _labels_in(question, vocabulary)
    things = symbols.named(labels[0]) if labels else []
    if not labels:
        return None
    if lowered.startswith("if ") and "taken away" in lowered and "how many" in lowered:
        return _number(len(symbols.things) - len(things))
    whole = (labels[0].lower(), plural(labels[0].lower()))
    if counted := HOW_MANY.fullmatch(lowered):
        return _number(len(things)) if counted[1] in whole else None
    if match := IS_THERE.fullmatch(lowered):
        return ({"yes"} if things else {"no"}) if match[1] in whole else None
    if lowered.startswith("are there more ") and len(labels) == 2:
        first, second = (len(symbols.named(label)) for label in labels)
        return None if first == second else {plural(labels[0] if first > second else labels[1]).lower()}
    if len(things) != 1:
        return None
    if lowered.startswith("which word describes the ") or re.match(r"what colou?r is the ", lowered):
        return {attribute.lower() for attribute in things[0].attributes} or None
    for axis, (low, high) in ((0, ("left", "right")), (1, ("top", "bottom"))):
        if f"in the {low} or the {high} half" in lowered:
            offset = things[0].centre[axis] - 0.5
            return None if abs(offset) < EDGE else {low if offset < 0 else high}
    if lowered.startswith("how does the ") and len(labels) == 2 and len(symbols.named(labels[1])) == 1:
        a, b = symbols.things.index(things[0]), symbols.things.index(symbols.named(labels[1])[0])
        return {predicate for x, predicate, y in symbols.relations if (x, y) == (a, b)} or None
    return None


def _number(count: int) -> set[str]:
    return {str(count), *([NUMBERS[count]] if 0 <= count < len(NUMBERS) else []), *(["zero", "no"] if count == 0 else [])}


# ---------------------------------------------------------------- how good the filters are

ERRORS = FILTERS
"""An error of each kind can be planted."""


def with_planted_errors(
    triplets: Sequence[Triplet], symbols: Mapping[str, Symbols], vocabulary: SymbolVocabulary, rate: float, rng: Any
) -> list[tuple[Triplet, str]]:
    """Plants errors in a fraction `rate` of the questions, cycling through the kinds; returns each question with its kind ("" for
    none). A question that cannot take the error due stays unchanged."""
    planted: list[tuple[Triplet, str]] = []
    turn = 0
    for triplet in triplets:
        if rng.random() >= rate:
            planted.append((triplet, ""))
            continue
        kind = ERRORS[turn % len(ERRORS)]
        turn += 1
        worse = _plant_error(kind, triplet, symbols[triplet.uid], vocabulary, rng)
        if kind == "duplicate":
            planted += [(triplet, ""), (triplet, "duplicate")]
        else:
            planted.append((triplet, "") if worse is None else (worse, kind))
    return planted


def _plant_error(kind: str, triplet: Triplet, symbols: Symbols, vocabulary: SymbolVocabulary, rng: Any) -> Triplet | None:
    match kind:
        case "format":
            return replace(triplet, reasoning=" ")
        case "length":
            return replace(triplet, reasoning=" ".join([triplet.reasoning] * 60))
        case "options":
            return replace(triplet, options=(*triplet.options, triplet.answer)) if triplet.options else None
        case "leak":
            return replace(triplet, question=f"{triplet.question[:-1]}, given that it is {triplet.answer}?")
        case "unanswerable":
            here = {thing.label for thing in symbols.things}
            away = [label for label in vocabulary.labels if label not in here]
            labels = _labels_in(triplet.question, vocabulary)
            if triplet.sub_ability not in ("attribute", "location") or not away or not labels:
                return None
            return replace(triplet, question=triplet.question.replace(labels[0], str(rng.choice(away))))
        case "consistency":
            wrong = [option for option in triplet.options if option != triplet.answer]
            return replace(triplet, answer=str(rng.choice(wrong))) if wrong else None
    return None


@dataclass(frozen=True, slots=True)
class FilterQuality:
    """precision  fraction of the questions dropped by the filter that had its error; None if it dropped none
    recall     fraction of the errors of its kind that any filter dropped; None if there were none
    """

    taken: int
    errors: int
    precision: float | None
    recall: float | None


def measure_filters(faults: Sequence[str], errors: Sequence[str]) -> dict[str, FilterQuality]:
    """Precision and recall of each filter over questions with known errors, and of "any" filter: dropping a sound question is a
    false positive."""
    taken = [reason.partition(":")[0] for reason in faults]
    made = {}
    for kind in (*FILTERS, "any"):
        out = [error for one, error in zip(taken, errors, strict=True) if one and kind in (one, "any")]
        had = [one for one, error in zip(taken, errors, strict=True) if error and kind in (error, "any")]
        good = [error for error in out if error and kind in (error, "any")]
        made[kind] = FilterQuality(
            len(out),
            len(had),
            len(good) / len(out) if out else None,
            sum(bool(one) for one in had) / len(had) if had else None,
        )
    return made
