"""Write a new revision of a built folder: with more samples, without some, with the log of changes in it.

The new shards and tables are written beside the old ones; the new manifest, which takes the place of the old one in one step, is the
moment at which readers see them. A kill before it leaves the old revision, a kill after it the new one; what a kill leaves over is
removed by the next revision. Call it within `changes.changing`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.files import SWEPT_AFTER, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import read_parquet, table_names, write_parquet
from diptych.data.media.picture import ENDINGS
from diptych.data.quarantine import QuarantineEntry, read_quarantine, write_quarantine
from diptych.data.shards.build import BASE_TABLES, MEDIA, open_built
from diptych.data.shards.changes import LOG, REMOVED, Changes, read_changes
from diptych.data.shards.inside import shard_path
from diptych.data.shards.mark import MANIFEST, MARK, NEXT, REVISION, SHARDS, read_mark, sweep_partial
from diptych.data.shards.tar_index import INDEX_SCHEMA, index_path, open_index, write_index
from diptych.data.shards.write import ShardWriter, sidecar

TAKEDOWN = "takedown"
"""Stage of the quarantine for what was taken down for good."""
SHARD_NUMBER = re.compile(r"(\d+)(?:-r\d+)?\.tar")
Moved = dict[str, tuple[str, dict[int, int]]]
"""By the name of a shard that is rewritten: the new name, and the new offset of each member by its old one."""


@dataclass(frozen=True)
class Addition:
    """Samples to add: their rows of the manifest, whose shards are written already, and their rows of each table."""

    manifest: pa.Table
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    quarantine: Sequence[QuarantineEntry] = ()


@dataclass(frozen=True, slots=True)
class Revision:
    """Result of `revise`: samples that left, shards that were rewritten, and the tables that held rows of those."""

    samples: int
    shards: int
    tables: tuple[str, ...]


def current_manifest(folder: Path) -> pa.Table:
    """Manifest of a built folder with the log of changes applied."""
    return read_changes(folder).on_manifest(read_parquet(folder / MANIFEST))


def is_half_done(folder: Path) -> bool:
    """True if a revision was killed between its manifest and its mark, or before its manifest."""
    return NEXT in read_object(folder / MARK)


def next_shard(manifest: pa.Table) -> int:
    """Number of the first shard that a manifest does not name."""
    numbers = [int(match[1]) for name in pc.unique(manifest["shard"]).to_pylist() if (match := SHARD_NUMBER.fullmatch(name))]
    return max(numbers, default=-1) + 1


def revise(folder: Path, *, gone: Collection[str] = (), added: Addition | None = None) -> Revision:
    """Write a new revision without the samples `gone` and with the samples `added`. Everything of samples that left, also of those that
    the log removed, leaves the shards and tables.
    """
    mark, base, log = read_mark(folder), read_parquet(folder / MANIFEST), read_changes(folder)
    leaves = {*gone, *log.removed}
    manifest = log.on_manifest(base)
    manifest = manifest.filter(pc.invert(pc.is_in(manifest["uid"], value_set=pa.array(sorted(leaves), pa.string()))))
    if added is not None:
        manifest = joined(manifest, added.manifest)
    texts = log.on_texts(read_parquet(folder / TABLES / "texts.parquet"))
    moved = _rewrite_shards(folder, base, manifest, log)
    manifest = _moved_rows(manifest, moved)
    manifest = _unpack_log(folder, manifest, log, texts)
    tables = _write_tables(folder, texts, leaves, moved, added)
    _commit(folder, mark, manifest, log, added)
    used = {*manifest["shard"].to_pylist(), *(_media_files(folder) if MEDIA in table_names(folder) else ())}
    _remove_unused(folder, used)
    left = pc.sum(pc.is_in(base["uid"], value_set=pa.array(sorted(leaves), pa.string()))).as_py() or 0
    return Revision(left, len(moved), tuple(tables))


def joined(first: pa.Table, second: pa.Table) -> pa.Table:
    """Rows of both tables, the columns of both. Raises DataError for a column that holds different kinds of values."""
    fields = {column.name: column for column in first.schema}
    for column in second.schema:
        other = fields.setdefault(column.name, column)
        if other.type == column.type:
            continue
        if pa.types.is_null(other.type) or (pa.types.is_integer(other.type) and pa.types.is_floating(column.type)):
            fields[column.name] = column
        elif not (pa.types.is_null(column.type) or _fits(second[column.name], other.type)):
            raise DataError(f"holds {column.type}", field=column.name, expected=f"{other.type}, as in the data that are there")
    schema = pa.schema(list(fields.values()), first.schema.metadata)
    parts = [
        pa.table([_as_type(part, column) for column in schema], schema=schema.with_metadata(None)) for part in (first, second)
    ]
    return pa.concat_tables(parts).replace_schema_metadata(first.schema.metadata)


# ---------------------------------------------------------------- steps


def _rewrite_shards(folder: Path, base: pa.Table, manifest: pa.Table, log: Changes) -> Moved:
    """Rewrite shards that hold members of samples that left, that lie elsewhere now, or whose texts were corrected."""
    columns = ["uid", "shard", "image_offset"]
    now = {row["uid"]: (row["shard"], row["image_offset"]) for row in manifest.select(columns).to_pylist()}
    stale: dict[str, set[str]] = defaultdict(set)
    corrected: dict[str, set[str]] = defaultdict(set)
    for row in base.select(columns).to_pylist():
        if now.get(row["uid"]) != (row["shard"], row["image_offset"]):
            stale[row["shard"]].add(row["uid"])
        elif row["uid"] in log.rows:
            corrected[row["shard"]].add(row["uid"])
    if MEDIA in table_names(folder):  # of shards that only the table names, since a kill kept the manifest from naming them
        for name in set(_media_files(folder)) - set(base["shard"].to_pylist()):
            keys = {key.partition(".")[0] for key in open_index(shard_path(folder, name)).members["name"].to_pylist()}
            if gone := keys - now.keys():
                stale[name] |= gone
    return {
        shard: _rewritten(shard_path(folder, shard), stale[shard], dict.fromkeys(corrected[shard], log))
        for shard in sorted({*stale, *corrected})
    }


def _rewritten(tar: Path, gone: set[str], corrected: Mapping[str, Changes]) -> tuple[str, dict[int, int]]:
    """Rewrite a shard without the members of some uids, and with the corrected texts of others, under an unused name; returns it with
    the new offset of each member by its old one."""
    stem = re.fullmatch(r"(.*?)(?:-r\d+)?", tar.stem).group(1)  # type: ignore[union-attr]  # matches any name
    number = 1
    while (fresh := tar.with_name(f"{stem}-r{number}.tar")).exists():
        number += 1
    offsets = {}
    with tar.open("rb") as file, ShardWriter(fresh) as writer:
        for member in open_index(tar).members.to_pylist():
            uid, _, ending = member["name"].partition(".")
            if uid in gone:
                continue
            file.seek(member["offset"])
            data = file.read(member["size"])
            if ending == "json" and uid in corrected:
                data = _with_texts(data, corrected[uid].rows[uid], corrected[uid].texts[uid])
            offsets[member["offset"]] = writer.add(member["name"], data)
    _index(writer, fresh)
    return fresh.name, offsets


def _with_texts(data: bytes, row: Mapping[str, Any], texts: Sequence[Sequence[str]]) -> bytes:
    """The JSON member of a sample with other texts and provenance."""
    named = ("string", "language", "origin")
    plain = {**json.loads(data), "texts": [dict(zip(named, text, strict=True)) for text in texts]}
    plain["caption"] = next((string for string, _, origin in texts if origin != "negative"), "")
    plain |= {name: row[name] for name in ("group", "licence", "source") if row.get(name)}
    return json.dumps(plain, ensure_ascii=False).encode()


def _index(writer: ShardWriter, tar: Path) -> None:
    names, starts, sizes = zip(*writer.members, strict=True) if writer.members else ((), (), ())
    write_index(index_path(tar), pa.table([list(names), list(starts), list(sizes)], schema=INDEX_SCHEMA), tar, [])


def _moved_rows(table: pa.Table, moved: Moved, shard: str = "shard", offset: str = "image_offset") -> pa.Table:
    """The table with the new places of what lies in shards that were rewritten."""
    if not moved:
        return table
    shard_N, offset_N = table[shard].to_pylist(), table[offset].to_pylist()
    for row, name in enumerate(shard_N):
        if name in moved:
            shard_N[row], offsets = moved[name]
            offset_N[row] = offsets.get(offset_N[row], -1)  # -1: no picture, or it leaves
    for name, column in {shard: pa.array(shard_N, pa.string()), offset: pa.array(offset_N, pa.int64())}.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def _unpack_log(folder: Path, manifest: pa.Table, log: Changes, texts: pa.Table) -> pa.Table:
    """Write the pictures of the log into a shard of their own; returns the manifest with their new places."""
    position = {uid: row for row, uid in enumerate(manifest["uid"].to_pylist()) if uid in log.rows}
    rows = [row for row in position.values() if not manifest["shard"][row].as_py().endswith(".tar")]
    if not rows:
        return manifest
    tar = folder / SHARDS / f"{next_shard(manifest):05d}.tar"
    strings = _texts_by_uid(texts, [manifest["uid"][row].as_py() for row in rows])
    shard_N, offset_N = manifest["shard"].to_pylist(), manifest["image_offset"].to_pylist()
    with ShardWriter(tar) as writer:
        for row in sorted(rows, key=lambda row: str(manifest["uid"][row].as_py())):
            record = manifest.slice(row, 1).to_pylist()[0]
            if record["image_offset"] >= 0:
                data = _slice(shard_path(folder, record["shard"]), record["image_offset"], record["image_size"])
                offset_N[row] = writer.add(f"{record['uid']}.{ENDINGS.get(record['image_format'], record['image_format'])}", data)
            shard_N[row] = tar.name
            named: dict[str, Any] = {name: record[name] or "" for name in ("group", "licence", "source")}
            sample = Sample(record["uid"], None, strings[record["uid"]], **named)
            if record["image_offset"] >= 0 and (positives := sample.positives()):
                writer.add(f"{sample.uid}.txt", positives[0].string.encode())
            writer.add(f"{sample.uid}.json", sidecar(sample, record))
    _index(writer, tar)
    for name, column in {"shard": pa.array(shard_N, pa.string()), "image_offset": pa.array(offset_N, pa.int64())}.items():
        manifest = manifest.set_column(manifest.schema.get_field_index(name), manifest.schema.field(name), column)
    return manifest


def _texts_by_uid(texts: pa.Table, uids: Iterable[str]) -> dict[str, tuple[Text, ...]]:
    by_uid: dict[str, list[Text]] = {uid: [] for uid in uids}
    for row in texts.filter(pc.is_in(texts["uid"], value_set=pa.array(list(by_uid), pa.string()))).to_pylist():
        by_uid[row["uid"]].append(Text(row["string"], row["language"], row["origin"]))
    return {uid: tuple(own) for uid, own in by_uid.items()}


def _slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _write_tables(folder: Path, texts: pa.Table, leaves: set[str], moved: Moved, added: Addition | None) -> list[str]:
    """Rewrite all tables: without rows of samples that left, with those of added ones. Returns the names of those that held such
    rows. Readers of the old manifest pass over rows of uids that it does not have."""
    more = {} if added is None else dict(added.tables)
    held = []
    for name in dict.fromkeys((*table_names(folder), *more)):
        path = folder / TABLES / f"{name}.parquet"
        old = read_parquet(path) if path.is_file() else None
        if name == "texts" and old is not None:
            table = texts.replace_schema_metadata(old.schema.metadata)
        else:
            table = old if old is not None else more[name].slice(0, 0)
        kept = table.filter(pc.invert(_names_one(table, leaves)))
        if old is not None and pc.any(_names_one(old, leaves)).as_py():
            held.append(name)
        if name == MEDIA and moved:
            kept = _moved_rows(kept, moved, "file", "offset")
        if name in more:
            again = pc.is_in(kept["uid"], value_set=more[name]["uid"].combine_chunks())  # an earlier try was killed
            kept = joined(kept.filter(pc.invert(again)), more[name])
        if old is None or not kept.equals(old, check_metadata=True):
            write_parquet(path, kept)
    return held


def _names_one(table: pa.Table, uids: Collection[str]) -> pa.ChunkedArray:
    """True for rows that are keyed by one of these uids, or call one of them what they are a duplicate of."""
    names = pa.array(sorted(uids), pa.string())
    hit = pc.is_in(table["uid"].cast(pa.string()), value_set=names)
    for column in table.schema:
        if column.name != "uid" and column.name.endswith("duplicate_of"):
            hit = pc.or_(hit, pc.is_in(table[column.name], value_set=names))
    return hit


def _commit(folder: Path, mark: dict[str, Any], manifest: pa.Table, log: Changes, added: Addition | None) -> None:
    """Replace the manifest, then drop the log, which the new revision holds."""
    there, new = {*manifest["uid"].to_pylist()}, {*added.manifest["uid"].to_pylist()} if added is not None else set()
    quarantine = [*read_quarantine(folder), *(QuarantineEntry(uid, REMOVED, reason) for uid, reason in log.removed.items())]
    outdated = {(bad.uid, bad.stage) for bad in quarantine if bad.uid in (there if bad.stage == REMOVED else new)}
    quarantine = [bad for bad in quarantine if (bad.uid, bad.stage) not in outdated or bad.stage == TAKEDOWN]
    write_quarantine(folder, [*quarantine, *(added.quarantine if added is not None else ())])
    revision = mark[REVISION] + 1
    shards = len({name for name in manifest["shard"].to_pylist() if name.endswith(".tar")})
    tables = [name for name in (*BASE_TABLES, MEDIA) if name in table_names(folder)]
    after = {**mark, REVISION: revision, "count": manifest.num_rows, "fingerprint": "", "tables": tables, "shards": shards}
    write_json(folder / MARK, {**mark, NEXT: after})
    metadata = {**(manifest.schema.metadata or {}), b"diptych.revision": str(revision).encode()}
    write_parquet(folder / MANIFEST, manifest.replace_schema_metadata(metadata))
    (folder / LOG).unlink(missing_ok=True)
    write_json(folder / MARK, {**after, "fingerprint": open_built(folder).content_fingerprint()})


def _media_files(folder: Path) -> list[str]:
    files: list[str] = read_parquet(folder / TABLES / f"{MEDIA}.parquet")["file"].to_pylist()
    return files


def _remove_unused(folder: Path, used: Collection[str]) -> None:
    """Remove shards that nothing names, files of pictures of logs that are gone, and half-written files of killed processes."""
    sweep_partial(folder, finished=False, seconds=SWEPT_AFTER)
    for path in (folder / SHARDS).iterdir():
        if path.suffix in (".tar", ".bin") and path.name not in used:
            path.unlink()
            index_path(path).unlink(missing_ok=True)


def _fits(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowException:
        return False
    return not (pa.types.is_string(kind) and not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type))


def _as_type(table: pa.Table, column: pa.Field) -> pa.ChunkedArray | pa.Array:
    return table[column.name].cast(column.type) if column.name in table.column_names else pa.nulls(table.num_rows, column.type)
