"""Images of a table of links, in shards as img2dataset writes them: every reader of that layout reads this.

    OUT/00000.tar       00000 0000.jpg, .txt, .json: nine digits of shard and row; the JSON has uid, caption, url, sizes, sha256
    OUT/00000.parquet   a row a link: key, uid, url, caption, status (success | failed_to_download | failed_to_resize), error_kind,
                        error_message, width, height, original_width, original_height, sha256; written last: the shard's mark
    OUT/links.json      which links and options, so that the same run goes on and another one is refused

A failed link is a row with a reason, never a hole; `retry_failed` asks for those alone and rewrites their shards. When most names cannot
be looked up, the run ends at once instead of failing for hours.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from diptych.core.config import config_hash, to_plain
from diptych.core.disk.files import write_json
from diptych.core.errors import ConfigError, DataError, DecodeError, RunError
from diptych.core.image import BytesImage, SliceImage
from diptych.data.columns import read_parquet, write_parquet
from diptych.data.media.decode import decode
from diptych.data.media.opencv import area, lanczos
from diptych.data.media.transforms import Pixels
from diptych.data.shards.mark import DOWNLOAD as MARK
from diptych.data.shards.tar_index import open_index
from diptych.data.shards.write import ShardWriter
from diptych.data.web.polite_http import FetchError, FetchPolicy, fetch_image

DNS_TRIES, DNS_SHARE = 50, 0.5
"""After so many links, the run ends when more than that share of them failed at the name."""
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "uid", "url", "caption", "status", "error_kind", "error_message", "sha256")]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
)


@dataclass(frozen=True)
class Download:
    """size           pixels of a side, see `resize` (published 256)
    resize         border: whole, on a white square; keep_ratio: `size` is the short side; keep_ratio_largest: the long one; center_crop;
                   no: the size it has
    quality        of the JPEG (published 95)
    only_if_bigger leave images as they are that are no larger: they get no border and are not cropped either
    filters        opencv: means over areas where images shrink, Lanczos' with eight pixels where they grow, as published; pil: Lanczos'
                   with six a side where they shrink, bicubic where they grow, two to three times faster
    min_side       smaller images are refused; 0 is off
    max_area       images of more pixels are refused; 0 is off
    max_aspect     long side / short side must not be above; 0 is off
    shard_links    links per shard
    threads        asked at once (published 256 for a big machine)
    retries        of one link, on the spot
    """

    size: int = 256
    resize: Literal["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"] = "border"
    quality: int = 95
    only_if_bigger: bool = False
    filters: Literal["opencv", "pil"] = "opencv"
    min_side: int = 0
    max_area: int = 0
    max_aspect: float = 0.0
    shard_links: int = 10_000
    threads: int = 64
    retries: int = 0
    policy: FetchPolicy = field(default_factory=FetchPolicy)

    def __post_init__(self) -> None:
        if min(self.size, self.shard_links, self.threads) < 1 or not 1 <= self.quality <= 100 or self.retries < 0:
            raise ConfigError("size, shard_links and threads are at least 1, quality 1..100, retries 0 or more")
        if self.shard_links > 10_000:
            raise ConfigError(f"shard_links is {self.shard_links:,} (expected at most 10,000: keys have four digits for it)")


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
        ]


def download(links: pa.Table, out: Path, options: Download, *, retry_failed: bool = False) -> DownloadReport:
    """`links` has columns "uid", "url" and "text", uids that differ. Finished shards stay as they are; with `retry_failed` their
    failed links are asked again."""
    for name in ("uid", "url", "text"):
        if name not in links.column_names:
            raise DataError(f"the links have no column '{name}'", field=name, expected="uid, url and text")
    what = {"links": config_hash([links["uid"].to_pylist(), links["url"].to_pylist()]), "options": _result_options(options)}
    if (out / MARK).is_file():
        before = json.loads((out / MARK).read_text(encoding="utf-8"))
        if {name: before.get(name) for name in what} != what:
            raise DataError("holds the images of other links or with other options", file=out, expected="another folder")
    elif out.is_dir() and any(out.iterdir()):
        raise DataError("is not empty", file=out, expected="a new or empty folder")
    count = -(-links.num_rows // options.shard_links)
    write_json(out / MARK, {**what, "shards": count})  # by which readers see that some are missing
    rows = links.select(["uid", "url", "text"]).to_pylist()
    tried, shards = 0, []
    for number, start in enumerate(range(0, len(rows), options.shard_links)):
        shard = _Shard(out, number, rows[start : start + options.shard_links], options)
        tried += shard.fill(retry_failed)
        shards.append(shard)
    records = [record for shard in shards for record in shard.records()]
    errors = Counter(record["error_kind"] for record in records if record["status"] != "success")
    return DownloadReport(out, len(rows), sum(record["status"] == "success" for record in records), tried, dict(errors))


def _result_options(options: Download) -> Any:
    """Options that determine the result, without retries and the like."""
    plain = to_plain(replace(options, threads=1, retries=0))
    policy = plain.pop("policy")
    # "manners" is the name in download.json of earlier versions.
    return {**plain, "manners": {key: value for key, value in policy.items() if key not in ("timeout", "allow_private")}}


@dataclass
class _Shard:
    out: Path
    number: int
    rows: list[dict[str, str]]
    options: Download

    @property
    def tar(self) -> Path:
        return self.out / f"{self.number:05d}.tar"

    @property
    def table(self) -> Path:
        return self.out / f"{self.number:05d}.parquet"

    def records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = read_parquet(self.table).to_pylist()
        return records

    def fill(self, retry_failed: bool) -> int:
        """Download what is missing; returns the number of links requested."""
        done: dict[int, tuple[dict[str, Any], bytes | None]] = {}
        if self.table.is_file():
            records = self.records()
            pending = [row for row, record in enumerate(records) if record["status"] != "success"] if retry_failed else []
            if not pending:
                return 0
            stored = self._read_shard()
            done = {row: (record, stored.get(record["key"])) for row, record in enumerate(records) if row not in set(pending)}
        else:
            pending = list(range(len(self.rows)))
        done |= dict(zip(pending, self._ask(pending), strict=True))
        self._write([done[row] for row in range(len(self.rows))])
        return len(pending)

    def _ask(self, rows: list[int]) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        names_failed = attempted = 0
        with ThreadPoolExecutor(max_workers=self.options.threads) as threads:
            for record, data in threads.map(self._one, rows):
                attempted += 1
                names_failed += record["error_kind"] == "dns"
                if attempted >= DNS_TRIES and names_failed > DNS_SHARE * attempted:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise RunError(
                        f"{names_failed} of {attempted} names could not be looked up: the resolver is down or too weak; stopped, finished "
                        f"shards in {self.out} are kept (run the same command again)"
                    )
                yield record, data

    def _one(self, row: int) -> tuple[dict[str, Any], bytes | None]:
        link = self.rows[row]
        key = f"{self.number:05d}{row:04d}"
        record: dict[str, Any] = {
            "key": key,
            "uid": link["uid"],
            "url": link["url"],
            "caption": link["text"],
            "status": "success",
        }
        for attempt in range(self.options.retries + 1):
            try:
                data = fetch_image(link["url"], self.options.policy)
                break
            except FetchError as error:
                record |= {"status": "failed_to_download", "error_kind": error.kind, "error_message": str(error)}
                if error.kind in ("private", "opt-out", "address") or attempt == self.options.retries:
                    return {**dict.fromkeys(SCHEMA.names), **record}, None
        try:
            data, facts = resized(data, self.options, name=link["url"])
        except DecodeError as error:
            record |= {"status": "failed_to_resize", "error_kind": "image", "error_message": error.problem}
            return {**dict.fromkeys(SCHEMA.names), **record}, None
        record |= {**facts, "status": "success", "error_kind": None, "error_message": None}
        return {**dict.fromkeys(SCHEMA.names), **record, "sha256": hashlib.sha256(data).hexdigest()}, data

    def _read_shard(self) -> dict[str, bytes]:
        """Images of the shard as it is, by key."""
        data_by_key = {}
        for member in open_index(self.tar).members.to_pylist():
            key, _, kind = member["name"].partition(".")
            if kind == "jpg":
                data_by_key[key] = SliceImage(self.tar, member["offset"], member["size"], member["name"]).read()
        return data_by_key

    def _write(self, done: list[tuple[dict[str, Any], bytes | None]]) -> None:
        """The tar, then the table: a shard with a table is whole."""
        with ShardWriter(self.tar) as writer:
            for record, data in done:
                if data is not None:
                    writer.add(f"{record['key']}.jpg", data)
                    writer.add(f"{record['key']}.txt", record["caption"].encode("utf-8", "replace"))
                    writer.add(f"{record['key']}.json", json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"))
        write_parquet(self.table, pa.Table.from_pylist([record for record, _ in done], SCHEMA))


def resized(data: bytes, options: Download, *, name: str = "<bytes>") -> tuple[bytes, dict[str, int]]:
    """The image as it is stored, and its sizes. Raises DecodeError for what is no image, too small or too long."""
    from PIL import Image

    pixels_HWC = decode(BytesImage(data, name), exact=True)
    height, width = pixels_HWC.shape[:2]
    facts = {"original_width": width, "original_height": height, "width": width, "height": height}
    if min(width, height) < options.min_side:
        raise DecodeError(f"is {width} x {height} (expected a short side of at least {options.min_side})", file=name)
    if options.max_aspect and max(width, height) > options.max_aspect * min(width, height):
        raise DecodeError(f"is {width} x {height} (expected sides of at most 1:{options.max_aspect:g})", file=name)
    if options.max_area and width * height > options.max_area:
        raise DecodeError(f"is {width} x {height} (expected at most {options.max_area:,} pixels)", file=name)
    picture = Image.fromarray(_sized(pixels_HWC, options))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=options.quality)
    return out.getvalue(), facts | {"width": picture.width, "height": picture.height}


def _sized(image_HWC: Pixels, options: Download) -> Pixels:
    """As img2dataset sizes it: sides and margins are rounded as there."""
    height, width = image_HWC.shape[:2]
    size, longest = options.size, options.resize in ("border", "keep_ratio_largest")
    edge = max(width, height) if longest else min(width, height)
    if options.resize == "no" or (options.only_if_bigger and edge <= size):
        return image_HWC
    if edge != size:
        high, wide = (max(1, round(side * (size / edge))) for side in (height, width))
        image_HWC = _scaled(image_HWC, high, wide, options)
    high, wide = image_HWC.shape[:2]
    if options.resize == "border":
        top, left = (size - high) // 2, (size - wide) // 2
        square_HWC = np.full((size, size, 3), 255, np.uint8)
        square_HWC[top : top + high, left : left + wide] = image_HWC
        return square_HWC
    if options.resize == "center_crop":
        top, left = (high - size) // 2, (wide - size) // 2
        return image_HWC[top : top + size, left : left + size]
    return image_HWC


def _scaled(image_HWC: Pixels, height: int, width: int, options: Download) -> Pixels:
    from PIL import Image

    shrinks = height * width < image_HWC.shape[0] * image_HWC.shape[1]
    if options.filters == "pil":
        filter = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(image_HWC).resize((width, height), filter))
    return (area if shrinks else lanczos)(image_HWC, height, width)
