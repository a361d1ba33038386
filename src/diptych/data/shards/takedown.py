"""Remove samples permanently from a data set: from the tars, the manifest and every table. A search index has its own `take_down`.

    OUT/takedown.json           what a takedown that has not ended is to take out; the next call goes on with it
    OUT/taken_down.parquet      uid, sha256 and reason of everything that was taken down: it is not taken in again
    OUT/diptych.json            "takedowns": fingerprints before and after each, so that curations of the data know themselves a subset

The uids go into the quarantine first, so that from that moment nothing reads them. Then a revision without them is written
(`revise`), and what else holds them is changed (`then`: search indexes). A kill in between loses nothing: the same call goes on.
A training run keeps its order: rows of a smaller pool are drawn in an order of their own, in which a uid that left cannot come up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.files import write_json
from diptych.core.disk.json_text import read_object
from diptych.core.disk.lock import exclusive
from diptych.core.errors import ConfigError, DataError
from diptych.data.columns import FOLDER as TABLES
from diptych.data.columns import read_parquet, table_names, write_parquet
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry, read_quarantine, write_quarantine
from diptych.data.shards.build import MEDIA, open_built
from diptych.data.shards.changes import changing
from diptych.data.shards.inside import refuse_links, sound_manifest, sound_media
from diptych.data.shards.lineage import PENDING, TAKEDOWNS, taken_down_uids
from diptych.data.shards.mark import MANIFEST, MARK, is_built, read_mark, refuse_unfinished
from diptych.data.shards.revise import TAKEDOWN, current_manifest, revise
from diptych.data.text.captions.variants import VARIANTS

RECORD, ADDING = "taken_down.parquet", ".adding"
SHOWN = 10  # copies that a report names
RECORD_SCHEMA = pa.schema([("uid", pa.string()), ("sha256", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class TakedownReport:
    """Summary of a takedown: uids requested, samples removed, and the shards and tables that were rewritten.

    uids    all uids that were taken down, with those of an earlier call that was killed
    hashes  sha256 of their pictures and media
    copies  uids whose picture or media are byte for byte those of a sample that was asked for
    left    true if the copies were left in the data
    """

    folder: Path
    asked: int
    samples: int
    shards: int
    tables: tuple[str, ...]
    uids: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    left: bool = False

    def lines(self) -> list[str]:
        lines = [
            f"{self.samples:,} of {self.asked:,} uids were in {self.folder} and are gone: {self.shards} shards written anew",
            f"tables without them: {', '.join(self.tables) or 'none held any'}",
        ]
        if self.copies:
            shown = ", ".join(self.copies[:SHOWN]) + (
                f" and {len(self.copies) - SHOWN:,} more" if len(self.copies) > SHOWN else ""
            )
            fate = "! left in the data" if self.left else "taken down as well"
            lines.append(f"{fate}: {len(self.copies):,} byte-equal copies ({shown})")
        return lines


@dataclass(frozen=True, slots=True)
class TakenDown:
    """Uids and hashes that were taken down and are not taken in again."""

    uids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()


def taken_down(folder: Path) -> TakenDown:
    """Uids and hashes that were taken down from a folder."""
    uids = taken_down_uids(folder)
    if not (folder / RECORD).is_file():
        return TakenDown(uids)
    table = _record(folder)
    return TakenDown(
        uids | frozenset(filter(None, table["uid"].to_pylist())), frozenset(filter(None, table["sha256"].to_pylist()))
    )


def uids_where(pool: Pool, conditions: Sequence[str]) -> list[str]:
    """Uids of the samples that meet all conditions, each COLUMN=VALUE, such as "group=p0412" or "licence=unknown".

    Raises ConfigError for an invalid condition, UnknownName for a column that the data lack.
    """
    keep = set(pool.uids)
    for condition in conditions:
        name, equal, value = condition.partition("=")
        if not (name.strip() and equal):
            raise ConfigError(f"--where is {condition!r} (expected COLUMN=VALUE, such as group=p0412)")
        values = pool.groups if name.strip() == "group" else pool.column(name.strip())
        keep &= {uid for uid, own in zip(pool.uids, values, strict=True) if _is(own, value.strip())}
    return sorted(keep)


def takedown(
    folder: Path,
    uids: Iterable[str] = (),
    *,
    where: Sequence[str] = (),
    hashes: Iterable[str] = (),
    copies: bool = True,
    reason: str = "taken down",
    then: Callable[[TakedownReport], None] = lambda report: None,
) -> TakedownReport:
    """Take samples out of a built folder, or of a folder of tables only (what `curate` wrote).

    where  conditions COLUMN=VALUE; every sample that meets all of them is taken out as well
    hashes sha256 of pictures or media: every sample with one of them is taken out, and none is taken in later
    copies take out samples whose picture or media are byte for byte those of one that is asked for; else they are listed alone
    then   is called when the data no longer hold them: what else is to forget them, such as indexes. Where it fails, the next call of
           any takedown of this folder calls it again with the same uids
    Uids that are not there are passed over, but stay in the quarantine, so that a later build of the same source leaves a trace of why.
    Everything is checked before the first change.
    """
    refuse_unfinished(folder)
    built = is_built(folder)
    if not built and not (folder / TABLES).is_dir():
        raise DataError(
            "holds neither a built data set nor tables", file=folder, expected="a folder of `diptych data build` or `curate`"
        )
    refuse_links(folder)
    with exclusive(folder, ADDING, f"{folder} is being added to or taken from"):
        asked = _asked(folder, set(uids), where, built)
        pending, before = _pending(folder)
        equal = _with_hashes(folder, asked, set(hashes), built)
        asked |= equal.named
        gone = sorted(asked | set(pending) | (equal.copies if copies else set()))
        if not gone and not hashes:
            return TakedownReport(folder, 0, 0, 0, ())
        if built:  # also refuses shards that are none of the folder's own, before anything is written
            read_mark(folder)
            sound_manifest(folder, read_parquet(folder / MANIFEST))
            if MEDIA in table_names(folder):
                sound_media(folder, read_parquet(folder / TABLES / f"{MEDIA}.parquet"))
            before = before or open_built(folder).fingerprint
        write_json(folder / PENDING, {"uids": gone, "before": before})
        recorded = _remember(folder, gone, sorted(set(hashes)), reason) if built else ()
        others = [bad for bad in read_quarantine(folder) if not (bad.stage == TAKEDOWN and bad.uid in set(gone))]
        write_quarantine(folder, [*others, *(QuarantineEntry(uid, TAKEDOWN, reason) for uid in gone)])
        report = replace(_take_out(folder, gone, recorded, built), copies=tuple(sorted(equal.copies)), left=not copies)
        if built:
            _record_in_mark(folder, before)
        then(report)
        (folder / PENDING).unlink(missing_ok=True)
    return report


def compact(folder: Path) -> tuple[int, int]:
    """Write the log of changes into shards and tables, so that nothing of removed items stays on disk. Returns the number of samples,
    and of shards that were rewritten.
    """
    if not is_built(folder):
        refuse_unfinished(folder)
        raise DataError("contains no built data set", file=folder, expected="a folder of `diptych data build`")
    refuse_links(folder)
    with exclusive(folder, ADDING, f"{folder} is being added to or taken from"), changing(folder):
        sound_manifest(folder, current_manifest(folder))
        revision = revise(folder)
    return int(read_mark(folder)["count"]), revision.shards


def _asked(folder: Path, uids: set[str], where: Sequence[str], built: bool) -> set[str]:
    if not where:
        return uids
    if not built:
        raise ConfigError(f"{folder} contains only tables: --where needs the columns of a built data set (name the uids)")
    return uids | set(uids_where(open_built(folder), where))


@dataclass(frozen=True, slots=True)
class _EqualSamples:
    """Uids that have a hash that was named, and further uids that have a hash of a sample that was asked for."""

    named: set[str]
    copies: set[str]


def _with_hashes(folder: Path, asked: set[str], hashes: set[str], built: bool) -> _EqualSamples:
    """Samples with one of these hashes, and byte-equal copies of the samples asked for."""
    if not built:
        if hashes:
            raise ConfigError(f"{folder} contains only tables: a hash needs a built data set (name the uids)")
        return _EqualSamples(set(), set())
    parts = [current_manifest(folder).select(["uid", "sha256"])]
    if MEDIA in table_names(folder):
        parts.append(read_parquet(folder / TABLES / f"{MEDIA}.parquet").select(["uid", "sha256"]))
    table = pa.concat_tables([part.cast(pa.schema([("uid", pa.string()), ("sha256", pa.string())])) for part in parts])
    table = table.filter(pc.fill_null(pc.not_equal(table["sha256"], ""), False))

    def uids_with(values: set[str], key: str, column: str) -> set[str]:
        hit = pc.is_in(table[key], value_set=pa.array(sorted(values), pa.string()))
        return set(table.filter(hit)[column].to_pylist())

    named = uids_with(hashes, "sha256", "uid")
    return _EqualSamples(named, uids_with(uids_with(asked | named, "uid", "sha256"), "sha256", "uid") - asked - named)


def _record_in_mark(folder: Path, before: str) -> None:
    """Add the fingerprints before and after this takedown to the mark."""
    mark = read_mark(folder)
    entry = {"before": before, "after": open_built(folder).fingerprint}
    entries = [other for other in mark.get(TAKEDOWNS, []) if other != entry]
    if entry["before"] != entry["after"]:
        write_json(folder / MARK, {**mark, TAKEDOWNS: [*entries, entry]})


def _take_out(folder: Path, gone: list[str], hashes: tuple[str, ...], built: bool) -> TakedownReport:
    if not built:
        tables = [
            path.stem for path in sorted((folder / TABLES).glob("*.parquet")) if _without(path, pa.array(gone, pa.string()))
        ]
        return TakedownReport(folder, len(gone), 0, 0, tuple(tables), tuple(gone), hashes)
    with changing(folder):
        revision = revise(folder, gone=gone)
    return TakedownReport(folder, len(gone), revision.samples, revision.shards, revision.tables, tuple(gone), hashes)


def _pending(folder: Path) -> tuple[list[str], str]:
    """Uids of a takedown that has not ended, and the fingerprint of the data before it."""
    if not (folder / PENDING).is_file():
        return [], ""
    try:
        content = read_object(folder / PENDING)
        uids, before = content.get("uids"), content.get("before")
    except ValueError as error:
        raise DataError(str(error), file=folder / PENDING, expected="what a takedown wrote") from error
    if not isinstance(uids, list) or not all(isinstance(uid, str) for uid in uids):
        raise DataError("has no list of uids", file=folder / PENDING, field="uids", expected="what a takedown wrote")
    return uids, before if isinstance(before, str) else ""


def _remember(folder: Path, gone: list[str], hashes: list[str], reason: str) -> tuple[str, ...]:
    """Record uids and hashes of pictures and media; returns all hashes that are recorded for these uids."""
    names = pa.array(gone, pa.string())
    manifest = current_manifest(folder)
    rows = [(row["uid"], row["sha256"] or "") for row in _rows(manifest, names)]
    if MEDIA in table_names(folder):
        rows += [(row["uid"], row["sha256"] or "") for row in _rows(read_parquet(folder / TABLES / f"{MEDIA}.parquet"), names)]
    rows += [(uid, "") for uid in set(gone) - {uid for uid, _ in rows}]
    rows += [("", sha256) for sha256 in set(hashes) - {sha256 for _, sha256 in rows}]
    before: list[dict[str, Any]] = _record(folder).to_pylist() if (folder / RECORD).is_file() else []
    recorded = {(row["uid"], row["sha256"]) for row in before}
    fresh = [{"uid": uid, "sha256": sha256, "reason": reason} for uid, sha256 in sorted(set(rows) - recorded)]
    if fresh:
        write_parquet(folder / RECORD, pa.Table.from_pylist([*before, *fresh], RECORD_SCHEMA))
    wanted = {*gone, ""} if hashes else set(gone)
    return tuple(sorted({row["sha256"] for row in [*before, *fresh] if row["uid"] in wanted and row["sha256"]}))


def _rows(table: pa.Table, uids: pa.Array) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = table.filter(pc.is_in(table["uid"], value_set=uids)).select(["uid", "sha256"]).to_pylist()
    return rows


def _record(folder: Path) -> pa.Table:
    table = read_parquet(folder / RECORD)
    if not set(RECORD_SCHEMA.names) <= set(table.column_names):
        raise DataError("has other columns", file=folder / RECORD, expected=f"columns {', '.join(RECORD_SCHEMA.names)}")
    return table.select(RECORD_SCHEMA.names)


def _is(value: Any, wanted: str) -> bool:
    """True for a value that is written like this, or a list that has one."""
    if isinstance(value, list | tuple):
        return any(_is(part, wanted) for part in value)
    return value is not None and str(value) == wanted


def sha256_of(data: bytes) -> str:
    """The hash by which pictures are recorded."""
    return hashlib.sha256(data).hexdigest()


def _without(path: Path, gone: pa.Array) -> bool:
    """Remove rows of a table that are keyed by these uids, or name one of them as what they duplicate; True if there were any."""
    table = read_parquet(path)
    hit = pc.is_in(table["uid"], value_set=gone)
    for field in table.schema:
        if field.name != "uid" and field.name.endswith("duplicate_of"):
            hit = pc.or_(hit, pc.is_in(table[field.name], value_set=gone))
    kept = _without_variants(table.filter(pc.invert(hit)), gone)
    if kept.equals(table):
        return False
    write_parquet(path, kept)
    return True


def _without_variants(table: pa.Table, gone: pa.Array) -> pa.Table:
    """A table whose text variants do not come from these uids."""
    if VARIANTS not in table.column_names:
        return table
    lists = table[VARIANTS].combine_chunks()
    if not pc.any(pc.is_in(pc.struct_field(pc.list_flatten(lists), "source"), value_set=gone)).as_py():
        return table
    uids = set(gone.to_pylist())
    kept = [[variant for variant in variants or () if variant["source"] not in uids] for variants in lists.to_pylist()]
    return table.set_column(table.schema.get_field_index(VARIANTS), table.field(VARIANTS), pa.array(kept, lists.type))
