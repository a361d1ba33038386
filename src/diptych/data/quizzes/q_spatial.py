"""Q-Spatial Bench's rows (Liao et al., 2024, arXiv 2409.09788): how far apart, how wide, how high, with a length as the answer."""

from __future__ import annotations

import math
from pathlib import Path

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quizzes.quiz_rows import Row, picture, words

FIELD = "length"


def holds(row: Row) -> bool:
    """True if a row is from Q-Spatial Bench."""
    return {"question", "answer_value", "answer_unit", "question_type"} <= set(row)


def read(path: Path, rows: list[Row], name: str, root: Path | None = None) -> Pool:
    """One sample per row, with `extras["length"]`: question, value, unit, kind. Questions about one picture are a group."""
    samples = []
    for number, row in enumerate(rows):
        value = row.get("answer_value")
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise DataError(f"is {value!r}", file=path, row=number, field="answer_value", expected="a length above 0")
        field = "image" if row.get("image") is not None else "image_path"
        question_fields = {
            "question": words(row, "question", path, number),
            "value": float(value),
            "unit": words(row, "answer_unit", path, number),
            "kind": words(row, "question_type", path, number),
        }
        where = row.get("image_path")
        group = str(where) if isinstance(where, str) else f"row {number}"
        samples.append(
            Sample(
                f"q-{number:04d}",
                picture(row.get(field), path, number, field, root),
                group=group,
                extras={FIELD: question_fields},
            )
        )
    return Pool.from_samples(samples, name=name)
