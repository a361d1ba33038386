"""Export of a pool in common formats: CSV, Parquet, a data set of Hugging Face `datasets`, or tars as `img2dataset` writes them.

All columns are exported: captions, splits, groups, licences, and those added by tables (scores, labels, embeddings).
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.disk.files import atomic_folder
from diptych.core.disk.spilled_table import ColumnFile, column_of, mapped, spill_column
from diptych.core.errors import DecodeError, MissingExtra, UnknownName
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.lineage.record import made_now, write_lineage
from diptych.data.media.picture import encoded_picture

Form = Literal["csv", "parquet", "datasets", "img2dataset"]
FORMS: tuple[Form, ...] = get_args(Form)
SHARD = 10_000  # samples a tar
BATCH = 1_000  # samples whose columns are Python objects at a time
FIELDS = {
    "uid": pa.string(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "caption": pa.string(),
    "captions": pa.list_(pa.string()),
}
"""Columns that are made of samples, with their types in Parquet."""
Picture = tuple[bytes, str]
"""An encoded picture and the ending of its file name."""


def export_pool(pool: Pool, out: Path, form: str, *, images: bool = True, source: str = "") -> int:
    """Write a pool to the folder `out`, which appears whole or not at all. Returns how many samples were written.

    csv          data.csv with one row per sample: image (a path in images/), caption (the first), captions (JSON), every column
    parquet      data.parquet with the same columns; image is {bytes, path}, as `datasets` reads it
    datasets     a folder for `datasets.load_from_disk` (extra `datasets`)
    img2dataset  00000.tar, ... with KEY.jpg, KEY.txt and KEY.json, and 00000.parquet with the rows; holds the rows of one tar
    images       False leaves the pictures out
    source       address of the pool, for the lineage, which lies beside the data
    Samples whose picture cannot be read are left out. Rows are written in batches; Parquet and `datasets` need as much disk again for
    their columns while they are written, whose types are known only after the last row.
    """
    if form not in FORMS:
        raise UnknownName("format", form, FORMS)
    with atomic_folder(Path(out)) as work:
        written = _write(pool, work, form, images)
        config = {"format": form, "images": images}
        made = made_now("data export", source, fingerprint=pool.fingerprint, config=config, samples=written)
        write_lineage(work, [made], source)
    return written


def _write(pool: Pool, work: Path, form: str, images: bool) -> int:
    if form == "img2dataset":
        return _tars(pool, work, images)
    if form == "csv":
        return _csv(pool, work, images)
    with TemporaryDirectory(dir=work, prefix=".columns-") as spill, mapped(_spilled(pool, Path(spill), images)) as table:
        if form == "parquet":
            pq.write_table(table, work / "data.parquet")
        else:
            _hub(table, work, pool.fingerprint, images)
        return int(table.num_rows)


def _rows(pool: Pool, loose: Path | None, images: bool) -> Iterator[tuple[dict[str, Any], Picture | None]]:
    """One row per sample, and its encoded picture. loose: a folder that gets the pictures as files; without, they are in the rows."""
    for start in range(0, len(pool), BATCH):
        batch = pool[start : start + BATCH]
        columns = {name: batch.column(name) for name in _further(pool)}
        for row, made, picture in _samples(batch, loose, images):
            yield {**made, **{name: values[row] for name, values in columns.items()}}, picture


def _further(pool: Pool) -> list[str]:
    return [name for name in pool.column_names if name != "uid"]


def _samples(pool: Pool, loose: Path | None, images: bool) -> Iterator[tuple[int, dict[str, Any], Picture | None]]:
    """Samples whose picture can be read: row, what is no column of the pool ("image" where there is one), encoded picture."""
    for row in range(len(pool)):
        sample = pool[row]
        picture: Picture | None = None
        if images and sample.image is not None:
            try:
                picture = encoded_picture(sample.image, "image")
            except DecodeError:
                continue
        made: dict[str, Any] = {"uid": sample.uid}
        if picture is not None and loose is not None:
            made["image"] = f"images/{sample.uid}.{picture[1]}"
            (loose / "images").mkdir(exist_ok=True)
            (loose / made["image"]).write_bytes(picture[0])
        elif picture is not None:
            made["image"] = {"bytes": picture[0], "path": f"{sample.uid}.{picture[1]}"}
        yield row, {**made, **_captions(sample)}, picture


def _spilled(pool: Pool, spill: Path, images: bool) -> dict[str, Path]:
    """Files of all columns by name, in the order in which the rows of `_rows` name them."""
    files = {name: spill / f"{number}.arrow" for number, name in enumerate(dict.fromkeys([*FIELDS, *pool.column_names]))}
    kept = np.zeros(len(pool), np.bool_)
    pictures: list[bool] = []  # whether the first row has one, and any
    with ExitStack() as stack:
        fields = {name: stack.enter_context(ColumnFile(files[name], kind)) for name, kind in FIELDS.items()}
        for row, made, picture in _samples(pool, None, images):
            kept[row] = True
            pictures = [pictures[0], pictures[1] or picture is not None] if pictures else [picture is not None] * 2
            for name, file in fields.items():
                file.append(made.get(name), len(picture[0]) if picture and name == "image" else 0)
    if not pictures:
        return {}
    for name in _further(pool):
        spill_column(files[name], partial(_values, pool, name, kept))
    names = ["uid", *["image"] * pictures[0], "caption", "captions", *_further(pool), *["image"] * pictures[1]]
    return {name: files[name] for name in dict.fromkeys(names)}


def _values(pool: Pool, name: str, kept: npt.NDArray[np.bool_]) -> Iterator[list[Any]]:
    """Values of a column by batches, without those of rows that are left out."""
    for start in range(0, len(pool), BATCH):
        values = pool[start : start + BATCH].column(name)
        yield [value for value, keep in zip(values, kept[start : start + BATCH], strict=True) if keep]


def _captions(sample: Sample) -> dict[str, Any]:
    texts = [text.string for text in sample.positives()]
    return {"caption": texts[0] if texts else "", "captions": texts}


def _plain(value: Any) -> Any:
    """A value for a cell: lists and mappings as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else value


