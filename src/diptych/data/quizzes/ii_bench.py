"""II-Bench's files (Liu et al., 2024, arXiv 2406.05862): what a picture implies, with six options. The test split keeps its
answers secret.

A few questions repeat a wrong option; they are taken as they are, and counted in the notes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quizzes.quiz_rows import Row, option_list, picture, words
from diptych.data.text.question_answering.questions import FIELD

ABOUT = ("image_type", "difficulty", "domain", "emotion", "rhetoric")
HINTS = ("domain", "emotion", "rhetoric")
OPTIONS = 6


def holds(row: Row) -> bool:
    """True if a row is from II-Bench, in either form of its release."""
    return {"local_path", "questions"} <= set(row) or {"option1", "option6", "image", "question"} <= set(row)


def read(path: Path, rows: list[Row], name: str, root: Path | None = None) -> Pool:
    """One sample per picture, with `extras["questions"]`."""
    samples, repeated = [], 0
    for number, row in enumerate(rows):
        flat = "questions" not in row
        questions_in_row = [_from_columns(row)] if flat else row["questions"]
        if (
            not isinstance(questions_in_row, list)
            or not questions_in_row
            or not all(isinstance(one, dict) for one in questions_in_row)
        ):
            raise DataError(
                f"is {str(questions_in_row)[:60]}", file=path, row=number, field="questions", expected="a list of questions"
            )
        about = row if flat else row.get("meta_data") or {}
        if not isinstance(about, dict):
            raise DataError(f"is {str(about)[:60]}", file=path, row=number, field="meta_data", expected="named words")
        facets = {one: _several(about.get(one)) for one in ABOUT if about.get(one)}
        questions = []
        for one in questions_in_row:
            options, right = option_list(one.get("options"), one.get("answer") or None, path, number, doubles=True)
            if len(options) != OPTIONS:
                raise DataError(f"are {len(options)}", file=path, row=number, field="options", expected=f"{OPTIONS} texts")
            if right is not None and (published_letter := one.get("correct_option")) not in (None, right):
                letter = one["answer"]
                raise DataError(
                    f"is {str(published_letter)[:40]!r}",
                    file=path,
                    row=number,
                    field="correct_option",
                    expected=f"option {letter}",
                )
            repeated += len(set(options)) < len(options)
            questions.append(
                {
                    "id": words(one, "id", path, number),
                    "question": words(one, "question", path, number),
                    "answer": right,
                    "choices": options,
                    "doubles": True,
                    "hints": {hint: facets[hint] for hint in HINTS if hint in facets},
                    "facets": facets,
                }
            )
        field = "image" if flat else "local_path"
        image = picture(row.get(field), path, number, field, root)
        samples.append(Sample(words(questions_in_row[0], "id", path, number), image, extras={FIELD: questions}))
    pool = Pool.from_samples(samples, name=name)
    if repeated:
        pool.notes.append(f"{repeated} questions repeat a wrong option")
    return pool


def _from_columns(row: Row) -> dict[str, Any]:
    options = [row.get(f"option{number}") for number in range(1, OPTIONS + 1)]
    given = row.get("id")
    return {
        **{name: row.get(name) for name in ("question", "answer")},
        "options": options,
        "id": None if given is None else str(given),
    }


def _several(value: Any) -> list[str]:
    return [str(value)] if isinstance(value, str) else [str(one) for one in value]
