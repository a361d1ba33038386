"""Builds one table of links from web archives: one part per file, so that a killed run can resume; each pair once, in order of uid.

OUT/links.parquet        uid, url, text, page, licence: `diptych data download` takes it from here, and `diptych curate` judges its texts
OUT/quarantine.parquet   records and files that could not be read, and why
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from diptych.core.config import config_hash
from diptych.data.columns import read_parquet, write_parquet
from diptych.data.lineage.record import made_now, write_lineage
from diptych.data.quarantine import QuarantineEntry, write_quarantine
from diptych.data.web.web_archive import ImageLink, archives, links_of

FILE = "links.parquet"
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
    for file in files:
        stat = file.stat()
        path = parts / f"{config_hash([str(file.resolve()), stat.st_size, stat.st_mtime_ns])}.parquet"
        if path.is_file():
            kept += 1
        else:
            wrong: list[QuarantineEntry] = []
            rows = [asdict(link) for link in links_of(file, wrong)]
            metadata = {b"bad": json.dumps([asdict(one) for one in wrong]).encode()}
            write_parquet(path, pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata))
        table = read_parquet(path)
        bad += [QuarantineEntry(**one) for one in json.loads(table.schema.metadata[b"bad"])]
        tables.append(table.replace_schema_metadata(None))
    links = sorted({ImageLink(**row) for table in tables for row in table.to_pylist()}, key=lambda link: (link.uid, link.page))
    once: dict[str, ImageLink] = {}
    for link in links:
        once.setdefault(link.uid, link)  # of several pages the first by address
    write_parquet(out / FILE, pa.Table.from_pylist([asdict(link) for link in once.values()], SCHEMA))
    write_quarantine(out, bad)
    write_lineage(out, [made_now("data links", source.resolve(), archives=len(files), links=len(once))])
    shutil.rmtree(parts)
    return LinkReport(out, len(files), kept, sum(table.num_rows for table in tables), len(once), tuple(bad))
