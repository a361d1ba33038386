"""Published lists of the images of each split, beside the table of a set: NIH's train_val_list.txt and test_list.txt, or the train.txt,
val.txt and test.txt of BenchX (2410.21969) and others, with train_1.txt and train_10.txt for shares of the training images.

A line is the name of an image file, with or without its ending; what follows a blank (labels, in MRM's lists) is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError

SPLITS = {"train": "train", "train_val": "train", "val": "val", "valid": "val", "validate": "val", "test": "test"}
"""Stem of a list, without "_list" -> the name of its split."""
SHARE = re.compile(r"train_\d+")


def read_split_lists(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Split of each image that a list of the folder names, and names of the training shares that hold it; both by the name without ending.

    `train_val` counts only where no list of training images alone lies beside it. Raises DataError for an image in lists of two splits.
    """
    lists = {path.stem.removesuffix("_list"): path for path in sorted(folder.glob("*.txt"))}
    if "train" in lists:
        lists.pop("train_val", None)
    splits: dict[str, str] = {}
    shares: dict[str, list[str]] = {}
    for stem, path in lists.items():
        if stem in SPLITS:
            for row, name in _names(path):
                if splits.setdefault(name, SPLITS[stem]) != SPLITS[stem]:
                    raise DataError(
                        f"lists {name}, which is in {splits[name]} too", file=path, row=row, expected="one split an image"
                    )
        elif SHARE.fullmatch(stem):
            for _, name in _names(path):
                shares.setdefault(name, []).append(stem)
    return splits, shares


def note_of_lists(names: Iterable[str], splits: Mapping[str, str]) -> str:
    """Sentence with the number of images in each split and in no list; "" without lists."""
    if not splits:
        return ""
    given = [splits.get(Path(name).stem, "") for name in names]
    counts = [f"{given.count(split):,} {split}" for split in ("train", "val", "test") if split in given]
    return f"lists beside the table: {', '.join(counts) or 'none of its images'}; {given.count(''):,} images in no list"


def _names(path: Path) -> Iterable[tuple[int, str]]:
    for row, line in enumerate(read_file(path, None).decode("utf-8-sig").splitlines()):
        if words := line.split():
            yield row, Path(words[0]).stem
