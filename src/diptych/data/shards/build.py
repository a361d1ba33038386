"""Build a data folder from any pool: tar shards with an offset index, a Parquet manifest, tables by uid.

    OUT/diptych.json             format, name, fingerprint, count; written last: a folder without it is not finished
    OUT/manifest.parquet         one row per sample: where its image lies, its size, sha256, group, licence, source, split, extras
    OUT/shards/00000.tar         WebDataset naming: UID.jpg | .png | .webp beside UID.json; readable by any WebDataset reader;
                                 other media as UID.clip.0003.jpg, UID.cloud.npy, ...
    OUT/shards/00000.idx.parquet offset and size of every member
    OUT/tables/*.parquet         texts, regions, relations, media; later scores, rewrites, boxes (`data.columns`)
    OUT/quarantine.parquet       what was left out: uid, stage, reason
    OUT/changes.jsonl            items that a service added, corrected or removed since (`changes`)

Samples go to shards in the order of a hash of their uid, so that shards are already shuffled, and lie sorted by key within one.
The same samples give the same bytes. Images and media are copied byte for byte; pixels without bytes become lossless WebP, other
arrays .npy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.config import config_hash
from diptych.core.disk.files import publish, write_json
from diptych.core.disk.lock import exclusive
from diptych.core.errors import DataError, DiptychError, RunError, UnknownName
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import MadeBy, read_parquet, read_table, table_names, write_parquet, write_table
from diptych.data.dataset import Pool
from diptych.data.lineage.record import made_now, write_lineage
from diptych.data.mapped import MAPPED_FROM, write_mapped
from diptych.data.media.images import Slices
from diptych.data.media.table import MEDIA_SCHEMA, MediaTable
from diptych.data.metadata import JSON
from diptych.data.quarantine import QuarantineEntry, first_lines, read_quarantine, write_quarantine
from diptych.data.ragged import Ragged
from diptych.data.shards.changes import REMOVED, read_changes
from diptych.data.shards.inside import refuse_links, sound_manifest, sound_media
from diptych.data.shards.mark import (
    FORMAT,
    MANIFEST,
    MARK,
    PART,
    SHARDS,
    UNFINISHED,
    begin,
    is_built,
    is_interrupted,
    read_mark,
    sweep_partial,
)
from diptych.data.shards.write import ShardRecords, ShardWriter, store_shard
from diptych.data.texts import Texts
from diptych.data.web.blur import hash_of_boxes

BASE_TABLES, MEDIA = ("texts", "regions", "relations"), "media"


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Summary of a build. `kept` counts shards that an earlier, interrupted build had finished."""

    folder: Path
    samples: int
    quarantined: int
    shards: int
    kept: int
    image_bytes: int
    fingerprint: str
    reasons: tuple[str, ...] = ()  # the first of what was left out, with file and row

    def lines(self) -> list[str]:
        return [
            f"{self.samples:,} samples in {self.shards} shards ({self.image_bytes / 2**20:,.1f} MiB of images) in {self.folder}",
            *([f"{self.kept} shards were there already and were kept"] if self.kept else []),
            *([f"{self.quarantined:,} left out, see {self.folder / 'quarantine.parquet'}"] if self.quarantined else []),
            *self.reasons,
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def build(
    pool: Pool,
    out: Path | str,
    *,
    shard_samples: int = 10_000,
    overwrite: bool = False,
    check: bool = True,
    progress: bool = False,
    command: str = "",
    source: str = "",
    blur: str = "",
) -> BuildReport:
    """Write `pool` to the folder `out` as tar shards.

    check      decode every image and medium in full once, so that a truncated one is found now and not in the middle of training
    overwrite  replace a finished data set that lies there: the new one is built beside it and takes its place in one step
    command    how to start this build again, for those who find it unfinished
    source     address of the pool, for the lineage
    blur       column of boxes, such as faces, that are blurred in the images; "" copies every image
    A build that was killed goes on where it stopped, and until it has come to its end every reader refuses the folder. A full disk ends
    it with one line and keeps the shards that are finished.
    """
    out = Path(out)
    if shard_samples < 1:
        raise DataError(f"shard_samples is {shard_samples}", expected="at least 1")
    if blur and blur not in pool.column_names:
        raise UnknownName("column", blur, pool.column_names)
    target = out.absolute()
    with exclusive(target.parent, f".{target.name}.lock", f"{out} is being built"):
        report = _build_alone(pool, out, shard_samples, overwrite, check, progress, command, blur)
        config = {"blur": blur} if blur else None
        with disk_errors(out):
            made = made_now("data build", source, fingerprint=pool.fingerprint, config=config, samples=report.samples)
            write_lineage(out, [made], source)
    return report


def _build_alone(
    pool: Pool, out: Path, shard_samples: int, overwrite: bool, check: bool, progress: bool, command: str, blur: str
) -> BuildReport:
    """The body of `build`, run under its lock."""
    config = {"format": FORMAT, "fingerprint": pool.fingerprint, "shard_samples": shard_samples, "check": check}
    config |= {"blur": [blur, hash_of_boxes(pool.column(blur))]} if blur else {}
    if is_built(out):
        if not overwrite:
            if read_mark(out).get("built_from") == config:
                sweep_partial(out, finished=True)
                return _report(out, kept=-1)
            raise DataError(f"{out} already holds another data set", expected="another folder, or --overwrite")
        target = out.absolute()
        work = target.with_name(f".{target.name}.building")
        if is_built(work) and read_mark(work).get("built_from") != config:
            shutil.rmtree(work)  # of a build that was killed just before it took its place
        made = _build_alone(pool, work, shard_samples, False, check, progress, command, blur)
        publish(work, out)
        return _report(out, kept=made.kept)
    with disk_errors(out):
        _prepare(out, config, command)
        sweep_partial(out, finished=False)
        plan = plan_shards(pool.uids, shard_samples)
        stored: list[ShardRecords] = []
        kept = 0
        with bar(len(pool), progress) as advance:
            for number, rows in enumerate(plan):
                path = out / SHARDS / f"{number:05d}.tar"
                key = config_hash({**config, "uids": [pool.uids[row] for row in rows]})
                if (done := read_part(path, key)) is not None:
                    kept += 1
                    advance(len(rows))
                else:
                    done = write_part(path, key, store_shard(pool, rows, path, check=check, blur=blur, tick=lambda: advance(1)))
                stored.append(done)
        _write_tables(pool, out, stored, plan, config)
        if len(pool) >= MAPPED_FROM and not pool.has_media:
            write_mapped(open_built(out), out)
    return _report(out, kept=kept)


def open_built(path: Path | str, *, tables: tuple[str, ...] = (), follow_links: bool = False) -> Pool:
    """Pool of a built folder. `tables` names column tables to join; texts, regions, relations and splits always are.

    follow_links  whether what lies in the folder may be links to places outside of it
    Samples that were put into quarantine after the build are left out, and so are those whose places in the manifest are not in the
    shards. Raises DataError: unfinished, of another format, damaged, with a path that leads out of the folder.
    """
    folder = Path(path)
    try:
        return _open_folder(folder, tables, follow_links)
    except DiptychError:
        raise
    except (pa.ArrowException, LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise DataError(
            f"is damaged: {type(error).__name__}: {reason}", file=folder, expected="a whole copy, or the build again"
        ) from error


def _open_folder(folder: Path, tables: tuple[str, ...], follow_links: bool) -> Pool:
    if not follow_links:
        refuse_links(folder)
    mark, base, log = read_mark(folder), read_parquet(folder / MANIFEST), read_changes(folder)
    quarantined = [bad for bad in read_quarantine(folder) if not (bad.stage == REMOVED and bad.uid in log.rows)]
    quarantined += [QuarantineEntry(uid, REMOVED, reason) for uid, reason in log.removed.items()]
    if base.num_rows != mark["count"]:
        raise DataError(f"has {base.num_rows:,} rows but {MARK} says {mark['count']:,}", file=folder / MANIFEST)
    manifest, lost = sound_manifest(folder, log.on_manifest(base), follow_links=follow_links)
    empty = [name for name in ("group", "licence", "source", "split") if pc.all(pc.equal(manifest[name], "")).as_py()]
    columns = {name: manifest[name].combine_chunks() for name in manifest.column_names if name not in empty}
    shards = columns["shard"].dictionary_encode()
    images = Slices(
        tuple(folder / SHARDS / name for name in shards.dictionary.to_pylist()),
        np.where(columns["image_offset"].to_numpy() < 0, -1, shards.indices.to_numpy()).astype(np.int32),
        columns["image_offset"].to_numpy(),
        columns["image_size"].to_numpy(),
        columns["uid"],
    )
    ragged = {name: Ragged.by_uid(_table(folder, name), columns["uid"]) for name in BASE_TABLES[1:] if name in mark["tables"]}
    pool = Pool(
        mark["name"],
        columns,
        Texts.by_uid(log.on_texts(_table(folder, "texts")), columns["uid"]),
        images,
        media=_media(folder, columns["uid"], follow_links) if MEDIA in mark["tables"] else None,
        regions=ragged.get("regions"),
        relations=ragged.get("relations"),
        json_columns=[field.name for field in manifest.schema if (field.metadata or {}).get(b"diptych") == b"json"],
        quarantine=[*quarantined, *(bad for bad in lost if bad.uid not in {one.uid for one in quarantined})],
        fingerprint="" if log else mark["fingerprint"],
    )
    if later := {bad.uid for bad in pool.quarantine if bad.stage != REMOVED}.intersection(pool.uids):
        pool = pool.exclude(later)
    for name in (*(["split"] if "split" in table_names(folder) else []), *tables):
        pool = pool.with_table(_table(folder, name))
    return pool


def _media(folder: Path, uids: pa.Array, follow_links: bool) -> MediaTable:
    table = sound_media(folder, _table(folder, MEDIA), follow_links=follow_links)
    return MediaTable.by_uid(table, uids, folder / SHARDS)


# ---------------------------------------------------------------- steps


def _prepare(out: Path, config: dict[str, Any], command: str) -> None:
    """An empty folder, or what an interrupted build of the same samples left. What such a build of others left goes first."""
    if is_interrupted(out, config):
        return
    if out.is_dir() and any(not entry.name.startswith(f".{UNFINISHED}.") for entry in out.iterdir()):
        if not (out / UNFINISHED).is_file():
            raise DataError(f"{out} is not empty and contains no data set of ours", expected="a new or empty folder")
        for folder in (SHARDS, TABLES):
            shutil.rmtree(out / folder, ignore_errors=True)
        for file in (MANIFEST, "quarantine.parquet"):
            (out / file).unlink(missing_ok=True)
    begin(out, config, command)  # before any shard
    (out / SHARDS).mkdir(parents=True, exist_ok=True)


def plan_shards(uids: Sequence[str], shard_samples: int) -> list[list[int]]:
    """Rows of each shard: dealt in the order of a hash, sorted by uid within a shard. Depends on the set of uids alone."""
    order = sorted(range(len(uids)), key=lambda row: hashlib.blake2b(uids[row].encode(), digest_size=16).digest())
    cut = [order[start : start + shard_samples] for start in range(0, len(order), shard_samples)]
    return [sorted(rows, key=uids.__getitem__) for rows in cut]


def part_path(path: Path) -> Path:
    """Marker of a finished shard of a build that goes on."""
    return path.with_name(f".{path.stem}{PART}")


def media_part_path(path: Path) -> Path:
    """The media of such a shard."""
    return path.with_name(f".{path.stem}.media.parquet")


def write_part(path: Path, key: str, stored: ShardRecords) -> ShardRecords:
    """Marker of a finished shard: written after the shard, holds its rows of the manifest; media rows are in a second file."""
    if stored.media.num_rows:
        write_parquet(media_part_path(path), stored.media)
    metadata = {b"key": key.encode(), b"bad": json.dumps([asdict(bad) for bad in stored.bad]).encode()}
    write_parquet(part_path(path), stored.rows.replace_schema_metadata(metadata))
    return stored


def read_part(path: Path, key: str) -> ShardRecords | None:
    """Records of a shard that an interrupted build of the same samples finished, or None."""
    if not (part_path(path).is_file() and path.is_file()):
        return None
    rows = read_parquet(part_path(path))
    if rows.schema.metadata[b"key"] != key.encode():
        return None
    media = read_parquet(media_part_path(path)) if media_part_path(path).is_file() else MEDIA_SCHEMA.empty_table()
    return ShardRecords(
        rows.replace_schema_metadata(None), [QuarantineEntry(**bad) for bad in json.loads(rows.schema.metadata[b"bad"])], media
    )


def _write_tables(pool: Pool, out: Path, stored: list[ShardRecords], plan: list[list[int]], config: dict[str, Any]) -> None:
    """Manifest, texts, regions, relations, quarantine, and the mark last."""
    bad = [row for shard in stored for row in shard.bad]
    lost = {row.uid for row in bad}
    uids = pool.uids
    chosen = pool.select([row for rows in plan for row in rows if uids[row] not in lost])
    located = pa.concat_tables([shard.rows for shard in stored]) if stored else ShardWriter.SCHEMA.empty_table()
    manifest = manifest_of(chosen, located)
    made_by = MadeBy("build", config)
    media = pa.concat_tables([MEDIA_SCHEMA.empty_table(), *(shard.media for shard in stored)])
    tables = {"texts": chosen.texts_table(), "regions": chosen.regions_table(), "relations": chosen.relations_table()}
    if media.num_rows:
        tables[MEDIA] = media
        chosen = chosen.with_media(MediaTable.by_uid(media, chosen.arrow("uid"), out / SHARDS))
    for name, table in tables.items():
        if table is not None:
            write_table(out, name, table, made_by)
    write_parquet(out / MANIFEST, manifest)
    write_quarantine(out, [*pool.quarantine, *bad])
    mark = {
        "format": FORMAT,
        "name": pool.name,
        "fingerprint": chosen.with_columns({"sha256": manifest["sha256"].to_pylist()}).content_fingerprint(),
        "tables": [name for name, table in tables.items() if table is not None],
        "count": len(chosen),
        "shards": len(plan),
        "built_from": config,
    }
    write_json(out / MARK, mark)
    for number in range(len(plan)):
        part_path(out / SHARDS / f"{number:05d}.tar").unlink(missing_ok=True)
        media_part_path(out / SHARDS / f"{number:05d}.tar").unlink(missing_ok=True)
    (out / UNFINISHED).unlink(missing_ok=True)


def manifest_of(pool: Pool, located: pa.Table) -> pa.Table:
    """`located` (uid, shard, offsets, sizes, hashes) with group, licence, source, split and extras, rows in the same order."""
    fields = [located.schema.field(name) for name in located.column_names]
    columns = [located[name] for name in located.column_names]
    for name in ("group", "licence", "source", "split"):
        fields.append(pa.field(name, pa.string()))
        columns.append(pa.array(pool.column(name), pa.string()))
    for name in pool.extra_names:
        if name == "split":
            continue
        if pool.is_flat(name):
            array = pool.arrow(name)
            fields.append(pa.field(name, array.type))
        else:
            array = pa.array([None if value is None else _as_json(name, value) for value in pool.column(name)], pa.string())
            fields.append(pa.field(name, pa.string(), metadata=JSON))
        columns.append(array)
    return pa.table(columns, schema=pa.schema(fields))


def _as_json(name: str, value: Any) -> str:
    def plain(odd: Any) -> Any:
        if hasattr(odd, "tolist"):  # numpy arrays and scalars
            return odd.tolist()
        raise DataError(f"a {type(odd).__name__} cannot be stored", field=name, expected="numbers, strings, lists, dicts")

    return json.dumps(value, ensure_ascii=False, default=plain)


def _table(folder: Path, name: str) -> pa.Table:
    return read_table(folder, name).table


def _report(out: Path, *, kept: int) -> BuildReport:
    mark = read_mark(out)
    size = read_parquet(out / MANIFEST, ["image_size"])["image_size"].to_numpy()
    shards, bad = mark["shards"], read_quarantine(out)
    return BuildReport(
        out,
        mark["count"],
        len(bad),
        shards,
        shards if kept < 0 else kept,
        int(size[size > 0].sum()),
        mark["fingerprint"],
        tuple(first_lines(bad)),
    )


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Context manager: a full disk becomes one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = len(list((out / SHARDS).glob(f".*{PART}")))
        raise RunError(
            f"the disk is full: {out} is unfinished; its {done} finished shards are kept; free space and run the same build again"
        ) from error


@contextmanager
def bar(total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A function that counts samples on a bar on stderr, or nowhere."""
    if not progress:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("building", total=total)
        yield lambda count: bar.advance(task, count)
