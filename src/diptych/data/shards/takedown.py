"""Take samples out of a data set for good: from the tars, the manifest and every table. A search index has its own `remove`.

The uids go into the quarantine first, so that from that moment nothing reads them. Then each shard that holds one is written anew
under another name without it, the manifest points there, and the old shard goes. A kill in between loses nothing: the same call goes on.
A training run keeps its order: rows of a smaller pool are drawn in an order of their own, in which a uid that left cannot come up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.core.disk.files import write_json
from diptych.core.errors import DataError
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import read_parquet, table_names, write_parquet
from diptych.data.quarantine import QuarantineEntry, read_quarantine, write_quarantine
from diptych.data.shards.build import MEDIA, open_built
from diptych.data.shards.inside import refuse_links, shard_path, sound_manifest, sound_media
from diptych.data.shards.mark import MANIFEST, MARK, SHARDS, is_built, read_mark, refuse_unfinished
from diptych.data.shards.tar_index import INDEX_SCHEMA, index_path, open_index, write_index
from diptych.data.shards.write import ShardWriter

STAGE = "takedown"


@dataclass(frozen=True, slots=True)
class TakedownReport:
    """Summary of a takedown: uids requested, samples removed, and the shards and tables that were rewritten."""

    folder: Path
    asked: int
    samples: int
    shards: int
    tables: tuple[str, ...]

    def lines(self) -> list[str]:
        return [
            f"{self.samples:,} of {self.asked:,} uids were in {self.folder} and are gone: {self.shards} shards written anew",
            f"tables without them: {', '.join(self.tables) or 'none held any'}",
        ]


def takedown(folder: Path, uids: Iterable[str], *, reason: str = "taken down") -> TakedownReport:
    """Also works on a folder of tables alone (what `curate` wrote). Uids that are not there are passed over, but stay in the
    quarantine, so that a later build of the same source leaves a trace of why."""
    gone = sorted(set(uids))
    refuse_unfinished(folder)
    built = is_built(folder)
    if not built and not (folder / TABLES).is_dir():
        raise DataError(
            "holds neither a built data set nor tables", file=folder, expected="a folder of `diptych data build` or `curate`"
        )
    refuse_links(folder)
    if built:  # also refuses shards that are none of the folder's own, before anything is written
        read_mark(folder)
        sound_manifest(folder, read_parquet(folder / MANIFEST))
        if MEDIA in table_names(folder):
            sound_media(folder, read_parquet(folder / TABLES / f"{MEDIA}.parquet"))
    others = [bad for bad in read_quarantine(folder) if not (bad.stage == STAGE and bad.uid in set(gone))]
    write_quarantine(folder, [*others, *(QuarantineEntry(uid, STAGE, reason) for uid in gone)])
    names = pa.array(gone, pa.string())
    samples, shards = _images(folder, names) if built else (0, 0)
    tables = [path.stem for path in sorted((folder / TABLES).glob("*.parquet")) if _without(path, names)]
    if built:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        mark["count"] = pq.read_metadata(folder / MANIFEST).num_rows
        write_json(folder / MARK, mark)
        write_json(folder / MARK, {**mark, "fingerprint": open_built(folder).content_fingerprint()})
    return TakedownReport(folder, len(gone), samples, shards, tuple(tables))


def _images(folder: Path, gone: pa.Array) -> tuple[int, int]:
    """Shards and manifest without these samples: how many samples and shards were concerned."""
    manifest = read_parquet(folder / MANIFEST)
    leaves = pc.is_in(manifest["uid"], value_set=gone)
    hit = sorted(set(manifest.filter(leaves)["shard"].to_pylist()))
    moved: dict[str, tuple[str, dict[int, int]]] = {
        shard: _rewritten(shard_path(folder, shard), set(gone.to_pylist())) for shard in hit
    }
    kept = manifest.filter(pc.invert(leaves))
    shard_N, offset_N = kept["shard"].to_pylist(), kept["image_offset"].to_pylist()
    for row, shard in enumerate(shard_N):
        if shard in moved:
            shard_N[row], offsets = moved[shard]
            offset_N[row] = offsets.get(offset_N[row], -1)
    columns = {"shard": pa.array(shard_N, pa.string()), "image_offset": pa.array(offset_N, pa.int64())}
    for name, column in columns.items():
        kept = kept.set_column(kept.schema.get_field_index(name), name, column)
    if MEDIA in table_names(folder):
        _move_media(folder / TABLES / f"{MEDIA}.parquet", moved)  # first: a manifest that is written is never asked again
    write_parquet(folder / MANIFEST, kept)
    used = set(kept["shard"].to_pylist())
    for tar in (folder / SHARDS).glob("*.tar"):
        if tar.name not in used:
            tar.unlink()
            index_path(tar).unlink(missing_ok=True)
    return int(np.count_nonzero(leaves.to_numpy())), len(hit)


def _move_media(path: Path, moved: dict[str, tuple[str, dict[int, int]]]) -> None:
    """Table of media with the new positions of its parts."""
    table = read_parquet(path)
    file_N, offset_N = table["file"].to_pylist(), table["offset"].to_pylist()
    for row, file in enumerate(file_N):
        if file in moved:
            file_N[row], offsets = moved[file]
            offset_N[row] = offsets.get(offset_N[row], -1)  # -1: it leaves
    for name, column in {"file": pa.array(file_N, pa.string()), "offset": pa.array(offset_N, pa.int64())}.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    write_parquet(path, table)


def _rewritten(tar: Path, gone: set[str]) -> tuple[str, dict[int, int]]:
    """Rewrite a shard without these uids under the next name; returns it with the new offset of each member by its old one."""
    stem, number = re.fullmatch(r"(.*?)(?:-r(\d+))?", tar.stem).groups()  # type: ignore[union-attr]  # matches any name
    fresh = tar.with_name(f"{stem}-r{int(number or 0) + 1}.tar")
    offsets = {}
    with tar.open("rb") as file, ShardWriter(fresh) as writer:
        for member in open_index(tar).members.to_pylist():
            if member["name"].partition(".")[0] in gone:
                continue
            file.seek(member["offset"])
            offsets[member["offset"]] = writer.add(member["name"], file.read(member["size"]))
    names, starts, sizes = zip(*writer.members, strict=True) if writer.members else ((), (), ())
    write_index(index_path(fresh), pa.table([list(names), list(starts), list(sizes)], schema=INDEX_SCHEMA), fresh, [])
    return fresh.name, offsets


def _without(path: Path, gone: pa.Array) -> bool:
    """Rows of a table that are keyed by these uids, or name one of them in another column of strings, go. Whether there were any."""
    table = read_parquet(path)
    hit = pc.is_in(table["uid"], value_set=gone)
    for field in table.schema:
        if field.name != "uid" and field.name.endswith("duplicate_of"):
            hit = pc.or_(hit, pc.is_in(table[field.name], value_set=gone))
    if not pc.any(hit).as_py():
        return False
    write_parquet(path, table.filter(pc.invert(hit)))
    return True
