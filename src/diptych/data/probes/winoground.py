"""Winoground (Thrush et al., 2022, arXiv 2204.03162): two pictures and two captions of the same words, which go together crosswise.

`examples.jsonl` has a line an example: id, image_0, image_1 (names, with or without .png), caption_0, caption_1, tag, secondary_tag,
num_main_preds, collapsed_tag. Pictures lie in `images/`, beside that file or, as the hub has it, in the folder around `data/`. The hub's
Parquet form (`test-00000-of-00001.parquet`) has the same fields, with the pictures themselves (bytes and path) as image_0 and image_1.

An example becomes two samples of one group, a picture each, with both captions as options in their order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError
from diptych.core.image import BytesImage, FileImage
from diptych.core.sample import Sample, Text
from diptych.data.columns import read_parquet
from diptych.data.dataset import Pool
from diptych.data.graphs.find import SUFFIXES, read_text
from diptych.data.probes.case import FIELD, Role, stored
from diptych.data.probes.collect import ProbeCollector, uid_of

FILE, PARQUET = "examples.jsonl", ".parquet"
PICTURES = ("image_0", "image_1")
_FIELDS: dict[str, tuple[type, ...]] = {
    "id": (int, str), "image_0": (str,), "image_1": (str,), "caption_0": (str,), "caption_1": (str,)
}  # fmt: skip
LONGEST = 2**16  # bytes of a line that is looked at
TAGS = ("tag", "secondary_tag", "collapsed_tag")
ROLES: tuple[list[Role], list[Role]] = (["true", "false"], ["false", "true"])


def holds(folder: Path) -> bool:
    """By the first line of the file, whose name others may have, too; by the columns of a Parquet file."""
    file = _file(folder)
    if file is None:
        return False
    if file.suffix == PARQUET:
        return {"caption_0", "caption_1"} <= set(_columns(file))
    with open_file(file) as lines:
        return b'"caption_0"' in lines.readline(LONGEST)


def read(folder: Path, name: str, root: Path | None = None, within: str | None = None) -> Pool:
    """Examples of which both pictures are there."""
    file = _file(folder)
    if file is None:
        raise DataError(
            f"contains no {FILE}", file=folder, expected=f"{FILE} beside images/, or the Parquet file of its examples"
        )
    collector = ProbeCollector(folder, root, within)
    packed = file.suffix == PARQUET
    fields = {name: (dict,) if packed and name in PICTURES else kinds for name, kinds in _FIELDS.items()}
    for row, entry in collector.entries(file, read_parquet(file).to_pylist() if packed else _lines(file), fields):
        images: list[FileImage | BytesImage | None]
        if packed:
            images = [_picture_of_cell(collector, file, row, entry[name]) for name in PICTURES]
        else:
            images = [collector.image(file, row, names_of(entry[name])) for name in PICTURES]
        captions = [entry["caption_0"], entry["caption_1"]]
        kind = str(entry.get("collapsed_tag") or "other")
        for side, image in enumerate(images):
            if image is None or None in images:
                continue
            collector.samples.append(
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
    return collector.pool(name)


def names_of(image: str) -> list[str]:
    """Candidate file names of a picture that an example names without an ending."""
    return [image] if image.lower().endswith(SUFFIXES) else [f"{image}{suffix}" for suffix in (".png", *SUFFIXES)]


def _file(folder: Path) -> Path | None:
    """The list of examples; of Parquet files the only one that is there."""
    subfolders = (folder, folder / "data")
    lists = [file for subfolder in subfolders if (file := subfolder / FILE).is_file()]
    packed = [file for subfolder in subfolders if len(files := sorted(subfolder.glob(f"*{PARQUET}"))) == 1 for file in files]
    return next(iter((*lists, *packed)), None)


def _columns(file: Path) -> list[str]:
    """Names of the columns; none of a file that is damaged."""
    try:
        with open_file(file) as opened:
            return list(pq.read_schema(opened).names)
    except (pa.ArrowException, OSError, ValueError):
        return []


def _picture_of_cell(collector: ProbeCollector, file: Path, row: int, cell: dict[str, Any]) -> BytesImage | None:
    """The picture that a row holds; None, and a reason, where it holds none."""
    data = cell.get("bytes")
    if not isinstance(data, bytes) or not data:
        collector.leave_out(file, row, "a picture of it has no bytes", stage="image")
        return None
    return BytesImage(data, str(cell.get("path") or uid_of(file, row)))


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
