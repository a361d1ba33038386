"""Prompts of LifelongMemory: sections in the order of the published code, with our own wording or that of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError

RULE = "\n\n###\n\n"


@dataclass(frozen=True)
class Wording:
    """Prompt texts around questions and memory.

    recall_system, recall_begin, recall_end  for questions about an interval
    choose_system, choose_end                for questions with options
    merge_system                             for merging captions
    """

    recall_system: str = (
        "You wear a camera. In the notes C is you and O is anybody else. You are asked when something happened. Answer by an interval of "
        "the notes' timestamps.\n"
        "1. Include what came right before and right after, not the moment alone.\n"
        "2. Where a question names several actions, give one interval that covers them all.\n"
        "3. Rather give a wide interval that surely holds the answer than a narrow one that may miss it. Where the notes do not tell, "
        "answer NA.\n"
        "4. Give a confidence: 1 where it is there and unclear, 2 where it is fairly clear, 3 where it is clear and supported by the notes."
    )
    recall_begin: str = (
        "You are C. For each question give the timestamps between which the answer lies, with what came before and after; "
        "NA if unknown."
    )
    recall_end: str = (
        "Answer with a TSV with the columns query_index, predictions, explanation, confidence. "
        "A prediction is [first, last] or NA."
    )
    choose_system: str = (
        "You get notes of what a video shows, and a question about it with options. Imagine the scene, choose the option that is right or "
        "closest to right, explain it in one sentence, and rate your confidence from 1 (low) to 3 (high)."
    )
    choose_end: str = (
        "Answer with a dictionary of prediction, explanation and confidence; prediction is the number of the option."
    )
    merge_system: str = (
        "Merge these captions into one short caption that loses nothing of importance. Answer with the caption alone."
    )


def read_wording(path: Path | None) -> Wording:
    """Default prompt texts, overridden by those of a JSON object in a file."""
    if path is None:
        return Wording()
    names = [field.name for field in fields(Wording)]
    try:
        given = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected=f"a JSON object of {', '.join(names)}") from error
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()) or set(given) - set(names):
        raise DataError("is not a string", file=path, expected=f"a JSON object with texts for some of {', '.join(names)}")
    return replace(Wording(), **given)


def queries(questions: Sequence[tuple[int, str]], *, released: bool = False) -> str:
    """Table of questions with their numbers. released: without the line break after its header, as in the published code."""
    header = "query \t query_index" + ("" if released else "\n")
    return header + "".join(f"{question} \t {number} \n" for number, question in questions)


def options(question: str, choices: Sequence[str]) -> str:
    return f"Question: {question} \n" + "\n".join(f"Option {number}: {choice}" for number, choice in enumerate(choices))


def recall(wording: Wording, table: str, memory: str) -> str:
    return RULE.join([wording.recall_begin, "Questions:", table, "Memory:", memory, wording.recall_end])


def choose(wording: Wording, question: str, memory: str) -> str:
    return RULE.join(["Memory:", memory, question, wording.choose_end])
