"""Winoground (Thrush et al., 2022, arXiv 2204.03162): two pictures and two captions of the same words, which go together crosswise.

`examples.jsonl` has a line an example: id, image_0, image_1 (names, with or without .png), caption_0, caption_1, tag, secondary_tag,
num_main_preds, collapsed_tag. Pictures lie in `images/`.

An example becomes two samples of one group, a picture each, with both captions as options in their order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.core.json_text import parse_json
from diptych.core.paths import open_file
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.graphs.find import SUFFIXES, read_text
from diptych.data.probes.case import FIELD, Role, stored
from diptych.data.probes.collect import Collected, uid_of

FILE = "examples.jsonl"
_FIELDS: dict[str, tuple[type, ...]] = {
    "id": (int, str), "image_0": (str,), "image_1": (str,), "caption_0": (str,), "caption_1": (str,)
}  # fmt: skip
LONGEST = 2**16  # bytes of a line that is looked at
TAGS = ("tag", "secondary_tag", "collapsed_tag")
ROLES: tuple[list[Role], list[Role]] = (["true", "false"], ["false", "true"])


def holds(folder: Path) -> bool:
    """By the first line of the file, whose name others may have, too."""
    file = _file(folder)
    if file is None:
        return False
    with open_file(file) as lines:
        return b'"caption_0"' in lines.readline(LONGEST)


def read(folder: Path, name: str, root: Path | None = None, within: str | None = None) -> Pool:
    """Examples of which both pictures are there."""
    file = _file(folder)
    if file is None:
        raise DataError(f"holds no {FILE}", file=folder, expected=f"{FILE} beside images/")
    found = Collected(folder, root, within)
    for row, entry in found.entries(file, _lines(file), _FIELDS):
        images = [found.image(file, row, names_of(entry[f"image_{side}"])) for side in (0, 1)]
        captions = [entry["caption_0"], entry["caption_1"]]
        kind = str(entry.get("collapsed_tag") or "other")
        for side, image in enumerate(images):
            if image is None or None in images:
                continue
            found.samples.append(
                Sample(
                    f"{uid_of(file, row)}-{side}",
                    image,
                    (Text(captions[side], "en"),),
                    group=f"{uid_of(file, row)}",
                    source="winoground",
                    extras={
                        FIELD: [stored(kind, captions, ROLES[side])],
                        "example": str(entry["id"]),
                        **{tag: str(entry[tag]) for tag in TAGS if entry.get(tag)},
                    },
                )
            )
    return found.pool(name)


def names_of(image: str) -> list[str]:
    """How the file of a picture may be called that an example names without an ending."""
    return [image] if image.lower().endswith(SUFFIXES) else [f"{image}{suffix}" for suffix in (".png", *SUFFIXES)]


def _file(folder: Path) -> Path | None:
    return next((file for file in (folder / FILE, folder / "data" / FILE) if file.is_file()), None)


def _lines(file: Path) -> list[Any]:
    """The values of the lines; a line that is no JSON stands as its text, which costs itself."""
    values: list[Any] = []
    for line in read_text(file).splitlines():
        if line.strip():
            try:
                values.append(parse_json(line))
            except json.JSONDecodeError:
                values.append(line)
            except ValueError as error:
                raise DataError(str(error), file=file, expected="an example a line") from error
    return values
