"""CSV, TSV, JSONL and Parquet tables with named columns. Image paths are relative to the table's own folder."""

from __future__ import annotations

import bisect
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.paths import is_file, read_file
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.read_options import OTHER_NAMES, ReadOptions, choose
from diptych.data.read.rows import Rows, is_json
from diptych.data.read.unpacked import refuse_expansion
from diptych.data.shards.sidecar import fields_of
from diptych.data.utf8 import utf8_rows

DELIMITERS = (",", ";", "\t", "|")
APART = (("image_name", "comment"), ("filename", "title"))
"""Columns of published tables whose pictures lie in a folder beside them: Flickr30k, and the test sets of GeoRSCLIP."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")


def read_tables(paths: Sequence[Path], options: ReadOptions, *, name: str, root: Path | None = None) -> Pool:
    """One pool over all files, in the order given. `root` is the folder that image paths are relative to."""
    bad: list[QuarantineEntry] = []
    tables, starts, kept_rows = [], [], []
    total = 0
    for path in paths:
        table, row_numbers = load_table(path, options, bad)
        starts.append(total)
        total += table.num_rows
        tables.append(table)
        kept_rows.append(row_numbers)

    def locate(row: int) -> tuple[str, int]:
        file = bisect.bisect_right(starts, row) - 1
        within = row - starts[file]
        numbers = kept_rows[file]
        return str(paths[file]), numbers[within] if numbers else within

    if not total:
        first = f"; first problem: {bad[0]}" if bad else ""
        raise DataError(f"has no rows{first}", file=paths[0], expected="a header and at least one row")
    file = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    top = str(root or _folder_of_images(paths[0], tables[0]))
    stacked = _stack(tables, paths)
    source = SourceRows(name, stacked, file, root=top, locate=locate, within=options.within(top), bad=bad)
    pool = assemble(source, options)
    _some_image_exists(pool, source)
    return pool


def _folder_of_images(path: Path, table: pa.Table) -> Path:
    """Folder that the paths of a table are relative to: its own, or the one beside it with the pictures for the captions of Flickr30k
    (`results.csv`) and the test sets of RSICD and RSITMD (`rsicd_test.csv` beside ``RSICD_images``).
    """
    column = next((image for image, text in APART if {image, text} <= set(table.column_names)), "")
    if not column:
        return path.parent
    names = [name for name in table[column][:20].to_pylist() if name]
    near = [path.parent, path.parent.parent]
    near += [
        folder for above in near for folder in sorted(above.iterdir()) if folder.is_dir() and not folder.name.startswith(".")
    ]
    return next((folder for folder in near if any(is_file(folder / name) for name in names)), path.parent)


def _some_image_exists(pool: Pool, source: SourceRows) -> None:
    """Raise an error if no image exists: a wrong root would otherwise only show when every image fails."""
    from diptych.core.image import FileImage

    rows = range(min(len(pool), 100))
    images = [pool.own_image(row) for row in rows] + [
        part for row in rows for item in pool.media(row).values() for part in item.parts
    ]
    files = [image for image in images if isinstance(image, FileImage)]
    if files and not any(is_file(image.path) for image in files):
        raise DataError(
            f"none of the first {len(files)} images exists, such as {files[0].path}",
            file=source.file,
            expected=f"paths relative to {source.root}, absolute ones, or root=FOLDER",
        )


def _stack(tables: list[pa.Table], paths: Sequence[Path]) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    if any(is_json(field) for table in tables for field in table.schema):
        rows = Rows()
        for table in tables:
            as_json = [field.name for field in table.schema if is_json(field)]
            for row in table.to_pylist():
                rows.add({k: json.loads(v) if k in as_json and v is not None else v for k, v in row.items()})
        return rows.table()
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException:
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"its columns do not fit those of {paths[0]}: {error}", file=paths[-1]) from error


def load_table(path: Path, options: ReadOptions, bad: list[QuarantineEntry]) -> tuple[pa.Table, Sequence[int]]:
    """Table, and the row number of each row in its file (empty: counted from 0 without gaps)."""
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        refuse_expansion(path, options.unpacked_bytes)
        table = read_parquet(path)
        rows = utf8_rows(table, path, bad)
        return (table, []) if len(rows) == table.num_rows else (table.take(pa.array(rows)), rows.tolist())
    data = _bytes(path)
    if suffix in (".jsonl", ".ndjson"):
        return _load_jsonl(path, data, options, bad)
    data = _utf8_bytes(path, data, options.encoding)
    return _load_csv(path, data, "\t" if suffix == ".tsv" else _delimiter(path, data, options), options, bad)


def _delimiter(path: Path, data: bytes, options: ReadOptions) -> str:
    """Delimiter of a .csv: the one given, else the comma, or, for a header without one, the mark that makes the most fields."""
    if options.delimiter:
        named = {"tab": "\t", "\\t": "\t"}.get(options.delimiter, options.delimiter)
        if len(named) != 1:
            raise DataError(f"delimiter is {options.delimiter!r}", file=path, expected="one character, or 'tab'")
        return named
    line = data[:100_000].decode("utf-8", "replace")
    fields = {mark: len(next(csv.reader(io.StringIO(line), delimiter=mark), [])) for mark in DELIMITERS}
    return "," if fields[","] > 1 else max(DELIMITERS, key=lambda mark: fields[mark])


def _load_csv(
    path: Path, data: bytes, delimiter: str, options: ReadOptions, bad: list[QuarantineEntry]
) -> tuple[pa.Table, Sequence[int]]:
    """Columns that hold paths, texts or identities stay strings; the others get a type. Rows count from 1, without the header."""
    from pyarrow import csv as arrow_csv

    text = data.decode("utf-8-sig")
    written = next(csv.reader(io.StringIO(text[:100_000]), delimiter=delimiter), [])
    if not written or not text.strip():
        raise DataError("is empty", file=path, expected="a header and at least one row")
    without_header = link_columns(written)
    header = without_header or [
        name.strip() for name in written
    ]  # Flickr30k's results.csv: "image_name| comment_number| comment"
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise DataError(f"column '{twice}' is twice in the header", file=path, expected="names that differ")
    chosen = choose(options, header, path)
    as_text = chosen.used | {name for names in OTHER_NAMES.values() for name in names}

    def skip(row: Any) -> str:
        reason = f"has {row.actual_columns} fields instead of {row.expected_columns}: {row.text[:60]!r}"
        number = row.number if row.number is not None else 0
        wrong.append(number - 1)
        bad.append(QuarantineEntry("", "read", f"row {number - 1} {reason}", str(path)))
        return "skip"

    wrong: list[int] = []
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(text.encode()),
            # In one block: a type is taken from all rows, not from the first ones, and a long cell fits.
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=min(max(len(data) + 1, 1 << 20), (1 << 31) - 1),
                column_names=header,
                skip_rows=0 if without_header else 1,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in header if name in as_text}, strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        raise DataError(f"is not readable as a table: {str(error).splitlines()[0]}", file=path) from error
    skipped = set(wrong)
    every = range(1, table.num_rows + len(skipped) + 1)
    return table, [row for row in every if row not in skipped] if skipped else every


def link_columns(first: Sequence[str]) -> list[str]:
    """Column names of a table of links that has no header, by its first row; [] for any other. CC3M has caption and address, CC12M address
    and caption.

    >>> link_columns(["https://a.org/1.jpg", "a red bus"])
    ['url', 'caption']
    """
    addresses = [value.strip().lower().startswith(("http://", "https://")) for value in first]
    return ["url" if is_address else "caption" for is_address in addresses] if sorted(addresses) == [False, True] else []


def _load_jsonl(path: Path, data: bytes, options: ReadOptions, bad: list[QuarantineEntry]) -> tuple[pa.Table, Sequence[int]]:
    """One object per line; lines count from 1. Lines that are not objects are left out."""
    rows, numbers = Rows(options.most_columns), []
    at = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            fields = fields_of(line, "", str(path))
            if isinstance(fields, QuarantineEntry):
                bad.append(QuarantineEntry("", "read", f"line {number} (from byte {at:,}) {fields.reason}", str(path)))
            elif fault := rows.add(fields):
                bad.append(QuarantineEntry("", "read", f"line {number} {fault}", str(path)))
            else:
                numbers.append(number)
        at += len(line) + 1
    return rows.table(), numbers


def _bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, expected="a file") from error


def _utf8_bytes(path: Path, data: bytes, encoding: str) -> bytes:
    """Content of a table as UTF-8. Without an encoding it is UTF-8, or the GB 18030 of RSICD's published tables.

    Raises DataError, which names the first byte and its line, where the content is not in that encoding.
    """
    if encoding:
        try:
            return data.decode(encoding).encode()
        except (LookupError, UnicodeError) as error:
            expected = "an encoding of Python, such as gb18030 or latin-1"
            raise DataError(f"cannot be read with encoding {encoding!r}: {error}", file=path, expected=expected) from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("is UTF-16 (byte order mark at byte 0)", file=path, expected="UTF-8, or encoding='utf-16'")
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if "rsicd" in path.name.lower():
            return _utf8_bytes(path, data, "gb18030")
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, at) + 1
        raise DataError(
            f"is not UTF-8: byte {at} (line {line}) is 0x{data[at]:02x}", file=path, expected="UTF-8, or encoding=NAME"
        ) from error
    return data


def fetch_table(address: str) -> Path:
    """Table at an fsspec address (``s3://``, ``memory://``, ``hf://``), copied whole into the cache folder once per version."""
    from fsspec.core import url_to_fs

    try:
        filesystem, remote = url_to_fs(address)
    except ImportError as error:  # of the package that reads this kind of address
        reason = next(iter(str(error).splitlines()), "a package is missing")
        raise DataError(
            f"cannot be reached: {reason}", file=address, expected="that package installed, or a local copy"
        ) from error
    except ValueError as error:
        raise DataError(str(error), file=address, expected="an address that fsspec reads, or a local copy") from error
    try:
        if not filesystem.exists(remote):
            raise DataError("does not exist", file=address, expected="a table")
        info = filesystem.info(remote)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=address, expected="a table") from error
    version = json.dumps(
        [address, info.get("size"), info.get("ETag"), str(info.get("mtime") or info.get("LastModified") or info.get("created"))]
    )
    folder = cache_folder() / "tables" / hashlib.sha256(version.encode()).hexdigest()[:24]
    local: Path = folder / remote.rpartition("/")[2]
    if not local.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{local.name}.part"
        filesystem.get_file(remote, str(partial))
        partial.replace(local)
    return local
