"""Few-shot demonstrations: each a solved example, as a canvas for models that read pictures or as prompt parts for those that read text.

A folder or file of JSON lines beside its pictures:

    {"image": "bars.png", "question": "Which bar is the longest?", "cues": [[40, 8, 60, 90]], "rationale": "The framed bar ...",
     "answer": "B", "caption": "Three bars, ...", "category": "bar_chart"}
    {"canvas": "ready.png", "category": "table"}

Letters: H W pixels, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.errors import DataError
from diptych.core.image import FileImage, ImageSource
from diptych.data.canvas.compose import Lettering, with_text
from diptych.data.media.decode import Pixels, decode

FILE = "demonstrations.jsonl"
WORDS = ("question", "rationale", "answer", "caption", "category")
CUE, CUE_WIDTH = (255, 0, 0), 3
"""Colour and pixels of the frame around a visual cue."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Demonstration:
    """One solved example.

    image      its picture; None if only the canvas is there
    cues       boxes on the picture, xyxy in pixels, that are framed in red on the canvas
    rationale  the chain of thought in words
    caption    the picture in words, for models that see none
    category   of questions that it is for; "" is for all
    canvas     a finished canvas, which is taken as it is
    """

    image: ImageSource | None = None
    question: str = ""
    rationale: str = ""
    answer: str = ""
    caption: str = ""
    cues: tuple[Box, ...] = ()
    category: str = ""
    canvas: ImageSource | None = None

    @property
    def solution(self) -> str:
        """Rationale and answer."""
        return " ".join(part for part in (self.rationale, self.answer) if part)

    @property
    def name(self) -> str:
        return (self.canvas or self.image or FileImage(Path())).name

    def draw(self, lettering: Lettering) -> Pixels:
        """The canvas: picture with cues, question, rationale and answer; or the finished one."""
        if self.canvas is not None:
            return decode(self.canvas, exact=True)
        if self.image is None:
            raise DataError("has neither picture nor canvas", field="image", expected="one of them")
        text = "\n".join(part for part in (self.question, self.rationale, f"Answer: {self.answer}") if part)
        return with_text(framed(decode(self.image, exact=True), self.cues), text, lettering).pixels_HWC


def framed(picture_HWC: Pixels, cues: Sequence[Box]) -> Pixels:
    """The picture with a red frame around each box."""
    if not cues:
        return picture_HWC
    canvas = Image.fromarray(picture_HWC)
    draw = ImageDraw.Draw(canvas)
    for cue in cues:
        draw.rectangle(cue, outline=CUE, width=CUE_WIDTH)
    return np.asarray(canvas)


def read_demonstrations(path: Path) -> list[Demonstration]:
    """The demonstrations of a file, or of `demonstrations.jsonl` in a folder. Raises DataError that names file, row and field."""
    file = path / FILE if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=file, expected=f"JSON lines, or a folder with {FILE}") from error
    demonstrations = [_demonstration(line, file, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not demonstrations:
        raise DataError("contains no demonstration", file=file, expected="one JSON object per line")
    return demonstrations


def _demonstration(line: str, file: Path, row: int) -> Demonstration:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not valid JSON: {error.msg}", file=file, row=row, expected='{"image": ..., "question": ...}'
        ) from error
    if not isinstance(value, Mapping):
        raise DataError(f"is a {type(value).__name__}", file=file, row=row, expected="an object")
    if unknown := sorted(set(value) - {"image", "canvas", "cues", *WORDS}):
        field_names = ", ".join(("image", "canvas", "cues", *WORDS))
        raise DataError("unknown field", file=file, row=row, field=unknown[0], expected=field_names)
    words: dict[str, Any] = {name: value.get(name, "") for name in WORDS}
    if wrong := next((name for name, word in words.items() if not isinstance(word, str)), None):
        raise DataError(f"is a {type(words[wrong]).__name__}", file=file, row=row, field=wrong, expected="words")
    pictures: dict[str, Any] = {name: _picture(value[name], file, row, name) for name in ("image", "canvas") if name in value}
    if not pictures:
        raise DataError("has neither picture nor canvas", file=file, row=row, field="image", expected="one of them")
    if "canvas" not in pictures and not (words["question"] and words["answer"]):
        raise DataError("lacks its question or answer", file=file, row=row, field="question", expected="both, or a canvas")
    return Demonstration(**words, **pictures, cues=_cues(value.get("cues", ()), file, row))


def _picture(value: Any, file: Path, row: int, field: str) -> FileImage:
    path = file.parent / value if isinstance(value, str) else None
    if path is None or not path.is_file():
        raise DataError(
            f"there is no picture {str(value)[:80]}", file=file, row=row, field=field, expected="a file beside this one"
        )
    return FileImage(path)


def _cues(value: Any, file: Path, row: int) -> tuple[Box, ...]:
    boxes = []
    for cue in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        good = isinstance(cue, Sequence) and len(cue) == 4 and all(isinstance(x, int | float) for x in cue)
        if not good or not (cue[2] >= cue[0] and cue[3] >= cue[1]):
            raise DataError(
                f"has the cue {str(cue)[:60]}", file=file, row=row, field="cues", expected="boxes [x0, y0, x1, y1] in pixels"
            )
        x0, y0, x1, y1 = (float(x) for x in cue)
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)
