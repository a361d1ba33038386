"""Add samples to a built folder: new shards next to the existing ones, then the manifest that names them.

Readers see all of the new samples or none. An `add` that was killed goes on where it stopped when it is called again. Samples that are
there already are passed over: with the same uid, picture and texts, or with a picture that another sample shows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from diptych.core.config import config_hash
from diptych.core.disk.lock import exclusive
from diptych.core.errors import ConfigError, DataError
from diptych.data.columns import read_parquet, read_table, table_names
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry, first_lines
from diptych.data.shards.build import (
    MEDIA,
    bar,
    disk_errors,
    manifest_of,
    media_part_path,
    open_built,
    part_path,
    plan_shards,
    read_part,
    write_part,
)
from diptych.data.shards.changes import changing
from diptych.data.shards.mark import MANIFEST, SHARDS, is_built, read_mark, refuse_unfinished
from diptych.data.shards.revise import Addition, is_half_done, joined, next_shard, revise
from diptych.data.shards.takedown import ADDING, TakenDown, taken_down
from diptych.data.shards.write import EncodedImage, ShardRecords, check_image, store_shard

Duplicates = Literal["skip", "keep"]


@dataclass(frozen=True, slots=True)
class AddReport:
    """Summary of an addition.

    samples      that were added
    same         that were there already, with the same picture and texts
    duplicates   whose pictures another sample shows
    taken_down   whose uid or picture was taken down: they are not taken in again
    quarantined  that could not be used
    no_split     added samples that are in no split, where the data have splits
    """

    folder: Path
    samples: int
    same: int
    duplicates: int
    taken_down: int
    quarantined: int
    no_split: int
    count: int
    fingerprint: str
    reasons: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        left_out = [
            (self.same, "were there already"),
            (self.duplicates, "show a picture that is there under another uid (--duplicates keep takes them)"),
            (self.taken_down, "were taken down and are not taken in again"),
            (self.quarantined, f"cannot be used, see {self.folder / 'quarantine.parquet'}"),
            (self.no_split, "of the new ones are in no split: `diptych data split` deals all samples anew"),
        ]
        head = f"{self.samples:,} samples added to {self.folder}, which holds {self.count:,} now"
        return [head, *(f"{count:,} {what}" for count, what in left_out if count), *self.reasons]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def add(
    folder: Path | str,
    pool: Pool,
    *,
    duplicates: Duplicates = "skip",
    shard_samples: int = 10_000,
    check: bool = True,
    progress: bool = False,
) -> AddReport:
    """Add the samples of a pool to a built folder.

    duplicates  samples whose picture (its bytes) another sample shows: "skip" leaves them out and says which, "keep" takes them
    check       decode every picture once
    A new sample of a group whose samples are all in one split comes into that split. Raises DataError, before anything is written, for
    a uid that is there with another picture or other texts, and for a column of another kind of values; RunError for a full disk: the
    shards that are finished are kept, and the same call goes on.
    """
    folder = Path(folder)
    if duplicates not in get_args(Duplicates):
        raise ConfigError(f"duplicates is {duplicates!r} (expected skip | keep)")
    refuse_unfinished(folder)
    if not is_built(folder):
        raise DataError("contains no built data set", file=folder, expected="a folder of `diptych data build`")
    with exclusive(folder, ADDING, f"{folder} is being added to or taken from"), disk_errors(folder):
        there = open_built(folder)
        choice = _choose(there, pool, taken_down(folder), duplicates)
        chosen = _with_splits(there, pool.select(choice.rows))
        bad: list[QuarantineEntry] = []
        if len(chosen):
            _refuse_other_columns(folder, chosen)
            bad = _store(folder, chosen, shard_samples, check, progress)
        elif is_half_done(folder):
            with changing(folder):
                revise(folder)
        mark = read_mark(folder)
        splits = bool(there.split_names)
        return AddReport(
            folder,
            len(chosen) - len(bad),
            choice.same,
            len(choice.copies),
            len(choice.taken_down),
            len(bad),
            chosen.column("split").count("") if splits else 0,
            mark["count"],
            mark["fingerprint"],
            tuple(first_lines([*choice.copies, *choice.taken_down, *bad])),
        )


@dataclass(frozen=True)
class _Choice:
    rows: list[int]
    same: int
    copies: list[QuarantineEntry]
    taken_down: list[QuarantineEntry]


def _choose(there: Pool, pool: Pool, gone: TakenDown, duplicates: Duplicates) -> _Choice:
    """Rows of the pool to add. Raises DataError for a uid that is there with another content."""
    row_of = {uid: row for row, uid in enumerate(there.uids)}
    hashes = there.column("sha256")
    uid_of = {sha256: uid for uid, sha256 in zip(there.uids, hashes, strict=True) if sha256}
    rows, same, copies, refused = [], 0, [], []
    for row, uid in enumerate(pool.uids):
        sample = pool[row]
        image = check_image(sample, decode_fully=False)
        sha256 = image.sha256 if isinstance(image, EncodedImage) else ""
        if uid in gone.uids or sha256 in gone.hashes:
            refused.append(QuarantineEntry(uid, "takedown", "was taken down and is not taken in again"))
        elif uid in row_of:
            old = there[row_of[uid]]
            if (hashes[row_of[uid]] or "") != sha256 or old.texts != sample.texts:
                what = "texts" if (hashes[row_of[uid]] or "") == sha256 else "picture"
                raise DataError(
                    f"uid '{uid}' is in {there.name} with another {what}",
                    row=row,
                    field="uid",
                    expected="new uids; a service corrects texts (PATCH /items/UID), `diptych data takedown` takes samples out",
                )
            same += 1
        elif sha256 in uid_of and duplicates == "skip":
            copies.append(QuarantineEntry(uid, "duplicate", f"shows the same picture as {uid_of[sha256]}"))
        else:
            rows.append(row)
            if sha256:
                uid_of.setdefault(sha256, uid)
    return _Choice(rows, same, copies, refused)


def _with_splits(there: Pool, chosen: Pool) -> Pool:
    """New samples of a group that is in one split come into it."""
    if not there.split_names or not len(chosen):
        return chosen
    splits_of: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(there.groups, there.column("split"), strict=True):
        splits_of[group].add(split)
    own = chosen.column("split")
    group_splits = [splits_of.get(group, set()) for group in chosen.groups]
    splits = [next(iter(those)) if len(those) == 1 else name for name, those in zip(own, group_splits, strict=True)]
    return chosen.with_columns({"split": splits})


def _refuse_other_columns(folder: Path, chosen: Pool) -> None:
    """Raise DataError for columns that do not fit those that are there, before any shard is written."""
    located = pa.table({"uid": chosen.arrow("uid")})
    joined(read_parquet(folder / MANIFEST).slice(0, 0), manifest_of(chosen, located))


def _store(folder: Path, chosen: Pool, shard_samples: int, check: bool, progress: bool) -> list[QuarantineEntry]:
    """Write shards, then the revision that names them. Returns what could not be stored."""
    first = next_shard(read_parquet(folder / MANIFEST))
    config = {"fingerprint": chosen.fingerprint, "shard_samples": shard_samples, "check": check, "first": first}
    plan = plan_shards(chosen.uids, shard_samples)
    paths = [folder / SHARDS / f"{first + number:05d}.tar" for number in range(len(plan))]
    stored: list[ShardRecords] = []
    with bar(len(chosen), progress) as advance:
        for path, rows in zip(paths, plan, strict=True):
            key = config_hash({**config, "uids": [chosen.uids[row] for row in rows]})
            done = read_part(path, key)
            if done is None:
                done = write_part(path, key, store_shard(chosen, rows, path, check=check, tick=lambda: advance(1)))
            else:
                advance(len(rows))
            stored.append(done)
    bad = [entry for shard in stored for entry in shard.bad]
    lost = {entry.uid for entry in bad}
    kept = chosen.select([row for rows in plan for row in rows if chosen.uids[row] not in lost])
    media = pa.concat_tables([shard.media for shard in stored])
    tables = {"texts": kept.texts_table(), "regions": kept.regions_table(), "relations": kept.relations_table()}
    tables |= {MEDIA: media} if media.num_rows else {}
    if "split" in table_names(folder):
        table = read_table(folder, "split").table
        tables["split"] = pa.table({"uid": kept.arrow("uid"), "split": pa.array(kept.column("split"), pa.string())})
        tables["split"] = tables["split"].cast(pa.schema([table.schema.field("uid"), table.schema.field("split")]))
    manifest = manifest_of(kept, pa.concat_tables([shard.rows for shard in stored]))
    with changing(folder):
        revise(folder, added=Addition(manifest, {n: t for n, t in tables.items() if t is not None}, bad))
    for path in paths:
        part_path(path).unlink(missing_ok=True)
        media_part_path(path).unlink(missing_ok=True)
    return bad
