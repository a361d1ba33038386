"""The last step of every reader: a table with one row per sample, and its images, become a `Pool`.

Here, once for all formats: choosing columns, uids, texts, the rows that are left out and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError
from diptych.data.columns import column_of
from diptych.data.dataset import Pool
from diptych.data.media.images import Blobs, ImageObjects, Images, LooseFiles
from diptych.data.media.table import Media
from diptych.data.metadata import IDENTITY, STORED
from diptych.data.quarantine import QuarantineEntry
from diptych.data.ragged import Ragged
from diptych.data.read.media import column_media
from diptych.data.read.naming import uid_of, uids_of
from diptych.data.read.read_options import ORIGINS, PROMPT, ColumnMapping, ReadOptions, choose
from diptych.data.read.rows import is_json
from diptych.data.read.sound import flat_texts, plain_values, sound_paths
from diptych.data.texts import Texts

Ints = npt.NDArray[np.int64]


@dataclass
class SourceRows:
    """Rows and images of a data source, before they become a `Pool`.

    table   one row per sample; columns by name
    images  where they lie, by row; None: a column of `table` says so (paths relative to `root`, or bytes)
    media   what else the rows hold; None: columns of `table` say so, or there is nothing else
    row_keys  what tells rows apart, for uids ("00001.tar/000017", "dogs/rex.jpg"); empty: from the image paths or row numbers
    locate  row -> (file, row in that file), for messages
    within  a folder that links may not lead out of
    """

    name: str
    table: pa.Table
    file: str
    images: Images | None = None
    media: Media | None = None
    root: str = ""
    names: Sequence[str] = ()
    row_keys: Sequence[str] = ()
    locate: Callable[[int], tuple[str, int]] | None = None
    within: str | None = None
    bad: list[QuarantineEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def where(self, row: int) -> str:
        file, row = self.locate(row) if self.locate else (self.row_keys[row] if self.row_keys else self.file, row)
        return f"{file}, row {row}" if self.locate else file


@dataclass(frozen=True, slots=True)
class _Uids:
    """One uid per row, and what is wrong with some of them, by row."""

    column: pa.Array
    faults: Mapping[int, str]


def assemble(source: SourceRows, options: ReadOptions) -> Pool:
    """Pool of the rows of a source. Rows without image, and rows without text where others have one, go to the quarantine."""
    table = source.table
    chosen = choose(
        options, table.column_names, source.file, image_needed=source.images is None, media_columns=source.media is None
    )
    images, names = source.images, source.names
    paths = None
    if images is None and chosen.image:
        images, paths = _images(source, chosen.image)
    elif images is None and chosen.media:
        paths = _media_paths(source, chosen)
    rows = np.arange(table.num_rows)
    first = rows  # the row that a sample is made from
    if paths is not None and "uid" not in chosen.others and pc.count_distinct(paths, mode="only_valid").as_py() < len(paths):
        first, rows = _same_image(source, paths, chosen)
    texts = _texts(source, chosen, rows, len(first), options.longest_text)
    base = table.take(pa.array(first)) if len(first) < table.num_rows else table
    if paths is not None:
        paths = paths.take(pa.array(first))
        images = LooseFiles(source.root, paths, source.within) if chosen.image else None
        names = names or [("" if p is None else p.rpartition(".")[0] or p) for p in paths.to_pylist()]
    uids = _uids(source, chosen, base, names, paths)
    columns, json_columns = _columns(source, chosen, base, uids.column)
    media = column_media(base, chosen.media, source.root, source.file, within=source.within) if chosen.media else source.media
    alone = images is None and not media
    notes = [
        *source.notes,
        *([f"no column looks like images, so the texts stand alone (a column '{PROMPT}' is there)"] if alone else []),
    ]
    images = ImageObjects((None,) * base.num_rows) if images is None else images
    pool = Pool(source.name, columns, texts, images, media=media, json_columns=json_columns, quarantine=source.bad, notes=notes)
    return _without_gaps(pool, texts, uids.faults, options.captions, alone, lambda row: source.where(int(first[row])))


def _images(source: SourceRows, name: str) -> tuple[Images | None, pa.Array | None]:
    """Images from a column: blobs, or paths that are looked up later."""
    column = source.table[name].combine_chunks()
    kind = column.type
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {f.name for f in kind}:
        data = column.field("bytes")
        if data.null_count < len(data):
            return _blobs(source, data), None
        column = column.field("path")
        kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _blobs(source, column), None
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"column '{name}' holds {kind}", file=source.file, field=name, expected="paths or bytes of images")
    values = pc.if_else(pc.equal(column, ""), pa.scalar(None, kind), column).cast(pa.string())
    present = values.drop_null()[:100].to_pylist()
    if present and present[0].startswith(("http://", "https://")):
        raise DataError(
            f"column '{name}' holds web addresses, and reading never downloads",
            file=source.file,
            field=name,
            expected="files: fetch them with `diptych data download` or img2dataset first and read its output",
        )
    return None, sound_paths(values, source.where, source.bad)


def _media_paths(source: SourceRows, chosen: ColumnMapping) -> pa.Array | None:
    """The paths of the first medium, which tell samples apart if there are no images; None if it is not a path a row."""
    column = source.table[next(iter(chosen.media))].combine_chunks()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column).cast(pa.string())


def _blobs(source: SourceRows, column: pa.Array) -> Blobs:
    data = column.cast(pa.large_binary())
    return Blobs(data, pa.array([f"{source.name}:{row}" for row in range(len(data))], pa.string()))


def _same_image(source: SourceRows, paths: pa.Array, chosen: ColumnMapping) -> tuple[Ints, Ints]:
    """Rows that name the same image are one sample with several texts. Returns (first row of each sample, sample of each row)."""
    code = pc.fill_null(paths, "").dictionary_encode().indices.to_numpy(zero_copy_only=False)
    missing = paths.is_null().to_numpy(zero_copy_only=False)
    code = np.where(missing, len(paths) + np.arange(len(paths)), code)  # a row without image stays alone
    _, first, sample = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first, sample = first[order], rank[sample]
    for what in ("group", "split"):
        if what in chosen.others:
            values = np.array(_strings(source.table, chosen.others[what]).fill_null("").to_pylist(), object)
            if len(wrong := np.flatnonzero(values != values[first[sample]])):
                row, other = int(wrong[0]), int(first[sample[wrong[0]]])
                raise DataError(
                    f"image '{paths[row].as_py()}' has {what} '{values[other]}' in {source.where(other)} and '{values[row]}' in "
                    f"{source.where(row)}",
                    field=what,
                    expected="the same in every row of an image",
                )
    if len(first) < len(paths):
        source.notes.append(f"{len(paths):,} rows name {len(first):,} images: one sample an image, with all its texts")
    return first, sample


def _texts(source: SourceRows, chosen: ColumnMapping, rows: Ints, samples: int, longest: int) -> Texts:
    """Texts of the chosen columns, in the order of columns within a row, and of rows within a sample."""
    strings, row_R, languages, origins = [], [], [], []
    by_row = _strings(source.table, chosen.others["language"]) if "language" in chosen.others else None
    for name, language in chosen.text.items():
        values, at = flat_texts(source.table, name, source.file, source.where, source.bad, longest)
        keep = np.flatnonzero(pc.fill_null(pc.not_equal(values, ""), False).to_numpy(zero_copy_only=False))
        values, at = values.take(pa.array(keep)), at[keep]
        strings.append(values)
        row_R.append(at)
        if by_row is not None and not language:
            languages.append(by_row.take(pa.array(at)).fill_null(""))
        else:
            languages.append(pa.array([language or chosen.fixed_language] * len(at), pa.string()))
        origins.append(pa.array([ORIGINS.get(name.lower(), "caption")] * len(at), pa.string()))
    if not strings:
        return Texts.from_lists([()] * samples)
    table = pa.table(
        [
            pa.chunked_array(strings, pa.large_string()),
            pa.chunked_array(languages, pa.string()),
            pa.chunked_array(origins, pa.string()),
        ],
        ["string", "language", "origin"],
    )
    at = np.concatenate(row_R)
    order = np.argsort(at, kind="stable")
    return Texts(Ragged.by_row(table.take(pa.array(order)), rows[at[order]], samples))


def _strings(table: pa.Table, name: str) -> pa.Array:
    """Column of any type as strings."""
    column = table[name].combine_chunks()
    if is_json(table.schema.field(name)):
        values = [None if value is None else str(json.loads(value)) for value in column.to_pylist()]
        try:
            return pa.array(values, pa.string())
        except UnicodeEncodeError as error:
            raise DataError(
                f"{ascii(error.object)[:60]} holds half a surrogate pair", field=name, expected="characters"
            ) from error
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def _uids(source: SourceRows, chosen: ColumnMapping, table: pa.Table, names: Sequence[str], paths: pa.Array | None) -> _Uids:
    """From the column that was named, else from paths, else from row numbers. A row whose uid is missing has that of its path, where it
    has one; without, and where its uid was taken before, it is left out."""
    if "uid" not in chosen.others:
        return _Uids(_uids_of_rows(source, table, names, paths), {})
    name = chosen.others["uid"]
    given = [(value or "").strip() for value in _strings(table, name).to_pylist()]
    rest = _uids_of_rows(source, table, names, paths).to_pylist() if source.names and not all(given) else [""] * len(given)
    uids = [uid_of(value) if value else other for value, other in zip(given, rest, strict=True)]
    faults: dict[int, str] = {}
    first: dict[str, int] = {}
    for row, uid in enumerate(uids):
        if not uid:
            faults[row] = f"has no {name}"
        elif (other := first.setdefault(uid, row)) != row:
            faults[row] = f"uid '{uid}' comes twice: the first one, {source.where(other)}, is kept"
    if 2 * len(faults) > len(uids):
        row = min(faults)
        raise DataError(
            f"{faults[row]}; the same holds for {len(faults):,} of {len(uids):,} rows",
            file=source.where(row),
            field=name,
            expected="a different uid in every row",
        )
    for row in faults:  # for as long as the row is still there
        uids[row] = f"-{row}-{uid_of(source.where(row))}"
    return _Uids(pa.array(uids, pa.string()), faults)


def _uids_of_rows(source: SourceRows, table: pa.Table, names: Sequence[str], paths: pa.Array | None) -> pa.Array:
    """Uids from paths or row numbers."""
    if names:
        row_names = source.row_keys or (paths.fill_null("").to_pylist() if paths is not None else names)
        names = [name or f"row {row}" for row, name in enumerate(names)]
        return pa.array(uids_of(names, [row_name or f"row {row}" for row, row_name in enumerate(row_names)]), pa.string())
    located = [source.locate(row) if source.locate else (source.name, row) for row in range(table.num_rows)]
    several = len({file for file, _ in located}) > 1
    numbered = [f"{file.rpartition('/')[2].rpartition('.')[0]}_{row:09d}" if several else f"{row:09d}" for file, row in located]
    return pa.array(uids_of(numbered, [f"{file}/{row}" for file, row in located]), pa.string())


def _columns(source: SourceRows, chosen: ColumnMapping, table: pa.Table, uids: pa.Array) -> tuple[dict[str, pa.Array], list[str]]:
    """Identity columns and extras."""
    columns: dict[str, pa.Array] = {"uid": uids}
    json_columns = []
    for what in ("group", "licence", "source", "split"):
        if what in chosen.others:
            columns[what] = _strings(table, chosen.others[what]).fill_null("")
    dropped = []
    for part in table.schema:
        name = part.name
        if not name or name in chosen.used:  # texts, the image, the group ... are where they belong, not among the extras as well
            continue
        if name in IDENTITY or name in STORED:
            dropped.append(name)
            continue
        column = _extra(table[name].combine_chunks())
        if column is None:
            values = plain_values(table[name])
            if values is None:
                source.notes.append(f"column {name} holds {part.type} that cannot be read, and was not taken over")
                continue
            column = column_of([None if value is None else str(value) for value in values])
            if pa.types.is_nested(part.type):
                column = pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())
                json_columns.append(name)
        if column is not None:
            columns[name] = column
            if is_json(part):
                json_columns.append(name)
    if dropped:
        source.notes.append(f"columns {', '.join(dropped)} are computed from the images themselves and were not taken over")
    return columns, json_columns


def _extra(column: pa.Array) -> pa.Array | None:
    """A column as it may stand among the extras, or None if it must become strings or JSON first."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_list(kind) and not pa.types.is_nested(kind.value_type):
        return column
    simple = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    return column if any(test(kind) for test in simple) else None


def _without_gaps(
    pool: Pool, texts: Texts, faults: Mapping[int, str], captions: bool, alone: bool, where: Callable[[int], str]
) -> Pool:
    """Leave out rows without image, rows with a fault, and with `captions` rows without text if other rows have text. Images
    alone, without any text, are fine, and so are texts where all stand `alone`."""
    has_text = texts.counts() > 0
    some_text = bool(has_text.any())
    keep = []
    for row in range(len(pool)):
        if row in faults:
            pool.quarantine.append(QuarantineEntry("", "read", faults[row], where(row)))
        elif not alone and pool.image(row) is None and not pool.media(row):
            pool.quarantine.append(QuarantineEntry(pool.uids[row], "read", "there is no image", where(row)))
        elif captions and some_text and not has_text[row]:
            pool.quarantine.append(QuarantineEntry(pool.uids[row], "read", "there is no text", where(row)))
        else:
            keep.append(row)
    return pool if len(keep) == len(pool) else pool.select(keep)
