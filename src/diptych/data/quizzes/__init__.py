"""Published questions about pictures, read from the files in which their authors give them: .json, .jsonl or .parquet.

    ii_bench     dev.json and test.json of II-Bench (2406.05862), or its rows with option1 to option6
    llava        dialogues about one picture or several, in turns of human and gpt (LLaVA, 2304.08485)
    mmrel        rows with a question, answer, eval_type and relation_type (MMRel, 2406.09121)
    nlvr2        statements about pairs of photographs (NLVR2, 1811.00491), one row per line
    q_spatial    rows with answer_value, answer_unit and question_type (Q-Spatial Bench, 2409.09788)
    multi_image  rows with a question, options, an answer and a list of images, such as MUIRBench (2406.09411)

Pictures lie in the rows, or in files beside the table or in the folder above. Every fault names file, row and field, and stops
the reading: a question that is left out would change the number.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from diptych.core.errors import UnknownName
from diptych.data.dataset import Pool
from diptych.data.quizzes.quiz_rows import SUFFIXES, first_row, load_rows

FORMATS = ("ii_bench", "llava", "mmrel", "multi_image", "nlvr2", "q_spatial")


def format_of(path: Path) -> str:
    """The format of a file by its first row; "" if it is not recognised."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return ""
    row = first_row(path)
    return next((name for name in FORMATS if row is not None and _part(name, "holds")(row)), "")


def read_quiz(path: Path, format: str, *, name: str = "", root: Path | None = None) -> Pool:
    """The samples of a file of questions.

    root  where the pictures lie, if neither beside the file nor in the folder above
    """
    if format not in FORMATS:
        raise UnknownName("format of questions", format, FORMATS)
    pool: Pool = _part(format, "read")(path, load_rows(path), name or path.stem, root)
    pool.notes.append(f"read as {format}: {len(pool):,} samples")
    return pool


def _part(format: str, function: str) -> Callable[..., Any]:
    part: Callable[..., Any] = getattr(import_module(f"diptych.data.quizzes.{format}"), function)
    return part