def _csv(pool: Pool, work: Path, images: bool) -> int:
    """One row after the other. All have the same columns, but those without a picture no "image": it is the last column where the first
    row has none."""
    written = 0
    first = next((row for row, _ in _rows(pool, None, images)), {})
    names = list(first)
    if first and "image" not in first and any("image" in row for row, _ in _rows(pool, None, images)):
        names.append("image")
    with (work / "data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row, _ in _rows(pool, work, images):
            writer.writerow({name: _plain(value) for name, value in row.items()})
            written += 1
    return written


def _hub(table: pa.Table, work: Path, fingerprint: str, images: bool) -> None:
    try:
        from datasets import Dataset, Image
    except ImportError as error:
        raise MissingExtra("datasets", "datasets", needed_for="a data set of Hugging Face") from error
    made = Dataset(table, fingerprint=fingerprint)  # without one, all values are pickled in memory to compute it
    (made.cast_column("image", Image()) if images and "image" in made.column_names else made).save_to_disk(str(work))


def _tars(pool: Pool, work: Path, images: bool) -> int:
    written, number = 0, -1
    tar: tarfile.TarFile | None = None
    kept: list[dict[str, Any]] = []
    for row, picture in _rows(pool, None, images):
        if written % SHARD == 0:
            _close(tar, kept, work, number)
            number, kept = number + 1, []
            tar = tarfile.open(work / f"{number:05d}.tar", "w")  # noqa: SIM115  # closed with its shard
        assert tar is not None
        key = f"{number:05d}{written % SHARD:04d}"
        facts = {"key": key, "status": "success", **{name: value for name, value in row.items() if name != "image"}}
        members = [("txt", str(row["caption"]).encode()), ("json", json.dumps(facts, ensure_ascii=False, default=str).encode())]
        for ending, data in [*([(picture[1], picture[0])] if picture else []), *members]:
            entry = tarfile.TarInfo(f"{key}.{ending}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        kept.append(facts)
        written += 1
    _close(tar, kept, work, number)
    return written


def _close(tar: tarfile.TarFile | None, rows: list[dict[str, Any]], work: Path, number: int) -> None:
    if tar is not None:
        tar.close()
        pq.write_table(_table(rows), work / f"{number:05d}.parquet")


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Columns of one type as they are; those of mixed types as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: column_of([row.get(name) for row in rows]) for name in names})
