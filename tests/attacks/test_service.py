"""What sockets can do to the service without a token: say nothing, say it slowly, never listen, come in hundreds."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from diptych.core.errors import ConfigError
from diptych.serve import Limits
from diptych.serve.admission.connections import client_network, raise_open_file_limit

from .conftest import Victim, victim

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMITS = {
    "connections": 100,
    "client_connections": 90,
    "header_seconds": 1.5,
    "idle_seconds": 2,
    "request_seconds": 3,
    "body_seconds": 2,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with victim(tmp_path_factory.mktemp("victim"), **LIMITS) as started:
        yield started


def closed(line: socket.socket, seconds: float) -> bool:
    """Whether the other side closes within that time; what it still says is read."""
    line.settimeout(seconds)
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def answered(line: socket.socket) -> bytes:
    """One whole answer."""
    line.settimeout(5)
    found, missing = b"", 1
    while missing > 0:
        part = line.recv(65536)
        assert part, found
        found += part
        head, end, body = found.partition(b"\r\n\r\n")
        missing = int(re.findall(rb"content-length: (\d+)", head.lower())[0]) - len(body) if end else 1
    return found


def test_three_hundred_heads_that_never_end(service: Victim) -> None:
    with ExitStack() as open_lines:
        lines = []
        for _ in range(300):
            line = open_lines.enter_context(socket.create_connection(service.place, timeout=5))
            line.sendall(HALF)
            lines.append(line)
        time.sleep(0.5)
        assert service.answers() < 3.0  # while all of them are there
        assert service.descriptors < 250
        end = time.monotonic() + LIMITS["header_seconds"] + 2
        while time.monotonic() < end - 1.5:  # a byte now and then buys no time
            for line in lines:
                with suppress(OSError):
                    line.sendall(b"x")
            time.sleep(0.2)
        assert all(closed(line, max(0.1, end - time.monotonic())) for line in lines)
    assert service.descriptors < 60
    assert service.count('diptych_refused_total{reason="connections"}') >= 200
    assert service.count('diptych_refused_total{reason="head"}') >= 50
    assert service.log.stat().st_size < 20_000
    assert service.process.poll() is None


def test_sockets_that_say_nothing_at_all(service: Victim) -> None:
    with ExitStack() as open_lines:
        lines = [open_lines.enter_context(socket.create_connection(service.place, timeout=5)) for _ in range(80)]
        assert service.answers() < 3.0
        end = time.monotonic() + LIMITS["header_seconds"] + 1.5
        assert all(closed(line, max(0.1, end - time.monotonic())) for line in lines)


def test_a_head_that_starts_on_a_connection_kept_alive_has_a_deadline_too(service: Victim) -> None:
    with socket.create_connection(service.place, timeout=5) as line:
        for _ in range(2):
            line.sendall(WHOLE)
            assert answered(line).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        line.sendall(HALF)
        assert closed(line, 5)
        assert 1.0 < time.monotonic() - begun < 3.5


def test_an_idle_connection_is_closed_and_a_used_one_is_not(service: Victim) -> None:
    with socket.create_connection(service.place, timeout=5) as line:
        for _ in range(4):
            line.sendall(WHOLE)
            assert answered(line).startswith(b"HTTP/1.1 200")
            time.sleep(1.0)  # four seconds in all, never two at once
        begun = time.monotonic()
        assert closed(line, 5)
        assert time.monotonic() - begun < 3.5


def test_a_client_that_never_reads_is_let_go(service: Victim) -> None:
    with socket.create_connection(service.place, timeout=5) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(0.5)
        with suppress(OSError):
            while True:  # until every buffer on the way is full of answers
                line.sendall(b"GET /page/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert service.answers() < 3.0
        time.sleep(LIMITS["request_seconds"] + 1.0)
        with pytest.raises(OSError):  # it was reset, rather than closed with all answers still to come
            line.sendall(b"x")
    assert service.count('diptych_refused_total{reason="request"}') >= 1


def test_a_body_that_goes_on_after_its_answer_has_a_deadline(service: Victim) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(service.place, timeout=5) as line:
        line.sendall(head)
        assert answered(line).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        while time.monotonic() < begun + 9:
            try:
                line.sendall(b"x")
            except OSError:
                break
            time.sleep(0.2)
        assert time.monotonic() - begun < 7


def test_a_request_under_way_is_never_pushed_out(service: Victim) -> None:
    """Its body is still coming when hundreds of others want in."""
    body = b'{"input": "a"}'
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as open_lines, socket.create_connection(service.place, timeout=5) as honest:
        honest.sendall(head % len(body) + body[:5])
        for _ in range(3):
            time.sleep(0.4)  # the heads before are old enough to be pushed out
            for _ in range(120):
                open_lines.enter_context(socket.create_connection(service.place, timeout=5)).sendall(HALF)
        honest.sendall(body[5:])
        assert answered(honest).startswith(b"HTTP/1.1 200")


def test_the_log_does_not_grow_with_what_comes_in(service: Victim) -> None:
    before = service.log.stat().st_size
    for number in range(300):
        with socket.create_connection(service.place, timeout=5) as line:
            line.sendall(b"\x16\x03\x01 nonsense %d " % number + b"z" * 200 + b"\r\n\r\n")
            closed(line, 2)
    with socket.create_connection(service.place, timeout=5) as line:
        line.sendall(b"GET /" + b"a" * 15_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answered(line)
    assert service.log.stat().st_size - before < 6_000
    assert max(map(len, service.log.read_text().splitlines())) < 500
    assert {"event", "time", "level"} <= set.intersection(*(set(event) for event in service.events))


def test_a_connection_too_many_is_told_so(service: Victim) -> None:
    time.sleep(0.5)
    with ExitStack() as open_lines:
        lines = [
            open_lines.enter_context(socket.create_connection(service.place, timeout=5))
            for _ in range(int(LIMITS["client_connections"]))
        ]
        for line in lines:  # none of them only waits for a head
            line.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.3)
        with socket.create_connection(service.place, timeout=5) as line:
            refused = answered(line)
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in refused.lower()
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == 503


def test_a_client_is_an_address_or_a_network_of_ipv6() -> None:
    assert client_network("192.0.2.7") == "192.0.2.7"
    assert client_network("2001:db8:1:2:3:4:5:6") == client_network("2001:db8:1:2::1") != client_network("2001:db8:1:3::1")
    assert client_network("::ffff:192.0.2.7") == "192.0.2.7"
    assert client_network("fe80::1%eth0") == client_network("fe80::2")


def test_more_connections_than_descriptors_are_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, value: set_to.append(value))
    raise_open_file_limit(Limits())
    assert set_to == [(768, 1024)]
    with pytest.raises(ConfigError, match="at most 768"):
        raise_open_file_limit(Limits(connections=2000))


# ---------------------------------------------------------------- answers that reach the client


def whole_answer(line: socket.socket) -> bytes:
    """Everything until the other side closes; a reset is an error."""
    line.settimeout(10)
    parts = []
    while part := line.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("length", [70_000, 3_000_000])
def test_a_long_address_gets_its_answer(service: Victim, length: int) -> None:
    with socket.create_connection(service.place, timeout=5) as line:
        line.sendall(b"GET /" + b"a" * length + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = whole_answer(line).partition(b"\r\n\r\n")
    status = int(head[9:12])
    assert status == 431 or (status == 404 and length < 100_000)  # what came in one piece is read whole
    assert json.loads(body)["error"]["code"] == status
    with socket.create_connection(service.place, timeout=5) as line:
        line.sendall(b"\x16\x03\x01 no http\r\n\r\n" + b"x" * length)
        assert whole_answer(line).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_gets_its_answer_though_all_of_it_is_sent(service: Victim, declared: bool) -> None:
    size = Limits().body_bytes + 4_000_000
    head = b"POST /embed/text HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(service.place, timeout=10) as line:
        line.sendall(head + (b"Content-Length: %d\r\n\r\n" % size if declared else b"Transfer-Encoding: chunked\r\n\r\n"))
        piece = b" " * 1_000_000
        for _ in range(size // len(piece)):
            line.sendall(piece if declared else b"%x\r\n%s\r\n" % (len(piece), piece))
        assert whole_answer(line).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_before_it_sends_is_told_at_once(service: Victim) -> None:
    head = b"POST /embed/text HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
    with socket.create_connection(service.place, timeout=5) as line:
        line.sendall(head + b"Content-Length: 10000000000\r\n\r\n")
        began = time.monotonic()
        assert whole_answer(line).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - began < 1.5
    body = b'{"texts": ["a"]}'
    with socket.create_connection(service.place, timeout=5) as line:
        line.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        line.settimeout(5)
        assert line.recv(65536).startswith(b"HTTP/1.1 100 ")
        line.sendall(body)
        assert line.recv(65536).startswith(b"HTTP/1.1 ")
