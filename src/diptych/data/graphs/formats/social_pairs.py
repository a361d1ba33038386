"""Pairs of people with their social relation, as the lists of PIPA and PISC name them: a line per pair, `picture.jpg x0 y0 x1 y1
x0 y0 x1 y1 LABEL`, boxes in pixels and the relation by its number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from diptych.core.disk.paths import path_problem, read_file
from diptych.core.errors import DataError, UnknownName
from diptych.core.image import FileImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Box, Region, Relation
from diptych.data.dataset import Pool

RELATIONS: dict[str, tuple[str, ...]] = {
    "pipa": (
        *("father-child", "mother-child", "grandpa-grandchild", "grandma-grandchild", "friends", "siblings", "classmates"),
        *("lovers/spouses", "presenter-audience", "teacher-student", "trainer-trainee", "leader-subordinate", "band members"),
        *("dance team members", "sport team members", "colleagues"),
    ),
    "pisc": ("friends", "family-members", "couple", "professional", "commercial", "no-relationship"),
}
"""Names of the relations in the order of their numbers; the keys are the formats."""
PERSON = "person"
FOLDERS = ("", "image", "images", "train", "val", "test")
"""Where pictures lie below the root."""
LARGEST = 2**28
SPLIT = re.compile(r"train|val|test")


def read_social_pairs(path: Path, format: str, *, name: str = "", root: Path | None = None) -> Pool:
    """The pairs of a list, a sample each: two regions "person", the relation between them, and its name as the extra "relation".

    Pairs of one picture are a group. Its people are numbered in order: the extra "symbols" of a pair is ["P1", "P2"], say.
    `root` is the folder of the pictures, by default the list's. Raises DataError that names file and row."""
    if format not in RELATIONS:
        raise UnknownName("format of pairs", format, RELATIONS)
    samples = list(_pairs(path, RELATIONS[format], root or path.parent))
    if not samples:
        raise DataError(
            "contains no pair", file=path, expected="one pair per line: picture.jpg, eight numbers of two boxes, a label"
        )
    pool = Pool.from_samples(samples, name=name or path.stem)
    pool.notes.append(f"read as {format}: {len(pool):,} pairs of people")
    return pool


def _pairs(path: Path, relations: tuple[str, ...], root: Path) -> Iterator[Sample]:
    split = SPLIT.search(path.stem)
    extras = {"split": split[0]} if split else {}
    people: dict[str, list[Box]] = {}
    for row, line in enumerate(_lines(path)):
        if not line.strip():
            continue
        picture, *fields = line.split()
        try:
            numbers = [float(field) for field in fields[:8]]
            label = int(fields[8])
        except (ValueError, IndexError):
            numbers, label = [], -1
        if len(numbers) != 8 or len(fields) != 9:
            raise DataError(f"is {line.strip()[:60]!r}", file=path, row=row, expected="picture.jpg, eight numbers and a label")
        if not 0 <= label < len(relations):
            raise DataError(f"has the label {fields[8]}", file=path, row=row, expected=f"0 to {len(relations) - 1}")
        if path_problem(picture) or Path(picture).is_absolute() or ".." in Path(picture).parts:
            raise DataError(
                f"names the picture {picture[:60]!r}", file=path, row=row, expected="a name below the folder of pictures"
            )
        regions = tuple(_person(numbers[start : start + 4], path, row) for start in (0, 4))
        first, second = (region.box for region in regions)
        seen = people.setdefault(picture, [])
        seen += [box for box in dict.fromkeys((first, second)) if box not in seen]
        yield Sample(
            f"{path.stem}-{row}",
            FileImage(_found(root, picture), str(root)),
            regions=regions,
            relations=(Relation(0, relations[label], 1),),
            group=picture,
            extras={
                **extras,
                "relation": relations[label],
                "symbols": [f"P{seen.index(box) + 1}" for box in (first, second)],
            },
        )


def _person(numbers: list[float], path: Path, row: int) -> Region:
    x0, y0, x1, y1 = numbers
    box: Box = (x0, y0, x1, y1)
    if x1 <= x0 or y1 <= y0:
        raise DataError(
            f"has the box {[round(value) for value in box]}", file=path, row=row, expected="x0 < x1 and y0 < y1, pixels"
        )
    return Region(box, PERSON)


def _found(root: Path, picture: str) -> Path:
    """The picture below the root, in the first of the usual folders that has it."""
    return next((file for folder in FOLDERS if (file := root / folder / picture).is_file()), root / picture)


def _lines(path: Path) -> list[str]:
    try:
        return read_file(path, most=LARGEST).decode("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{error.strerror or error}", file=path, expected="a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not valid UTF-8 at byte {error.start}", file=path, expected="a text file") from error
