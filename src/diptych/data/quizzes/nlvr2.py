"""NLVR2 (Suhr et al., 2019, arXiv 1811.00491): statements that are true or false of a pair of photographs. Files of one row per
line, named .json:

{"identifier": "dev-850-0-0", "sentence": "The right image shows two dogs.", "label": "True", "directory": 37}

The parts of an identifier are split, set, pair and sentence. Photographs are `images/train/DIRECTORY/SPLIT-SET-PAIR-img0.png` and
...-img1.png for training and `SPLIT/...` for the others, from where the file lies or up to two folders above. One sentence is asked of
several pairs: these are one question (`same_as`), so that "right in all" is the published consistency.
"""

from __future__ import annotations

from pathlib import Path

from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quizzes.quiz_rows import Row, words
from diptych.data.text.question_answering.questions import FIELD

LABELS = ("True", "False")
ABOVE = 3
"""Folders in which pictures are looked for: that of the file, and those above it."""


def holds(row: Row) -> bool:
    """True if a row is from NLVR2."""
    return {"identifier", "sentence", "label"} <= set(row)


def read(path: Path, rows: list[Row], name: str, root: Path | None = None) -> Pool:
    """A sample a statement, with both pictures as `media["images"]`."""
    samples, seen = [], dict[str, int]()
    folders = [root] if root is not None else [path.parent, *path.resolve().parents[1:ABOVE]]
    for number, row in enumerate(rows):
        uid = words(row, "identifier", path, number)
        parts = uid.split("-")
        if len(parts) != 4:
            raise DataError(
                f"is {uid!r}",
                file=path,
                row=number,
                field="identifier",
                expected="split, set, pair and sentence, such as dev-850-0-0",
            )
        if uid in seen:
            raise DataError(
                f"row {seen[uid]} is '{uid}' too", file=path, row=number, field="identifier", expected="different ones"
            )
        seen[uid] = number
        label = str(row["label"])
        if label not in LABELS:
            raise DataError(f"is {label[:60]!r}", file=path, row=number, field="label", expected="True or False")
        split, group, pair, sentence = parts
        question = {
            "id": uid,
            "question": words(row, "sentence", path, number),
            "answer": label,
            "choices": list(LABELS),
            "same_as": f"{split}-{group}-{sentence}",
        }
        stem = f"{split}-{group}-{pair}"
        pictures = tuple(_picture(f"{stem}-img{side}.png", split, row, folders, path, number) for side in range(2))
        samples.append(
            Sample(
                uid, media={"images": MediaItem("images", pictures)}, group=f"{split}-{group}", source="nlvr2",
                extras={FIELD: [question], "split": split},
            )
        )  # fmt: skip
    return Pool.from_samples(samples, name=name)


def _picture(file: str, split: str, row: Row, folders: list[Path], path: Path, number: int) -> FileImage:
    candidates = [f"{split}/{file}", file]
    if row.get("directory") not in (None, ""):
        candidates.insert(0, f"images/{split}/{row['directory']}/{file}")
    for folder in folders:
        for candidate in candidates:
            if (folder / candidate).is_file():
                return FileImage(folder / candidate)
    raise DataError(
        f"the picture '{file}' does not exist",
        file=path,
        row=number,
        field="identifier",
        expected=f"{candidates[0]} in {folders[0]}, or root=",
    )
