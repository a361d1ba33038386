"""Image folders with splits, as the Hugging Face `datasets` library lays them out: a metadata file beside the pictures of each split.

    train/metadata.jsonl   {"file_name": "0001.png", "text": "a red bus"}, a line per picture
    train/0001.png
    test/metadata.csv      or data/train/..., and .parquet

A picture that no line names is left out; a note counts them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.read_options import ReadOptions, choose
from diptych.data.read.tables import load_table
from diptych.data.shards.sidecar import IMAGES

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLITS = {
    "train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Names of folders that are splits, with the split."""


def split_metadata(folder: Path) -> list[Path]:
    """Metadata files in the subfolders of a folder, or of its ``data``; may be empty."""
    files = [
        file for name in METADATA for pattern in ("*", "data/*") for file in folder.glob(f"{pattern}/{name}") if file.is_file()
    ]
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def read_image_folder(folder: Path, files: list[Path], options: ReadOptions, *, name: str) -> Pool:
    """One pool of all parts. The split is the name of a part's folder, unless the metadata have a column of it."""
    bad: list[QuarantineEntry] = []
    tables, locations, image = [], list[tuple[str, int]](), ""
    for file in files:
        table, numbers = load_table(file, options, bad)
        if not table.num_rows:
            continue
        chosen = choose(options, table.column_names, file)
        image = chosen.image or ""
        if not pa.types.is_string(table.schema.field(image).type) and not pa.types.is_large_string(
            table.schema.field(image).type
        ):
            raise DataError(f"column '{image}' holds {table.schema.field(image).type}", file=file, expected="paths of pictures")
        inside = file.parent.relative_to(folder).as_posix()
        paths = [
            None if path is None else path if os.path.isabs(path) else f"{inside}/{path}" for path in table[image].to_pylist()
        ]
        table = table.set_column(table.column_names.index(image), image, pa.array(paths, pa.string()))
        split = SPLITS.get(file.parent.name.lower())
        if split and "split" not in chosen.others:
            table = table.append_column("split", pa.array([split] * table.num_rows, pa.string()))
        tables.append(table)
        locations += [(str(file), numbers[row] if len(numbers) else row) for row in range(table.num_rows)]
    if not tables:
        raise DataError("has metadata without rows", file=files[0], expected="a line a picture")
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"its columns differ from part to part: {error}", file=folder) from error
    top = str(folder)
    source = SourceRows(name, whole, top, root=top, locate=locations.__getitem__, within=options.within(top), bad=bad)
    pool = assemble(source, options)
    named = {os.path.normpath(path) for path in whole[image].to_pylist() if path}
    unnamed = sum(
        os.path.normpath(os.path.relpath(os.path.join(at, picture), folder)) not in named
        for at, _, pictures in os.walk(folder)
        for picture in pictures
        if picture.rpartition(".")[2].lower() in IMAGES and not picture.startswith(".")
    )
    if unnamed:
        pool.notes.append(f"{unnamed:,} pictures are in no metadata file and were left out")
    pool.notes.append(f"{len(files)} metadata files: {', '.join(str(file.relative_to(folder)) for file in files[:5])}")
    return pool
