"""Problems from the files in which they are published: bAbI's stories and tables of Sudoku.

babi    a folder of qa1_single-supporting-fact_train.txt and the like (Weston et al., 2015, 1502.05698), or one such file; the parts
        of the names after the last "_" are the splits ("valid" is read as "val")
sudoku  a .csv with a puzzle and its solution a row, digits row by row, 0 or "." for an empty cell, with or without a header; files
        train.csv, valid.csv and test.csv of a folder are its splits
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError, UnknownName
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.problems.problem import FIELD, problem_of

FORMATS = ("babi", "sudoku")
LARGEST = 2**30
STORY = re.compile(r"(qa\d+)_[\w-]*?_?(train|valid|test)\.txt")
GRID = re.compile(r"[0-9.]{16}|[0-9.]{36}|[0-9.]{81}")
SPLITS = {"train": "train", "valid": "val", "test": "test"}


def format_of(path: Path) -> str:
    """The format of a file or folder; "" if it is not recognised."""
    if path.is_dir():
        if any(STORY.fullmatch(file.name) for file in path.glob("qa*.txt")):
            return "babi"
        tables = [file for stem in SPLITS if (file := path / f"{stem}.csv").is_file()]
        return "sudoku" if tables and all(_is_table(file) for file in tables) else ""
    if STORY.fullmatch(path.name):
        return "babi"
    return "sudoku" if path.suffix == ".csv" and path.is_file() and _is_table(path) else ""


def read_problems(path: Path, format: str, *, name: str = "") -> Pool:
    """The problems of a file or folder, a sample each. Raises DataError that names file and row."""
    if format not in FORMATS:
        raise UnknownName("format of problems", format, FORMATS)
    if format == "babi":
        files = sorted(file for file in path.glob("qa*.txt") if STORY.fullmatch(file.name)) if path.is_dir() else [path]
        samples = [sample for file in files for sample in _stories(file)]
    else:
        tables = [file for stem in SPLITS if (file := path / f"{stem}.csv").is_file()] if path.is_dir() else [path]
        samples = [sample for file in tables for sample in _grids(file)]
    if not samples:
        raise DataError("contains no problem", file=path, expected=f"problems in the format {format}")
    pool = Pool.from_samples(samples, name=name or path.stem)
    pool.notes.append(f"read as {format}: {len(pool):,} problems")
    return pool


def plain_words(line: str) -> str:
    """A sentence in lower case without full stops and question marks, as the published code reads bAbI.

    >>> plain_words("Where is Mary?")
    'where is mary'
    """
    return line.strip().lower().replace(".", "").replace("?", "").strip()


def _stories(path: Path) -> Iterator[Sample]:
    match = STORY.fullmatch(path.name)
    if match is None:
        raise DataError("is not a file of bAbI", file=path, expected="a name such as qa1_single-supporting-fact_train.txt")
    task, split = match[1], SPLITS[match[2]]
    facts: list[str] = []
    last = story = 0
    for row, line in enumerate(_lines(path)):
        number, _, rest = line.strip().partition(" ")
        if not number.isdigit() or not rest:
            raise DataError(f"is {line[:60]!r}", file=path, row=row, expected="a number, a blank and a sentence")
        if int(number) < last or not last:
            facts, story = [], story + 1
        last = int(number)
        fields = rest.split("\t")
        if len(fields) == 1:
            facts.append(plain_words(rest))
            continue
        problem = {"kind": "story", "facts": list(facts), "question": plain_words(fields[0]), "answer": plain_words(fields[1])}
        if not facts:
            raise DataError("a question before any fact", file=path, row=row, expected="a fact first")
        yield _sample(f"{task}-{split}-{row}", f"{task}-{split}-story-{story}", split, {**problem, "task": task}, "babi")


def _grids(path: Path) -> Iterator[Sample]:
    stem = path.stem
    split = SPLITS.get(stem, "")
    for row, fields in enumerate(csv.reader(_lines(path))):
        if not fields or (not row and not GRID.fullmatch(fields[0])):
            continue
        if len(fields) != 2 or not all(GRID.fullmatch(field) for field in fields):
            raise DataError(
                f"is {','.join(fields)[:60]!r}", file=path, row=row, expected="a puzzle and its solution, a digit a cell"
            )
        problem = {"kind": "sudoku", "cells": fields[0], "answer": fields[1]}
        sample = _sample(f"{stem}-{row}", fields[1], split, problem, "sudoku")
        try:
            problem_of(sample)
        except DataError as error:
            raise DataError(str(error), file=path, row=row) from error
        yield sample


def _sample(uid: str, group: str, split: str, problem: dict[str, Any], source: str) -> Sample:
    extras: dict[str, Any] = {FIELD: problem, **({"split": split} if split else {})}
    return Sample(uid, group=group, source=source, extras=extras)


def _lines(path: Path) -> list[str]:
    try:
        return read_file(path, most=LARGEST).decode("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{error.strerror or error}", file=path, expected="a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not valid UTF-8 at byte {error.start}", file=path, expected="a text file") from error


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2_000).decode("utf-8", "replace").splitlines()[:2]
    return any(len(fields) == 2 and all(GRID.fullmatch(field) for field in fields) for fields in csv.reader(head))
