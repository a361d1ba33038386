"""Builds one table of links from web archives: one part per file, so that a killed run can resume; each pair once, in order of uid.

OUT/links.parquet        uid, url, text, page, licence: `diptych data download` takes it from here, and `diptych curate` judges its texts
OUT/quarantine.parquet   records and files that could not be read, and why
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.config import config_hash
from diptych.core.terminal.progress import with_bar
from diptych.data.columns import read_parquet, write_parquet
from diptych.data.lineage.record import made_now, write_lineage
from diptych.data.quarantine import QuarantineEntry, write_quarantine
from diptych.data.ragged import one_chunk
from diptych.data.web.web_archive import ImageLink, archives, links_of

FILE = "links.parquet"
BLOCK = 16_384
"""Links of which there are Python objects at a time."""
MERGED = 2**20
"""Rows of the table that are made at a time, as many as a row group of Parquet has."""
SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "url", "text", "page", "licence")])


@dataclass(frozen=True, slots=True)
class LinkReport:
    """Archives, those read in an earlier run, pairs of image and text that were found, distinct ones, and what was left out."""

    folder: Path
    files: int
    kept: int
    pairs: int
    links: int
    bad: tuple[QuarantineEntry, ...]

    def lines(self) -> list[str]:
        again = self.pairs - self.links
        return [
            f"{self.files} archives: {self.pairs:,} images with a text, {again:,} of them the same pair again; {self.links:,} in "
            f"{self.folder / FILE}",
            *([f"{self.kept} archives had been read before"] if self.kept else []),
            *([f"{len(self.bad):,} left out, see {self.folder / 'quarantine.parquet'}"] if self.bad else []),
            *(f"  {bad}" for bad in self.bad[:3]),
        ]


def extract_links(source: Path, out: Path) -> LinkReport:
    """Read every archive of `source`. The table does not depend on how pages are cut into archives."""
    parts = out / "parts"
    tables, bad, kept = [], [], 0
    files = archives(source)
    for file in with_bar(files, len(files), "archives"):
        stat = file.stat()
        path = parts / f"{config_hash([str(file.resolve()), stat.st_size, stat.st_mtime_ns])}.parquet"
        if path.is_file():
            kept += 1
        else:
            wrong: list[QuarantineEntry] = []
            rows = _link_table(links_of(file, wrong))
            metadata = {b"bad": json.dumps([asdict(one) for one in wrong]).encode()}
            write_parquet(path, rows.replace_schema_metadata(metadata))
        table = read_parquet(path)
        bad += [QuarantineEntry(**one) for one in json.loads(table.schema.metadata[b"bad"])]
        tables.append(table.replace_schema_metadata(None))
    links = _distinct(pa.concat_tables([SCHEMA.empty_table(), *tables]))
    write_parquet(out / FILE, links)
    write_quarantine(out, bad)
    write_lineage(out, [made_now("data links", source.resolve(), archives=len(files), links=links.num_rows)])
    shutil.rmtree(parts)
    return LinkReport(out, len(files), kept, sum(table.num_rows for table in tables), links.num_rows, tuple(bad))


def _link_table(links: Iterator[ImageLink]) -> pa.Table:
    """Links as a table; there are Python objects for one block at a time."""
    batches = []
    while block := list(islice(links, BLOCK)):
        columns = [pa.array([getattr(link, name) for link in block], pa.string()) for name in SCHEMA.names]
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA)


def _distinct(table: pa.Table) -> pa.Table:
    """One row of every pair in order of uid: of several pages the first by address, and of that the first licence."""
    wide = table.cast(pa.schema([(name, pa.large_string()) for name in SCHEMA.names])).combine_chunks()  # may be over 2 GiB
    order = pc.sort_indices(wide, sort_keys=[(name, "ascending") for name in ("uid", "page", "licence")])
    blocks, last = [SCHEMA.empty_table()], None
    for start in range(0, len(order), MERGED):
        block = wide.take(order.slice(start, MERGED)).cast(SCHEMA)
        uids = one_chunk(block["uid"])
        before = pa.concat_arrays([pa.array([last], pa.string()), uids.slice(0, len(uids) - 1)])
        blocks.append(block.filter(pc.fill_null(pc.not_equal(uids, before), True)))
        last = uids[-1].as_py()
    return pa.concat_tables(blocks)
