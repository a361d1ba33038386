"""Captions stored beside the data: in the folder of a curation step, or in a table with one uid and caption per row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from diptych.core.errors import DataError
from diptych.data.columns import read_parquet, read_table, table_names
from diptych.data.quarantine import QuarantineEntry
from diptych.data.shards.sidecar import fields_of
from diptych.data.text.captions.variants import VARIANTS, variant_rows

STEP_COLUMNS = ("synthetic_caption", "generated_caption", "repaired_text")
"""Columns that curation steps write captions to."""
COLUMNS = ("caption", "text", "string", *STEP_COLUMNS)
"""Names that the column of a table may have; of several the first counts."""


def captions_by_uid(source: Path) -> dict[str, tuple[str, ...]]:
    """Every caption of each uid, in their order.

    `source` is what a curation step left (`diptych curate template_captions DATA FOLDER`), or a .csv, .jsonl or .parquet file with a
    column "uid" and one named as in `COLUMNS`; a uid may have several rows. Raises DataError for anything else.
    """
    table, column = _of_step(source) if source.is_dir() else _of_file(source)
    uids, texts = table["uid"].cast(pa.string()), table[column].cast(pa.string())
    captions_of: dict[str, list[str]] = {}
    for uid, text in zip(uids.to_pylist(), texts.to_pylist(), strict=True):
        if uid is not None and text and text.strip():
            captions_of.setdefault(uid, []).append(text.strip())
    return {uid: tuple(captions) for uid, captions in captions_of.items()}


def _of_step(folder: Path) -> tuple[pa.Table, str]:
    names = table_names(folder)
    if VARIANTS in names and not any(name in names for name in STEP_COLUMNS):
        return variant_rows(read_table(folder, VARIANTS).table), "string"
    column = next((name for name in STEP_COLUMNS if name in names), "")
    if not column:
        raise DataError(
            "contains no captions", file=folder, expected=f"what a step left, with a table {' or '.join(STEP_COLUMNS)}"
        )
    return read_table(folder, column).table, column


def _of_file(path: Path) -> tuple[pa.Table, str]:
    if not path.is_file():
        raise DataError("there is no such file", file=path, expected="a folder of a curation step, or a .csv, .jsonl or .parquet")
    try:
        if path.suffix == ".csv":
            as_strings = pa.csv.ConvertOptions(column_types=dict.fromkeys(("uid", *COLUMNS), pa.string()))
            table = pa.csv.read_csv(path, convert_options=as_strings)
        elif path.suffix == ".jsonl":
            table = _jsonl(path)
        elif path.suffix == ".parquet":
            table = read_parquet(path)
        else:
            raise DataError(
                f"is of a kind that contains no captions ('{path.suffix}')", file=path, expected=".csv, .jsonl or .parquet"
            )
    except pa.ArrowException as error:
        raise DataError(f"is not readable as a table: {str(error).splitlines()[0]}", file=path) from error
    column = next((name for name in COLUMNS if name in table.column_names), "")
    if "uid" not in table.column_names or not column:
        has = ", ".join(table.column_names)
        raise DataError(f"has columns {has}", file=path, expected=f"'uid' and one of {', '.join(COLUMNS)}")
    if pc.count(table["uid"], mode="only_null").as_py():
        raise DataError("rows without a uid", file=path, field="uid", expected="a uid in every row")
    return table, column


def _jsonl(path: Path) -> pa.Table:
    """One row for each uid and caption. Arrow's own reader of JSON is not used: lists nested a few thousand deep crash it."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        fields = fields_of(line, "", str(path))
        if isinstance(fields, QuarantineEntry):
            raise DataError(fields.reason, file=path, row=number)
        rows.append({name: str(value) for name, value in fields.items() if name in ("uid", *COLUMNS) and value is not None})
    names = {name: None for row in rows for name in row}
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})
