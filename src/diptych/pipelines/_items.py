"""Reads question files for pipelines that answer a list of questions.

    {"id": "17", "image": "pictures/17.png", "question": "Which bar is longest?", "choices": ["A", "B"], "answer": "B", "category": "bars"}

Image paths are relative to the file; all fields except id, image and question are optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError
from diptych.core.image import FileImage, ImageSource
from diptych.tasks._scoring.answers.answer_match import normalised
from diptych.tasks._scoring.answers.choices import LETTERS
from diptych.tasks.choice.extractors import strict

FIELDS = ("id", "image", "question", "choices", "answer", "category")


@dataclass(frozen=True, slots=True)
class PictureQuestion:
    """A question about a picture; `choices` and `answer` where they are known."""

    id: str
    image: ImageSource
    question: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    category: str = ""

    @property
    def asked(self) -> str:
        """Question with its choices, formatted as in MathVista."""
        if not self.choices:
            return self.question
        lines = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, "Choices:", *lines])


def score_reply(item: PictureQuestion, reply: str) -> dict[str, Any]:
    """Parsed reply and its correctness: `read` is the choice that it names ("" for none), or the reply without articles and
    punctuation;
    `right` is None if no answer is known.
    """
    if item.choices:
        index = strict(reply, item.choices)
        read = "" if index is None else item.choices[index]
        return {"read": read, "right": read == item.answer if item.answer else None}
    read = normalised(reply)
    return {"read": read, "right": read == normalised(item.answer) if item.answer else None}


def read_items(path: Path) -> list[PictureQuestion]:
    """Reads the questions of a file. Raises DataError naming file, row and field for a duplicate id, a missing image, or an
    answer that is not among the choices."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="JSON lines of id, image and question") from error
    items: dict[str, PictureQuestion] = {}
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = _item(line, path, row)
        if item.id in items:
            raise DataError(f"'{item.id}' is given twice", file=path, row=row, field="id", expected="an id of its own")
        items[item.id] = item
    if not items:
        raise DataError("contains no question", file=path, expected="one JSON object per line")
    return list(items.values())


def _item(line: str, file: Path, row: int) -> PictureQuestion:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(
            f"is not valid JSON: {error}", file=file, row=row, expected='{"id": ..., "image": ..., "question": ...}'
        ) from error
    if not isinstance(value, Mapping) or not all(str(value.get(name, "")).strip() for name in FIELDS[:3]):
        raise DataError(f"is {line[:60]}", file=file, row=row, expected="an object with id, image and question")
    if unknown := sorted(set(value) - set(FIELDS)):
        raise DataError("unknown field", file=file, row=row, field=unknown[0], expected=", ".join(FIELDS))
    image = file.parent / str(value["image"])
    if not image.is_file():
        raise DataError(
            f"there is no picture {value['image']}", file=file, row=row, field="image", expected="a file beside this one"
        )
    choices, answer = _choices(value.get("choices", []), file, row), str(value.get("answer", ""))
    if choices and answer and answer not in choices:
        raise DataError(f"'{answer}' is not one of the choices", file=file, row=row, field="answer", expected=" | ".join(choices))
    return PictureQuestion(
        str(value["id"]), FileImage(image), str(value["question"]), choices, answer, str(value.get("category", ""))
    )


def _choices(value: Any, file: Path, row: int) -> tuple[str, ...]:
    good = isinstance(value, list) and len(value) != 1 and all(isinstance(choice, str) and choice.strip() for choice in value)
    if not good or len(value) > len(LETTERS):
        raise DataError(f"are {str(value)[:60]}", file=file, row=row, field="choices", expected="a list of 2 to 26 texts")
    if doubles := [choice for choice in value if value.count(choice) > 1]:
        raise DataError(f"hold '{doubles[0]}' twice", file=file, row=row, field="choices", expected="different ones")
    return tuple(value)
