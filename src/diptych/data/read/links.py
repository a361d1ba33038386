"""Pairs without downloaded images: Parquet tables of texts and image addresses, the input of curation.

A row needs a text (column caption, text, alt or title; case-insensitive, so LAION's TEXT counts). It is known by its column "uid", else
by a hash of address and text: the identity of a *pair*, so one image with two texts is two rows. A file that is damaged or lacks a
column, a text that is not UTF-8 and a pair that was there before cost themselves alone, with a line in the quarantine.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet
from diptych.data.dataset import Pool
from diptych.data.lineage.record import FILE as LINEAGE
from diptych.data.media.images import ImageObjects
from diptych.data.quarantine import FILE as QUARANTINE
from diptych.data.quarantine import QuarantineEntry
from diptych.data.ragged import Ragged
from diptych.data.read.read_options import IMAGE_NAMES, ReadOptions
from diptych.data.read.tables import link_columns, load_table
from diptych.data.texts import Texts
from diptych.data.utf8 import utf8_rows

TEXT = ("caption", "text", "alt", "alt_text", "title")
ADDRESS = ("url", "image_url")
WEB = ("http://", "https://")


def pair_uid(address: str, text: str) -> str:
    """24 hex digits that depend on address and text."""
    return hashlib.sha256(f"{address}\x1f{text}".encode("utf-8", "surrogatepass")).hexdigest()[:24]


BESIDE = (QUARANTINE, LINEAGE)
"""What `data links` writes beside its table."""


def is_links(path: Path) -> bool:
    """True if a Parquet file, or a folder of nothing but such files, has texts and no column of images."""
    files = _files(path)
    if not files:
        return False
    if files[0].suffix != ".parquet":
        return _is_link_text(files[0])
    for file in files:
        try:
            with open_file(file) as opened:
                names = {name.lower() for name in pq.read_schema(opened).names}
        except (pa.ArrowException, OSError):
            continue  # damaged: reported when it is read
        if names & {*IMAGE_NAMES[0], *IMAGE_NAMES[1]} or not names & {*TEXT, *ADDRESS}:
            return False
        if names & set(TEXT):
            return True
    return False


def holds_web_links(path: Path) -> bool:
    """True for a table of links, or a folder of them, whose first address is one of the web."""
    if not is_links(path):
        return False
    for file in _files(path):
        first = _first_address(file)
        if first:
            return first.lower().startswith(WEB)
    return False


def _first_address(file: Path) -> str:
    """First address of a table; "" if it has none or cannot be read."""
    try:
        if file.suffix != ".parquet":
            with open_file(file) as opened:
                lines = [opened.readline(2**16).decode("utf-8-sig", "replace") for _ in range(2)]
            cells = [cell for row in csv.reader(lines, delimiter="\t" if file.suffix == ".tsv" else ",") for cell in row]
            return next((cell for cell in cells if cell.lower().startswith(WEB)), "")
        with open_file(file) as opened, pq.ParquetFile(opened) as table:
            name = next((name for name in table.schema_arrow.names if name.lower() in ADDRESS), None)
            for batch in table.iter_batches(64, columns=[name]) if name else ():
                if first := next((str(one) for one in batch.column(0).to_pylist() if one), ""):
                    return first
    except (pa.ArrowException, OSError, csv.Error):
        pass  # damaged: reported when it is read
    return ""


def read_links(path: Path | str, *, name: str = "") -> Pool:
    """A pool without images: texts (origin "alt"), and every other column as an extra; addresses are the extra "url"."""
    path = Path(path)
    bad: list[QuarantineEntry] = []
    tables = [table for file in _files(path) if (table := _table(file, bad)) is not None]
    if not tables:
        first = f"; first problem: {bad[0]}" if bad else ""
        raise DataError(
            f"contains no row of a text{first}", file=path, expected="Parquet with a column caption, text, alt or title"
        )
    table = _stack_tables(tables, bad)
    table = _once(table, bad)
    strings, rows = table["string"], np.arange(table.num_rows)
    languages, origins = (pa.array([value] * table.num_rows, pa.string()) for value in ("", "alt"))
    texts = pa.table([strings, languages, origins], ["string", "language", "origin"])
    extras = {n: table[n].combine_chunks() for n in table.column_names if n != "string"}
    images = ImageObjects((None,) * table.num_rows)
    return Pool(name or path.stem, extras, Texts(Ragged.by_row(texts, rows, table.num_rows)), images, quarantine=bad)


def _stack_tables(tables: list[pa.Table], bad: list[QuarantineEntry]) -> pa.Table:
    """One table of all files. A column that is of another kind in a later one is left out of that one."""
    whole = tables[0]
    for table in tables[1:]:
        for name in table.column_names:
            try:
                pa.concat_tables([whole.slice(0, 0), table.slice(0, 0)], promote_options="permissive")
                break
            except pa.ArrowException:
                kind = table.schema.field(name).type
                if name in whole.column_names and name not in ("uid", "string", "url") and kind != whole.schema.field(name).type:
                    bad.append(
                        QuarantineEntry(
                            "", "read", f"column {name} holds {kind}, and {whole.schema.field(name).type} before; left out"
                        )
                    )
                    table = table.drop_columns([name])
        whole = pa.concat_tables([whole, table], promote_options="permissive")
    return whole


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in (".parquet", ".tsv", ".csv") else []
    files = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")] if path.is_dir() else []
    files = [file for file in files if file.name not in BESIDE]
    return files if all(file.suffix == ".parquet" for file in files) else []


def _is_link_text(file: Path) -> bool:
    """True if a .tsv or .csv has addresses and texts and no column of images; CC3M and CC12M have no header."""
    try:
        with open_file(file) as opened:
            line = opened.readline(2**16).decode("utf-8-sig", "replace")
    except OSError:
        return False
    first = next(csv.reader([line], delimiter="\t" if file.suffix == ".tsv" else ","), [])
    names = {name.strip().lower() for name in first}
    named = names & {*ADDRESS} and names & {*TEXT} and not names & {*IMAGE_NAMES[0], *IMAGE_NAMES[1]}
    return bool(named or link_columns(first))


def _table(file: Path, bad: list[QuarantineEntry]) -> pa.Table | None:
    """Columns "uid", "string", perhaps "url", and the rest unchanged; None for a file without usable columns."""
    try:
        table = read_parquet(file) if file.suffix == ".parquet" else load_table(file, ReadOptions(), bad)[0]
    except DataError as error:
        bad.append(QuarantineEntry("", "read", error.problem, str(file)))
        return None
    by_lower = {name.lower(): name for name in table.column_names}
    text = next((by_lower[name] for name in TEXT if name in by_lower), None)
    if text is None:
        bad.append(QuarantineEntry("", "read", f"has no column of texts among {', '.join(table.column_names)}", str(file)))
        return None
    address = next((by_lower[name] for name in ADDRESS if name in by_lower), None)
    own = by_lower.get("uid")
    for name in filter(None, (text, address, own)):
        if pa.types.is_nested(table[name].type):
            bad.append(QuarantineEntry("", "read", f"its column {name} holds {table[name].type}", str(file)))
            return None
    table = _readable(table, text, address, file, bad)
    table = table.take(pa.array(utf8_rows(table, file, bad)))
    strings = table[text].cast(pa.large_string())
    addresses = table[address].cast(pa.string()).fill_null("") if address else None
    each = addresses.to_pylist() if addresses is not None else [""] * len(strings)
    uids = pa.array([pair_uid(*pair) for pair in zip(each, strings.to_pylist(), strict=True)], pa.string())
    if own:
        uids = pc.coalesce(table[own].cast(pa.string()), uids)
    columns = {"uid": uids, "string": strings} | ({"url": addresses} if addresses is not None else {})
    taken = {text, address, by_lower.get("uid")}
    return pa.table(columns | {name: table[name] for name in table.column_names if name not in taken})


def _readable(table: pa.Table, text: str, address: str | None, file: Path, bad: list[QuarantineEntry]) -> pa.Table:
    """The rows whose text and address are there and in UTF-8."""
    keep = np.ones(table.num_rows, bool)
    for name in (text, *([address] if address else [])):
        column = table[name]
        try:
            column.cast(pa.large_string()).validate(full=True)
            broken: Sequence[int] = ()
        except pa.ArrowInvalid:
            values = column.cast(pa.large_binary()).to_pylist()
            broken = [row for row, value in enumerate(values) if value is not None and not _is_utf8(value)]
        bad += [QuarantineEntry("", "text", f"row {row}: the {name} is not UTF-8", str(file)) for row in broken]
        keep[list(broken)] = False
    empty = np.flatnonzero(keep & table[text].is_null().to_numpy())
    bad += [QuarantineEntry("", "text", f"row {row}: no text", str(file)) for row in empty.tolist()]
    keep[empty] = False
    return table if keep.all() else table.filter(pa.array(keep))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _once(table: pa.Table, bad: list[QuarantineEntry]) -> pa.Table:
    """Each uid once, rows in order of uid: of duplicates the first in order of their other columns, independent of the files they
    came from."""
    uids = table["uid"].to_pylist()
    if len(set(uids)) == len(uids):
        return table.take(pa.array(sorted(range(len(uids)), key=uids.__getitem__), pa.int64()))
    keys = [name for name in ("string", "url") if name in table.column_names]
    columns = [table[name].to_pylist() for name in keys]
    order = sorted(range(len(uids)), key=lambda row: (uids[row], *(column[row] for column in columns)))
    kept: list[int] = []
    for row in order:
        if kept and uids[kept[-1]] == uids[row]:
            same = all(column[kept[-1]] == column[row] for column in columns)
            bad.append(
                QuarantineEntry(uids[row], "read", "the same pair was there before" if same else "the uid of another pair")
            )
        else:
            kept.append(row)
    return table.take(pa.array(kept, pa.int64()))
