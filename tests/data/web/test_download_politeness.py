"""Downloads from a server that drips, lies, forbids and asks to wait: deadlines hold, and no host is asked more than it allows."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from diptych.core.errors import ConfigError
from diptych.data.columns import read_parquet
from diptych.data.web.download import Download, download
from diptych.data.web.host_schedule import HostSchedule
from diptych.data.web.polite_http import FetchError, FetchPolicy, fetch_image, retry_after
from diptych.data.web.site_rules import SiteRules, _matches

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n"


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


class Server:
    """A server of one socket a request, whose answers are bytes or a function of the socket, by path."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.most = self.now = 0
        self.lock = threading.Lock()
        self.answers: dict[str, object] = {}
        self.robots = self.reservations = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads = ThreadPoolExecutor(32)
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            self._threads.submit(self._answer, plain)

    def _answer(self, plain: socket.socket) -> None:
        with plain:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (piece := plain.recv(4096)):
                    return
                request += piece
            path = request.split()[1].decode()
            try:
                if path in ("/robots.txt", "/.well-known/tdmrep.json"):
                    body = self.robots if path == "/robots.txt" else self.reservations
                    plain.sendall(HEAD % (len(body), b"") + body if body else b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
                    return
                with self.lock:
                    self.asked.append((time.monotonic(), path))
                    self.now += 1
                    self.most = max(self.most, self.now)
                answer = self.answers.get(path.partition("?")[0], HEAD % (len(picture()), b"") + picture())
                plain.sendall(answer) if isinstance(answer, bytes) else answer(plain)  # type: ignore[operator]
            except OSError:
                pass  # the other side went away
            finally:
                with self.lock:
                    self.now -= path not in ("/robots.txt", "/.well-known/tdmrep.json")

    def close(self) -> None:
        self.ended.set()
        self._socket.close()
        self._threads.shutdown(cancel_futures=True)

    def drip(self, data: bytes, every: float = 0.1) -> object:
        def answer(plain: socket.socket) -> None:
            for byte in data:
                plain.sendall(bytes([byte]))
                if self.ended.wait(every):
                    return

        return answer

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def url(server: Server, path: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.port}{path}"


def fetched(
    server: Server, *paths: str, out: Path, policy: FetchPolicy, threads: int = 8, **options: object
) -> dict[str, str | None]:
    """Kinds of failure by path."""
    rows = [{"uid": f"u{n}", "url": url(server, path), "text": path} for n, path in enumerate(paths)]
    download(pa.Table.from_pylist(rows), out, Download(size=16, threads=threads, policy=policy, **options))  # type: ignore[arg-type]
    return {row["caption"]: row["error_kind"] for row in read_parquet(out / "00000.parquet").to_pylist()}


HERE = FetchPolicy(timeout=1.0, allow_private=True)


@pytest.mark.parametrize("where", ["head", "body", "silence"])
def test_a_stated_second_is_a_second_whatever_the_server_does(server: Server, where: str) -> None:
    whole = HEAD % (400, b"X-Long: " + b"x" * 300 + b"\r\n") + b"y" * 400
    cut = whole.index(b"\r\n\r\n") + 4

    def silent(plain: socket.socket) -> None:
        server.ended.wait(20)

    def body(plain: socket.socket) -> None:
        plain.sendall(whole[:cut])
        server.drip(whole[cut:])(plain)  # type: ignore[operator]

    server.answers["/a"] = {"head": server.drip(whole), "body": body, "silence": silent}[where]
    begin = time.monotonic()
    with pytest.raises(FetchError) as raised:
        fetch_image(url(server, "/a"), HERE)
    assert raised.value.kind == "timeout"
    assert time.monotonic() - begin < 2.0


def test_redirects_share_one_deadline(server: Server) -> None:
    def slow(plain: socket.socket) -> None:
        server.ended.wait(0.4)
        plain.sendall(b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n")

    server.answers["/a"] = slow
    begin = time.monotonic()
    with pytest.raises(FetchError):
        fetch_image(url(server, "/a"), HERE)
    assert time.monotonic() - begin < 2.0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort", "connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx", "size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "connection"),
        (b"no http at all\r\n\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + b"\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\ntdm-reservation: 1\r\nContent-Length: 1\r\n\r\nx", "tdm"),
        (b"", "connection"),
    ],
)
def test_lies_are_failures_with_their_kind(server: Server, answer: bytes, kind: str) -> None:
    server.answers["/a"] = answer
    with pytest.raises(FetchError) as raised:
        fetch_image(url(server, "/a"), HERE)
    assert raised.value.kind == kind


def test_robots_and_reservations_are_asked_once_a_site_and_honoured(server: Server, tmp_path: Path) -> None:
    server.robots = b"User-agent: *\nDisallow: /closed\nAllow: /closed/open$\n\nUser-agent: otherbot\nDisallow: /\n"
    server.reservations = b'[{"location": "/mine/*", "tdm-reservation": 1}, {"location": "/free", "tdm-reservation": 0}]'
    kinds = fetched(server, "/a", "/closed/b", "/closed/open", "/mine/c", "/free/d", out=tmp_path / "o", policy=HERE)
    assert kinds == {"/a": None, "/closed/b": "robots", "/closed/open": None, "/mine/c": "tdm", "/free/d": None}
    assert sorted(server.paths) == ["/a", "/closed/open", "/free/d"]
    server.asked.clear()
    free = FetchPolicy(timeout=1.0, allow_private=True, robots=False, tdm=False)
    assert set(fetched(server, "/closed/b", "/mine/c", out=tmp_path / "free", policy=free).values()) == {None}


