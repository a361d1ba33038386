"""Images of a table of links, in shards as img2dataset writes them: every reader of that layout reads this.

    OUT/00000.tar        00000 0000.jpg, .txt, .json: nine digits of shard and row; the JSON has uid, caption, url, sizes, sha256
    OUT/00000.parquet    a row a link: key, uid, url, caption, status (success | failed_to_download | failed_to_resize), error_kind,
                         error_message, final_url, width, height, original_width, original_height, sha256; written last: the shard's mark
    OUT/00000_stats.json counts, reasons and seconds of the shard
    OUT/opted_out.txt    addresses that opted out, one a line, which are never asked again
    OUT/links.json       which links and options, so that the same run goes on and another one is refused

All other columns of the links travel into tars and tables. A failed link is a row with a reason, never a hole; `retry_failed` asks for
those alone and rewrites their shards. When most names cannot be looked up, the run ends at once instead of failing for hours.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.config import config_hash, to_plain
from diptych.core.disk.files import write_json
from diptych.core.errors import DataError, UnknownName
from diptych.core.ray_cluster import RayExecutor
from diptych.core.terminal.progress import with_bar
from diptych.data.columns import read_parquet
from diptych.data.lineage.record import add_lineage, made_now, write_lineage
from diptych.data.shards.mark import DOWNLOAD as MARK
from diptych.data.web.download_options import Download
from diptych.data.web.download_shard import Resizer, ShardDownload, TaskExecutor
from diptych.data.web.picture_sizing import resized
from diptych.data.web.site_rules import SiteRules

__all__ = ["Download", "DownloadReport", "download", "resized"]
OPTED_OUT = "opted_out.txt"


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """Counts of a download: all links, images present, links requested in this run, and failures by kind."""

    folder: Path
    links: int
    succeeded: int
    tried: int
    errors: dict[str, int]

    def lines(self) -> list[str]:
        share = self.succeeded / max(1, self.links)
        return [
            f"{self.succeeded:,} of {self.links:,} images are there ({share:.1%}), {self.tried:,} links were asked now: {self.folder}",
            *(f"  {count:>9,}  {kind}" for kind, count in sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))),
            *(
                ["private addresses are not public and were not requested: --allow-private asks them"]
                * ("private" in self.errors)
            ),
        ]


@dataclass
class OptedOut:
    """Addresses that opted out, kept in a file; safe to use from several threads."""

    file: Path
    _addresses: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.file.is_file():
            self._addresses = {line for line in self.file.read_text(encoding="utf-8").splitlines() if line}

    def __contains__(self, url: object) -> bool:
        return url in self._addresses

    def add(self, url: str) -> None:
        """Keep an address, on disk at once."""
        with self._lock:
            if url not in self._addresses and "\n" not in url:
                self._addresses.add(url)
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(f"{url}\n")


def download(
    links: pa.Table, out: Path, options: Download, *, retry_failed: bool = False, add: bool = False, source: str = ""
) -> DownloadReport:
    """Download every link that no finished shard holds.

    links         columns "uid", "url" and "text", uids that differ; all other columns are kept
    retry_failed  ask again for failed links of finished shards, but for those that opted out
    source        address of the links, for the lineage
    add           put links into a finished folder that are not there yet, as further shards

    Raises DataError for a folder of other links or options.
    """
    for name in ("uid", "url", "text"):
        if name not in links.column_names:
            raise DataError(f"the links have no column '{name}'", field=name, expected="uid, url and text")
    if options.blur and options.blur not in links.column_names:
        raise UnknownName("column", options.blur, links.column_names)
    first, table = _open_folder(links, out, options, add=add)
    opted_out, rules = OptedOut(options.opted_out or out / OPTED_OUT), SiteRules(options.policy)
    tried = 0
    with ExitStack() as stack:
        resizer = Resizer(options, _executor(options, stack))
        starts = range(0, table.num_rows, options.shard_links)
        for start in with_bar(starts, len(starts), "shards", least=2):
            rows = table.slice(start, options.shard_links)
            shard = ShardDownload(out, first + start // options.shard_links, rows, options, opted_out, rules, resizer)
            tried += shard.fill(retry_failed)
    records = [record for file in _tables(out) for record in read_parquet(file, columns=["status", "error_kind"]).to_pylist()]
    errors = Counter(record["error_kind"] for record in records if record["status"] != "success")
    succeeded = sum(record["status"] == "success" for record in records)
    step = made_now("data download", source, config=_result_options(options), links=len(records), images=succeeded)
    if json.loads((out / MARK).read_text(encoding="utf-8")).get("added"):
        add_lineage(out, step, source)
    else:
        write_lineage(out, [step], source)
    return DownloadReport(out, len(records), succeeded, tried, dict(errors))


def _executor(options: Download, stack: ExitStack) -> TaskExecutor | None:
    """Executor that decodes and sizes pictures; None: the threads that ask do."""
    if options.engine == "ray":
        return RayExecutor("data download --engine ray")
    if not options.processes:
        return None
    return stack.enter_context(ProcessPoolExecutor(options.processes, mp_context=get_context("forkserver")))


def _tables(out: Path) -> list[Path]:
    """Tables of finished shards in their order."""
    return sorted(path for path in out.glob("*.parquet") if path.stem.isdigit())


def _open_folder(links: pa.Table, out: Path, options: Download, *, add: bool) -> tuple[int, pa.Table]:
    """Number of the first shard of these links, and those that go into it and the next ones. Writes down what the folder will hold."""
    links_hash = config_hash([links["uid"].to_pylist(), links["url"].to_pylist()])
    what = {"links": links_hash, "options": _result_options(options)}
    per_shard = options.shard_links
    if not (out / MARK).is_file():
        if out.is_dir() and any(out.iterdir()):
            raise DataError("is not empty", file=out, expected="a new or empty folder")
        write_json(out / MARK, {**what, "shards": -(-links.num_rows // per_shard)})  # by which readers see that some are missing
        return 0, links
    before = json.loads((out / MARK).read_text(encoding="utf-8"))
    if before.get("options") != what["options"]:
        raise DataError("holds the images of other links or with other options", file=out, expected="another folder")
    if before.get("links") == links_hash:
        return 0, links
    added = before.get("added", [])
    part = next((one for one in added if one["links"] == links_hash), None)
    if part is None and not add:
        raise DataError("holds the images of other links or with other options", file=out, expected="another folder, or --add")
    first = part["first"] if part else int(before["shards"])
    finished = [file for file in _tables(out) if int(file.stem) < first]
    if len(finished) < first:
        raise DataError(
            f"has {len(finished)} of {first} shards of its earlier links",
            file=out,
            expected="the command that began it, to its end",
        )
    there = {uid for file in finished for uid in read_parquet(file, columns=["uid"])["uid"].to_pylist()}
    fresh = links.filter(pa.array([uid not in there for uid in links["uid"].to_pylist()], pa.bool_()))
    if part is None:
        count = -(-fresh.num_rows // per_shard)
        write_json(
            out / MARK,
            {**before, "shards": first + count, "added": [*added, {"links": links_hash, "first": first, "shards": count}]},
        )
    return first, fresh


def _result_options(options: Download) -> Any:
    """Options that determine the result, without retries and the like."""
    plain = to_plain(replace(options, threads=1, retries=0))
    policy = plain.pop("policy")
    for name in ("processes", "engine", "memory", "opted_out"):
        plain.pop(name)
    if plain["encode"] == "jpg":  # earlier versions had no other
        plain.pop("encode")
    if not plain["blur"]:
        plain.pop("blur")
    # "manners" is the name in links.json of earlier versions.
    return {**plain, "manners": {name: policy[name] for name in ("max_bytes", "agent", "agent_token", "forbidden")}}
