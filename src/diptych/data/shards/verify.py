"""Check a built folder byte by byte: manifest against tars, indexes against tars, images against their hashes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.files import SWEPT_AFTER
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet, read_table, table_names
from diptych.data.quarantine import QuarantineEntry, read_quarantine, write_quarantine
from diptych.data.shards.build import MEDIA, open_built
from diptych.data.shards.changes import read_changes
from diptych.data.shards.inside import shard_path, sound_manifest, sound_media
from diptych.data.shards.mark import MANIFEST, SHARDS, read_mark, sweep_partial
from diptych.data.shards.tar_index import index_path, index_tar


@dataclass
class VerifyReport:
    """Result of a verification: counts and faults.

    bad       samples whose bytes cannot be trusted; with `update` they are now in the quarantine and no longer read
    swept     half-written files of killed builds that were removed
    problems  faults of the folder as a whole (an index that does not fit, a missing shard, a wrong fingerprint)
    """

    folder: Path
    samples: int = 0
    image_bytes: int = 0
    bad: list[QuarantineEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    swept: int = 0

    @property
    def ok(self) -> bool:
        return not (self.bad or self.problems)

    @property
    def exit_code(self) -> int:
        """0 when all is well, else 1."""
        return 0 if self.ok else 1

    def lines(self) -> list[str]:
        head = f"{self.samples:,} samples, {self.image_bytes / 2**20:,.1f} MiB of images checked in {self.folder}"
        wrong = [*self.problems, *map(str, self.bad[:20])]
        if len(self.bad) > 20:
            wrong.append(f"... and {len(self.bad) - 20:,} more samples")
        head = f"{head}; {self.swept:,} half-written files of a killed build were removed" if self.swept else head
        return [head, *(wrong or ["every image is what was written"])]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "ok": self.ok}


def verify(path: Path | str, *, update: bool = True) -> VerifyReport:
    """Read every byte once. With `update`, samples that fail are added to the quarantine, so that training leaves them out."""
    folder = Path(path)
    report = VerifyReport(folder)
    pool = open_built(folder)  # refuses a folder without mark or of another format
    changes = read_changes(folder)
    manifest, lost = sound_manifest(folder, changes.on_manifest(read_parquet(folder / MANIFEST)))
    quarantined = {bad.uid for bad in read_quarantine(folder)}
    report.bad += [QuarantineEntry(bad.uid, "verify", bad.reason, bad.file) for bad in lost if bad.uid not in quarantined]
    by_shard: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in manifest.select(["uid", "shard", "image_offset", "image_size", "sha256"]).to_pylist():
        if row["uid"] not in quarantined:
            by_shard[row["shard"]].append({**row, "samples": 1})
    media = sound_media(folder, read_table(folder, MEDIA).table).to_pylist() if MEDIA in table_names(folder) else []
    for row in media:
        if row["uid"] not in quarantined:
            byte_range = {"shard": row["file"], "image_offset": row["offset"], "image_size": row["size"]}
            by_shard[row["file"]].append({"uid": row["uid"], "sha256": row["sha256"], "samples": 0, **byte_range})
    for shard in sorted(by_shard):
        report.bad += _shard(report, shard_path(folder, shard), by_shard[shard])
    for extra in sorted({tar.name for tar in (folder / SHARDS).glob("*.tar")} - set(manifest["shard"].to_pylist())):
        if index_tar(folder / SHARDS / extra).members.num_rows:
            report.problems.append(f"{extra} is not in the manifest")
    report.problems += _tables(folder, {*manifest["uid"].to_pylist(), *changes.removed})
    if not changes and not lost and not quarantined.intersection(manifest["uid"].to_pylist()):
        stated, fingerprint = read_mark(folder)["fingerprint"], pool.content_fingerprint()
        if stated and fingerprint != stated:  # none while a change is not finished
            report.problems.append(
                f"the fingerprint is {fingerprint}, not {stated}: texts, groups or hashes were changed by hand"
            )
    if update:
        report.swept = sweep_partial(folder, finished=True, seconds=SWEPT_AFTER)
    if update and report.bad:
        write_quarantine(folder, [*read_quarantine(folder), *report.bad])
    return report


def _shard(report: VerifyReport, tar: Path, rows: list[dict[str, Any]]) -> Iterator[QuarantineEntry]:
    """The samples of one shard whose bytes are not those of the manifest."""
    if not tar.is_file():
        report.problems.append(f"{tar.name} is missing")
        yield from (QuarantineEntry(row["uid"], "verify", "its shard is missing", str(tar)) for row in rows)
        return
    members = None
    if tar.suffix == ".tar":  # images may also lie end to end in one plain file
        try:
            fresh = index_tar(tar)
        except DataError as error:
            report.problems.append(str(error))
            yield from (QuarantineEntry(row["uid"], "verify", "its shard is not a tar", str(tar)) for row in rows)
            return
        report.problems += [f"{tar.name}: {problem.reason}" for problem in fresh.problems]
        stored = index_path(tar)
        if not stored.is_file() or not read_parquet(stored).replace_schema_metadata(None).equals(fresh.members):
            report.problems.append(f"{stored.name} does not fit {tar.name}")
        members = dict(zip(*(fresh.members[name].to_pylist() for name in ("offset", "size")), strict=True))
    with tar.open("rb") as file:
        for row in rows:
            report.samples += row["samples"]
            if row["image_offset"] < 0:
                continue
            file.seek(row["image_offset"])
            data = file.read(row["image_size"])
            report.image_bytes += len(data)
            if len(data) < row["image_size"]:
                yield QuarantineEntry(row["uid"], "verify", f"{len(data):,} of {row['image_size']:,} bytes are there", str(tar))
            elif hashlib.sha256(data).hexdigest() != row["sha256"]:
                yield QuarantineEntry(row["uid"], "verify", "its bytes do not have the sha256 of the manifest", str(tar))
            elif members is not None and members.get(row["image_offset"]) != row["image_size"]:
                yield QuarantineEntry(
                    row["uid"], "verify", f"no member of the tar starts at byte {row['image_offset']:,}", str(tar)
                )


def _tables(folder: Path, there: set[str]) -> list[str]:
    """Tables with rows of unknown uids."""
    problems = []
    for name in table_names(folder):
        uids = read_table(folder, name).table["uid"]
        strange = pc.sum(pc.invert(pc.is_in(uids, value_set=pa.array(sorted(there), pa.string())))).as_py() or 0
        if strange:
            problems.append(f"table '{name}' has {strange:,} rows of uids that the manifest does not have")
    return problems
