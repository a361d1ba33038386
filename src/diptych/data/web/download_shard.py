"""One shard of a download: asks its links politely, sizes the pictures, writes tar, table and statistics."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence, Sized
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pyarrow as pa

from diptych.core.disk.files import write_json
from diptych.core.errors import DecodeError, RunError
from diptych.core.image import SliceImage
from diptych.core.terminal.progress import with_bar
from diptych.data.columns import read_parquet, write_parquet
from diptych.data.shards.tar_index import open_index
from diptych.data.shards.write import ShardWriter
from diptych.data.web.blur import Box, boxes_of
from diptych.data.web.download_options import Download
from diptych.data.web.host_schedule import HostSchedule
from diptych.data.web.picture_sizing import resized
from diptych.data.web.polite_http import REDIRECTS, FetchError, ask
from diptych.data.web.site_rules import SiteRules

DNS_TRIES, DNS_SHARE = 50, 0.5
"""After this many links, the run ends when more than that share of them failed at the name."""
FINAL = ("private", "opt-out", "tdm", "robots", "address")
"""Kinds of failure that another try at once would not change."""
FOREVER = ("opt-out", "tdm")
"""Kinds that no later run asks about."""
WAITS = 3
"""Times that a link waits because its host says so."""
SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("key", "uid", "url", "caption", "status", "error_kind", "error_message", "final_url", "sha256")
    ]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
)

Record = dict[str, Any]
Answer = tuple[Record, bytes | None]
"""Row of the table, and the picture if there is one."""


class AddressSet(Container[str], Protocol):
    """Addresses that are not asked, to which others are added."""

    def add(self, url: str) -> None: ...


class TaskExecutor(Protocol):
    """Processes or a cluster that run functions."""

    def submit(self, function: Any, /, *args: Any) -> Future[Any]: ...


class Resizer:
    """Sizes pictures in other processes, or in the calling thread if there are none."""

    def __init__(self, options: Download, executor: TaskExecutor | None) -> None:
        self._options, self._executor = options, executor

    def __call__(self, data: bytes, name: str, boxes: tuple[Box, ...] = ()) -> tuple[bytes, dict[str, int]]:
        """As `resized`. Raises DecodeError."""
        if self._executor is None:
            return resized(data, self._options, name=name, boxes=boxes)
        outcome: tuple[bytes, dict[str, int]] | str = self._executor.submit(
            _resized_apart, data, self._options, name, boxes
        ).result()
        if isinstance(outcome, str):
            raise DecodeError(outcome, file=name)
        return outcome


def _resized_apart(data: bytes, options: Download, name: str, boxes: tuple[Box, ...]) -> tuple[bytes, dict[str, int]] | str:
    """As `resized`, with the problem in place of an exception, which would have to travel between processes."""
    try:
        return resized(data, options, name=name, boxes=boxes)
    except DecodeError as error:
        return error.problem


@dataclass(slots=True)
class _Request:
    """The next request for a link: its address, redirects that led there, and seconds that are left of the timeout."""

    url: str
    left: float
    redirects: int = 0


@dataclass
class ShardDownload:
    """Links of one shard, and what they share with those of others: addresses that opted out, rules of sites, the resizer."""

    out: Path
    number: int
    links: pa.Table
    options: Download
    opted_out: AddressSet
    rules: SiteRules
    resizer: Resizer

    def __post_init__(self) -> None:
        self._rows: list[dict[str, str]] = self.links.select(["uid", "url", "text"]).to_pylist()
        names = [name for name in self.links.column_names if name not in ("uid", "url", "text")]
        further = self.links.select(names)
        self._further = further.rename_columns([f"link_{name}" if name in SCHEMA.names else name for name in names])
        cells = self.links[self.options.blur].to_pylist() if self.options.blur else [None] * len(self._rows)
        self._boxes = [boxes_of(cell, field=self.options.blur) for cell in cells]
        self._lock = threading.Lock()
        self._asked: set[int] = set()
        self._tried = self._nameless = 0
        self._retries: Counter[int] = Counter()
        self._requests = {row: self._first_request(row) for row in range(len(self._rows))}
        self._unwilling: dict[str, FetchError] = {}

    @property
    def tar(self) -> Path:
        return self.out / f"{self.number:05d}.tar"

    @property
    def table(self) -> Path:
        return self.out / f"{self.number:05d}.parquet"

    def fill(self, retry_failed: bool) -> int:
        """Download what is missing; returns the number of links requested."""
        done: dict[int, Answer] = {}
        pending = list(range(len(self._rows)))
        if self.table.is_file():
            table = read_parquet(self.table)
            there = [name for name in SCHEMA.names if name in table.column_names]  # earlier versions had fewer
            records: list[Record] = [{**dict.fromkeys(SCHEMA.names), **row} for row in table.select(there).to_pylist()]
            failed = [row for row, one in enumerate(records) if one["status"] != "success" and one["error_kind"] not in FOREVER]
            pending = failed if retry_failed else []
            if not pending:
                return 0
            stored = self._read_shard()
            done = {row: (record, stored.get(record["key"])) for row, record in enumerate(records) if row not in set(pending)}
        begin = time.time()
        done |= self._ask(pending)
        self._write([done[row] for row in range(len(self._rows))], begin)
        return len(self._asked)

    # ------------------------------------------------------------ asking

    def _ask(self, rows: list[int]) -> dict[int, Answer]:
        """Answers of all rows, asked by several threads, each host as often as it may be."""
        policy = self.options.policy
        schedule = HostSchedule([_host(self._rows[row]["url"]) for row in rows], per_host=policy.per_host, pause=policy.pause)
        answers: dict[int, Answer] = {}
        waits: Counter[int] = Counter()
        with ThreadPoolExecutor(self.options.threads) as threads:
            work = [
                threads.submit(self._work, schedule, rows, answers, waits) for _ in range(min(self.options.threads, len(rows)))
            ]
            try:
                for _ in with_bar(_arrivals(work, answers), len(rows), "links"):
                    pass
            finally:
                schedule.stop()
        return answers

    def _work(self, schedule: HostSchedule, rows: list[int], answers: dict[int, Answer], waits: Counter[int]) -> None:
        while (position := schedule.take()) is not None:
            then = None
            try:
                then = self._turn(schedule, position, rows, answers, waits)
            except BaseException:
                schedule.stop()
                raise
            finally:
                schedule.done(position, then=then)

    def _turn(
        self, schedule: HostSchedule, position: int, rows: list[int], answers: dict[int, Answer], waits: Counter[int]
    ) -> str | None:
        """One request for a link; what its host wants is kept in the schedule. Returns the host of a further request, after a redirect or
        a failure that is tried again."""
        row, policy = rows[position], self.options.policy
        try:
            answer = self._one(row, schedule, position)
        except FetchError as error:
            if error.kind != "http 429" and error.wait is None:
                if error.kind not in FINAL and self._retries[row] < self.options.retries:
                    self._retries[row] += 1
                    self._requests[row] = self._first_request(row)
                    return _host(self._requests[row].url)
                answer = self._failed(row, error)
            else:
                wait = error.wait if error.wait is not None else 2.0 ** waits[row]
                waits[row] += 1
                if wait <= policy.longest_wait and waits[row] <= WAITS:
                    schedule.put_back(position, wait)
                    return None
                if wait > policy.longest_wait:
                    self._give_up(schedule, position, rows, answers, wait)
                with self._lock:
                    answers[row] = self._failed(row, error)
                return None
        if isinstance(answer, _Request):
            self._requests[row] = answer
            return _host(answer.url)
        if answer is not None:
            with self._lock:
                answers[row] = answer
            self._check_names(answer[0])
        return None

    def _give_up(self, schedule: HostSchedule, position: int, rows: list[int], answers: dict[int, Answer], wait: float) -> None:
        """Fail the links of a host that wants to be left alone for longer than links wait, also those that come to it later."""
        host = _host(self._requests[rows[position]].url)
        reason = FetchError("asked to wait", f"{host} wants {wait:.0f} s; not asked")
        with self._lock:
            self._unwilling[host] = reason
            answers.update({rows[other]: self._failed(rows[other], reason) for other in schedule.give_up(position)})

    def _check_names(self, record: Record) -> None:
        """Raises RunError if most names cannot be looked up."""
        with self._lock:
            self._tried, self._nameless = self._tried + 1, self._nameless + (record["error_kind"] == "dns")
            tried, nameless = self._tried, self._nameless
        if tried >= DNS_TRIES and nameless > DNS_SHARE * tried:
            raise RunError(
                f"{nameless} of {tried} names could not be looked up: the resolver is down or too weak; stopped, finished "
                f"shards in {self.out} are kept (run the same command again)"
            )

    def _one(self, row: int, schedule: HostSchedule, position: int) -> Answer | _Request | None:
        """The answer of a link, or its next request after a redirect; None if it was put back. Raises FetchError."""
        request, policy = self._requests[row], self.options.policy
        url = request.url
        if url in self.opted_out:
            return self._failed(row, FetchError("opt-out", "opted out before; not asked"))
        if (reason := self._unwilling.get(_host(url))) is not None:
            return self._failed(row, reason)
        try:
            self.rules.check(url)
            if (delay := self.rules.crawl_delay(url)) > policy.longest_wait:
                raise FetchError("asked to wait", f"robots.txt wants {delay:g} s between two requests; not asked", wait=delay)
            if not schedule.slow_down(position, delay):
                schedule.put_back(position, 0.0)
                return None
            with self._lock:
                self._asked.add(row)
            begin = time.monotonic()
            data = ask(url, policy, begin + request.left, "image/*,*/*")
        except FetchError as error:
            if error.kind in FOREVER:
                self.opted_out.add(self._rows[row]["url"])
            raise
        if isinstance(data, str):
            if request.redirects == REDIRECTS:
                raise FetchError("redirects", f"more than {REDIRECTS} redirects")
            return _Request(data, request.left - (time.monotonic() - begin), request.redirects + 1)
        try:
            data, facts = self.resizer(data, url, self._boxes[row])
        except DecodeError as error:
            return self._record(row, status="failed_to_resize", error_kind="image", error_message=error.problem), None
        return self._record(row, status="success", final_url=url, sha256=hashlib.sha256(data).hexdigest(), **facts), data

    def _first_request(self, row: int) -> _Request:
        return _Request(self._rows[row]["url"], self.options.policy.timeout)

    def _failed(self, row: int, error: FetchError) -> Answer:
        last = self._requests[row]
        facts = {"error_kind": error.kind, "error_message": str(error), "final_url": last.url if last.redirects else None}
        return self._record(row, status="failed_to_download", **facts), None

    def _record(self, row: int, **facts: Any) -> Record:
        link = self._rows[row]
        link_facts = {"key": f"{self.number:05d}{row:04d}", "uid": link["uid"], "url": link["url"], "caption": link["text"]}
        return {**dict.fromkeys(SCHEMA.names), **link_facts, **facts}

    # ------------------------------------------------------------ the files

    def _read_shard(self) -> dict[str, bytes]:
        """Images of the shard as it is, by key."""
        data_by_key = {}
        for member in open_index(self.tar).members.to_pylist():
            key, _, kind = member["name"].partition(".")
            if kind == self.options.encode:
                data_by_key[key] = SliceImage(self.tar, member["offset"], member["size"], member["name"]).read()
        return data_by_key

    def _write(self, done: list[Answer], begin: float) -> None:
        """The tar, the statistics, then the table: a shard with a table is whole."""
        further = self._further.to_pylist()
        with ShardWriter(self.tar) as writer:
            for (record, data), more in zip(done, further or [{}] * len(done), strict=True):
                if data is not None:
                    plain = json.dumps(_finite({**record, **more}), ensure_ascii=False, default=str)
                    writer.add(f"{record['key']}.{self.options.encode}", data)
                    writer.add(f"{record['key']}.txt", record["caption"].encode("utf-8", "replace"))
                    writer.add(f"{record['key']}.json", plain.encode("utf-8", "replace"))
        write_json(self.out / f"{self.number:05d}_stats.json", _statistics(done, begin))
        table = pa.Table.from_pylist([record for record, _ in done], SCHEMA)
        for name in self._further.column_names:
            table = table.append_column(name, self._further[name])
        write_parquet(self.table, table)


def _statistics(done: list[Answer], begin: float) -> dict[str, Any]:
    """Counts, reasons and seconds of a shard, under the names of img2dataset."""
    records = [record for record, _ in done]
    statuses = Counter(record["status"] for record in records)
    return {
        "count": len(records),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": statuses["failed_to_resize"],
        "bytes": sum(len(data) for _, data in done if data is not None),
        "start_time": begin,
        "end_time": time.time(),
        "duration": time.time() - begin,
        "status_dict": dict(Counter(record["error_kind"] or "success" for record in records)),
    }


def _finite(record: Record) -> Record:
    """JSON has no number that is not finite."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()}


def _arrivals(work: Sequence[Future[None]], answers: Sized) -> Iterator[None]:
    """Yields once for each answer, a fifth of a second after it came at the latest. Raises what a thread raised."""
    passed, pending = 0, set(work)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        for one in done:
            one.result()
        for _ in range(passed, passed := len(answers)):
            yield


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
