"""Rows of a question file, and the pictures that they refer to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError
from diptych.core.image import BytesImage, FileImage, ImageSource

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".pq")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PEEKED = 64 * 2**10
"""Characters of a JSON list in which its first row must end to be recognised without reading the whole."""

Row = Mapping[str, Any]


def first_row(path: Path) -> Row | None:
    """The first row, None if the file has none that is a mapping, or is no such file at all."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return dict.fromkeys(pq.read_schema(path).names)
        with path.open(encoding="utf-8") as file:
            text = file.read(PEEKED).lstrip("\ufeff \r\n\t")
        listed = text.startswith("[")
        row, stop = json.JSONDecoder().raw_decode(text[1:].lstrip() if listed else text)
    except (OSError, ValueError, RecursionError, pa.ArrowException):
        return None
    # COCO and the like; a second row after the first means one row per line, regardless of the name
    whole_file = path.suffix.lower() == ".json" and not listed and not text[stop:].strip()
    return row if isinstance(row, dict) and not whole_file else None


def load_rows(path: Path) -> list[Row]:
    """Every row, checked to be a mapping."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            rows: Any = pq.read_table(path).to_pylist()
        else:
            text = path.read_text(encoding="utf-8-sig")
            rows = parse_json(text) if path.suffix.lower() == ".json" and not _a_row_a_line(text) else _lines(path, text)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {str(error).splitlines()[0]}", file=path) from error
    except json.JSONDecodeError as error:
        raise DataError(f"is not valid JSON: {error.msg} in line {error.lineno}", file=path, expected="a list of rows") from error
    except ValueError as error:
        raise DataError(str(error), file=path, expected="a list of rows") from error
    if not isinstance(rows, list) or not rows:
        raise DataError("contains no rows", file=path, expected="a list of rows")
    for row, one in enumerate(rows):
        if not isinstance(one, dict):
            raise DataError(f"is a {type(one).__name__}", file=path, row=row, expected="a row of named fields")
    return rows


def _a_row_a_line(text: str) -> bool:
    """True if a text is JSON Lines: its first line is a row and others follow."""
    first, _, rest = text.strip().partition("\n")
    if not (first.startswith("{") and first.rstrip().endswith("}") and rest):
        return False
    try:
        return isinstance(parse_json(first), dict)
    except ValueError:
        return False


def _lines(path: Path, text: str) -> list[Any]:
    rows = []
    for row, line in enumerate(line for line in text.splitlines() if line.strip()):
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise DataError(f"is not valid JSON: {error}", file=path, row=row, expected="one row per line") from error
    return rows


def words(row: Row, field: str, path: Path, number: int) -> str:
    """A field that must hold words."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"is {str(value)[:60]!r}", file=path, row=number, field=field, expected="words")
    return value


def option_list(
    value: Any, answer: str | None, path: Path, number: int, *, doubles: bool = False
) -> tuple[list[str], str | None]:
    """Options, and the text of the one whose letter is the answer.

    answer   a letter, or the text of an option; None if it is kept secret
    doubles  whether wrong options may read alike, as a few of published data do
    """
    options = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(options) < 2 or not all(isinstance(one, str) and one.strip() for one in options):
        raise DataError(f"are {str(value)[:60]}", file=path, row=number, field="options", expected="a list of two texts or more")
    right = None
    if answer is not None:
        letters, named = LETTERS[: len(options)], answer.strip().upper()
        by_letter = options[letters.index(named)] if len(named) == 1 and named in letters else None
        right = by_letter if answer not in options else answer
        both = by_letter is not None and answer == named and by_letter != right
        if right is None or both:
            expected = f"a letter from A to {letters[-1]}, or the text of an option" + ", and not one of each" * both
            raise DataError(f"the answer is {answer[:60]!r}", file=path, row=number, field="answer", expected=expected)
    twice = next((one for one in options if options.count(one) > 1), None)
    if twice is not None and (not doubles or options.count(right) > 1):
        raise DataError(
            f"the option {twice[:60]!r} is given twice", file=path, row=number, field="options", expected="different ones"
        )
    return options, right


def picture(value: Any, path: Path, number: int, field: str, root: Path | None) -> ImageSource:
    """Picture of a row: its bytes, or a file by a path from `root`, from the table's folder, or from the folder above."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return BytesImage(value["bytes"], f"{path.name}, row {number}")
    if isinstance(value, bytes):
        return BytesImage(value, f"{path.name}, row {number}")
    named = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(named, str) or not named:
        raise DataError(f"is {str(value)[:60]}", file=path, row=number, field=field, expected="a picture, or a path of one")
    folders = [root] if root is not None else [path.parent, path.parent.parent]
    for folder in folders:
        if (folder / named).is_file():
            return FileImage(folder / named)
    raise DataError(
        f"the picture '{named}' does not exist", file=path, row=number, field=field, expected=f"it in {folders[0]}, or root="
    )