@pytest.mark.parametrize(("failure", "kind"), [("http 503", "robots"), ("timeout", "timeout"), ("connection", "connection")])
def test_a_site_whose_rules_cannot_be_read_is_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, failure: str, kind: str
) -> None:
    def answers(address: str, policy: FetchPolicy, **_: object) -> bytes:
        raise FetchError(failure, "busy")

    monkeypatch.setattr("diptych.data.web.site_rules.fetch", answers)
    with pytest.raises(FetchError, match=r"robots\.txt cannot be read") as raised:
        SiteRules(HERE).check(url(server, "/a"))
    assert raised.value.kind == kind


def moved(address: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n".encode()


def test_where_redirects_lead_the_rules_of_that_site_hold(server: Server, tmp_path: Path) -> None:
    other = Server()
    try:
        other.robots = b"User-agent: *\nDisallow: /closed\n"
        other.reservations = b'[{"location": "/mine/*", "tdm-reservation": 1}]'
        for name, target in (("/a", "/open"), ("/b", "/closed/x"), ("/c", "/mine/x"), ("/d", "/busy")):
            server.answers[name] = moved(url(other, target, "localhost"))
        other.answers["/busy"] = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
        kinds = fetched(server, "/a", "/b", "/c", "/d", out=tmp_path, policy=FetchPolicy(timeout=3.0, allow_private=True))
        assert kinds == {"/a": None, "/b": "robots", "/c": "tdm", "/d": "http 404"}
        assert sorted(other.paths) == ["/busy", "/open"]
        rows = read_parquet(tmp_path / "00000.parquet").to_pylist()
        assert [row["final_url"] for row in rows] == [
            url(other, path, "localhost") for path in ("/open", "/closed/x", "/mine/x", "/busy")
        ]
        assert (tmp_path / "opted_out.txt").read_text().split() == [url(server, "/c")]
    finally:
        other.close()


def test_redirects_count_for_the_host_they_lead_to(server: Server, tmp_path: Path) -> None:
    other = Server()
    try:

        def slow(plain: socket.socket) -> None:
            server.ended.wait(0.05)
            plain.sendall(HEAD % (len(picture()), b"") + picture())

        other.answers["/s"] = slow
        paths = [f"/{n}" for n in range(6)]
        for path in paths:
            server.answers[path] = moved(url(other, "/s", "localhost"))
        policy = FetchPolicy(timeout=5.0, allow_private=True, per_host=2, pause=0.1)
        assert set(fetched(server, *paths, out=tmp_path / "a", policy=policy, threads=16).values()) == {None}
        times = sorted(at for at, _ in other.asked)
        assert len(times) == 6
        assert min(later - earlier for earlier, later in pairwise(times)) > 0.07
        other.answers["/s"] = b"HTTP/1.1 429 No\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
        other.asked.clear()
        alone = FetchPolicy(timeout=5.0, allow_private=True, per_host=1)
        kinds = fetched(server, *paths, out=tmp_path / "b", policy=alone, threads=16)
        assert other.paths == ["/s"]
        assert Counter(kinds.values()) == {"asked to wait": 5, "http 429": 1}
    finally:
        other.close()


def test_an_address_to_nowhere_costs_its_own_link(server: Server, tmp_path: Path) -> None:
    server.answers["/bad"] = moved("http://[nowhere")
    assert fetched(server, "/bad", "/a", out=tmp_path, policy=HERE) == {"/bad": "address", "/a": None}


def test_addresses_are_percent_encoded_as_browsers_do(server: Server, tmp_path: Path) -> None:
    server.answers["/away"] = moved("/t\u00fcr.png")
    fetched(server, "/gr\u00fcn baum.png?q=a b", "/done%20so.png", "/away", out=tmp_path, policy=HERE)
    expected = ["/away", "/done%20so.png", "/gr%C3%BCn%20baum.png?q=a%20b", "/t%C3%BCr.png"]
    assert sorted(server.paths) == expected


@pytest.mark.parametrize("delay", ["1e12", "600"])
def test_a_delay_that_nobody_waits_for_fails_the_links(server: Server, tmp_path: Path, delay: str) -> None:
    server.robots = f"User-agent: *\nCrawl-delay: {delay}\n".encode()
    assert set(fetched(server, "/a", "/b", "/c", out=tmp_path, policy=HERE).values()) == {"asked to wait"}
    assert server.paths == []


def test_a_delay_holds_from_the_first_links_on(server: Server, tmp_path: Path) -> None:
    server.robots = b"User-agent: *\nCrawl-delay: 0.2\n"
    assert set(fetched(server, *(f"/{n}" for n in range(5)), out=tmp_path, policy=HERE).values()) == {None}
    times = sorted(at for at, _ in server.asked)
    assert len(times) == 5
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.15


def test_a_link_that_is_tried_again_keeps_the_pause(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    policy = FetchPolicy(timeout=3.0, allow_private=True, pause=0.2)
    assert fetched(server, "/a", out=tmp_path, policy=policy, retries=2) == {"/a": "http 500"}
    times = [at for at, _ in server.asked]
    assert len(times) == 3
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.15


@pytest.mark.parametrize(("pattern", "path", "yes"), [("/a", "/ab", True), ("/a$", "/ab", False), ("/*.png$", "/x/y.png", True),
                                                        ("/b", "/a/b", False), ("/a.c", "/abc", False)])  # fmt: skip
def test_patterns_of_reservations(pattern: str, path: str, yes: bool) -> None:
    assert _matches(pattern, path) is yes


def test_a_host_that_says_wait_is_left_alone_for_so_long(server: Server, tmp_path: Path) -> None:
    refusals = iter(range(1))

    def busy(plain: socket.socket) -> None:
        if next(refusals, None) is None:
            plain.sendall(HEAD % (len(picture()), b"") + picture())
        else:
            plain.sendall(b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")

    server.answers["/busy"] = busy
    policy = FetchPolicy(timeout=3.0, allow_private=True, per_host=1)
    kinds = fetched(server, "/busy", "/a", "/b", "/c", out=tmp_path, policy=policy)
    assert set(kinds.values()) == {None}
    first, second = (at for at, path in server.asked if path == "/busy")
    assert second - first >= 1.0
    assert all(at >= first + 1.0 for at, path in server.asked if path in ("/a", "/b", "/c"))


def test_a_host_that_wants_an_hour_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers["/busy"] = b"HTTP/1.1 503 No\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
    policy = FetchPolicy(timeout=3.0, allow_private=True, per_host=1)
    begin = time.monotonic()
    kinds = fetched(server, "/busy", *(f"/x{n}" for n in range(30)), out=tmp_path, policy=policy)
    assert time.monotonic() - begin < 10
    assert server.paths == ["/busy"]
    assert Counter(kinds.values()) == {"asked to wait": 30, "http 503": 1}


def test_no_host_is_asked_by_too_many_at_once_or_too_soon(server: Server, tmp_path: Path) -> None:
    def slow(plain: socket.socket) -> None:
        server.ended.wait(0.1)
        plain.sendall(HEAD % (len(picture()), b"") + picture())

    paths = [f"/s?{n}" for n in range(9)]
    server.answers["/s"] = slow
    policy = FetchPolicy(timeout=5.0, allow_private=True, per_host=3)
    assert set(fetched(server, *paths, out=tmp_path / "a", policy=policy, threads=16).values()) == {None}
    assert server.most == 3
    server.asked.clear()
    policy = FetchPolicy(timeout=5.0, allow_private=True, per_host=3, pause=0.2)
    fetched(server, *paths[:4], out=tmp_path / "b", policy=policy, threads=16)
    times = sorted(at for at, _ in server.asked)
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.15
    server.asked.clear()
    server.robots = b"User-agent: diptych\nCrawl-delay: 0.3\n"
    fetched(server, *paths[:4], out=tmp_path / "c", policy=FetchPolicy(timeout=5.0, allow_private=True, per_host=1))
    times = sorted(at for at, _ in server.asked)
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.25


def test_a_waiting_host_holds_up_no_other() -> None:
    schedule = HostSchedule(["slow", "slow", "fast", "fast", "fast"], per_host=1)
    first = schedule.take()
    assert first == 0
    schedule.put_back(0, 60.0)
    schedule.done(0)
    begin = time.monotonic()
    for _ in range(3):
        row = schedule.take()
        assert row is not None
        assert row >= 2
        schedule.done(row)
    assert time.monotonic() - begin < 1.0
    assert schedule.give_up(0) == [0, 1]
    assert schedule.take() is None


def test_who_opted_out_is_never_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers["/no"] = b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noai\r\nContent-Length: 0\r\n\r\n"
    kept = tmp_path / "opted_out.txt"
    assert fetched(server, "/no", "/a", out=tmp_path / "one", policy=HERE, opted_out=kept)["/no"] == "opt-out"
    assert kept.read_text().split() == [url(server, "/no")]
    server.asked.clear()
    rows = [{"uid": f"u{n}", "url": url(server, path), "text": path} for n, path in enumerate(("/no", "/a"))]
    download(pa.Table.from_pylist(rows), tmp_path / "one", Download(size=16, policy=HERE, opted_out=kept), retry_failed=True)
    assert server.paths == []
    assert fetched(server, "/no", "/b", out=tmp_path / "two", policy=HERE, opted_out=kept)["/no"] == "opt-out"
    assert server.paths == ["/b"]


@pytest.mark.parametrize(("value", "seconds"), [("120", 120.0), (" 7 ", 7.0), ("soon", None), (None, None), ("-3", None)])
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (retry_after("Wed, 21 Oct 2099 07:28:00 GMT") or 0) > 1e9


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="memory are at least 1"):
        Download(memory=0)
