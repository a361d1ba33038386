"""Every route on raw sockets: damaged requests are answered with less than 500 or hung up on, and the service goes on.

What schemathesis makes of the description of the routes is in tests/serve/test_openapi.py."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import strategies as st

from diptych.index.kinds.dense import DenseIndex
from diptych.serve import Limits, create_app
from diptych.serve.server import Server, listening_socket

from ..serve.conftest import COLOURS, Finder, Stub, Teller, a_pool, b64, encoded, flat
from .damage import Draw, damaged
from .fuzzing import BOTH, fuzz_case

LIMITS = Limits(body_bytes=200_000, image_pixels=10_000, inputs=4, text_characters=200, k=20, seconds=20, header_seconds=2, body_seconds=1,
                request_seconds=5)  # fmt: skip
PICTURE = {"image": b64(encoded(flat(COLOURS["red"])))}
BODIES = {
    "/search": {"text": "red", "k": 3, "where": {"style": "warm", "score": {"<=": 0.5}}, "distinct": 0.9, "like": ["red-1"]},
    "/v1/embeddings": {"input": ["red", PICTURE], "model": "stub/colours", "encoding_format": "float"},
    "/classify": {**PICTURE, "labels": ["red", "green"]},
    "/detect": {**PICTURE, "objects": ["thing"], "relations": ["beside"]},
    "/caption": {**PICTURE, "prompt": "what is it", "max_tokens": 3},
    "/ask": {"uid": "red-1", "question": "which?", "choices": ["red", "blue"]},
    "/v1/chat/completions": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "item:red-1"}}],
            }
        ],
        "stream": True,
        "stop": ["x"],
        "max_tokens": 4,
    },
    "/explain": {"uid": "red-1", "text": "red", "grid": 3},
}
TARGETS = ("/search?q=red&k=2", "/items/red-1", "/image/red-1?side=16", "/cloud/red-1",
           "/v1/models", "/healthz", "/readyz", "/info", "/metrics", "/",
           "/page/style.css", "/openapi.json")  # fmt: skip
ODD = (b"\0", b"%00", b"%ff", b"../", b"%2e%2e%2f", b"/" * 300, b"a" * 9000, b"?" * 50, b"%", b"\xff\xfe", b" ", b"\t", b"#", b"%0d%0a",
       b"http://other/", b"*", b"1" * 5000, b"\xe2\x80\xae", b"&k=1&k=2", b"=&=")  # fmt: skip
HEADERS = (
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 5, 6", b"Content-Length: +5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: \x0bchunked", b"Expect: 100-continue",
    b"Upgrade: websocket", b"Connection: keep-alive, close", b"Host: other", b"Host:", b": empty", b"no colon", b" folded: x", b"X: \0",
    b"X: " + b"a" * 9000, b"Authorization: Bearer \xff", b"Accept-Encoding: " + b"gzip," * 900, b"Range: bytes=0-,1-",
    b"Cookie: " + b"a=b;" * 900,
    b"Content-Type: text/plain", b"Content-Type: multipart/form-data; boundary=", b"Content-Encoding: gzip", b"Origin: null",
    b"X-Request-Id: \x1b[2J",
)  # fmt: skip


@contextmanager
def ours(folder: Path) -> Iterator[tuple[str, int]]:
    """The service with every route, behind its own server."""
    pool, stub = a_pool(), Stub()
    with DenseIndex.build(stub, pool.exclude(["rotten", "bare"]), folder / "index", progress=False) as index:
        server, line = (
            Server(create_app(stub, index, pool=pool, detector=Finder(), writer=Teller(), limits=LIMITS)),
            listening_socket("127.0.0.1", 0),
        )
        thread = threading.Thread(target=server.run, args=([line],), daemon=True)
        thread.start()
        try:
            yield line.getsockname()[:2]
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with ours(tmp_path_factory.mktemp("routes")) as found:
        yield found


def request(draw: Draw) -> bytes:
    """A whole request, in which one thing or another is wrong."""
    path = draw.draw(st.sampled_from([*BODIES, *TARGETS]), "path")
    content = json.dumps(BODIES.get(path, {})).encode() if path in BODIES else b""
    method, target = b"POST" if path in BODIES else b"GET", path.encode()
    head = [b"Host: localhost", b"Content-Type: application/json"] if content else [b"Host: localhost"]
    wrong = draw.draw(
        st.sets(st.sampled_from(["method", "target", "header", "body", "length", "bytes"]), min_size=1, max_size=2), "wrong"
    )
    if "method" in wrong:
        method = draw.draw(
            st.sampled_from([b"", b"get", b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE", b"CONNECT", b"A" * 900, b"G\0T"])
        )
    if "target" in wrong:
        odd, at = draw.draw(st.sampled_from(ODD), "odd"), draw.draw(st.integers(0, len(target)), "at")
        target = target[:at] + odd + target[at:]
    if "body" in wrong and content:
        content = damaged(draw, "body.json", content)
    if content or draw.draw(st.booleans()):
        off = draw.draw(st.sampled_from([-1, 1, 50, -len(content)]), "off") if "length" in wrong else 0
        head.append(b"Content-Length: %d" % (len(content) + off))
    if "header" in wrong:
        head += draw.draw(st.lists(st.sampled_from(HEADERS), min_size=1, max_size=3), "headers")
    whole = b"\r\n".join([b" ".join([method, target, b"HTTP/1.1"]), *head, b"Connection: close", b"", content])
    return damaged(draw, "request", whole) if "bytes" in wrong else whole


def asked(place: tuple[str, int], whole: bytes) -> bytes:
    """Everything that comes back until the other side hangs up; this side says that nothing more comes."""
    with socket.create_connection(place, timeout=15) as line:
        parts = []
        with suppress(ConnectionError):  # hung up on; a TimeoutError is neither an answer nor an end
            line.sendall(whole)
            with suppress(OSError):  # it may have hung up between the two
                line.shutdown(socket.SHUT_WR)
            while part := line.recv(65536):
                parts.append(part)
    return b"".join(parts)


@BOTH
def test_damaged_requests_break_nothing(cases: int, place: tuple[str, int]) -> None:
    def check(whole: bytes) -> None:
        answer = asked(place, whole)
        for status in re.findall(rb"^HTTP/1\.1 (\d+)", answer, re.MULTILINE):
            assert int(status) < 500, (whole[:2000], answer[:500])
        assert b"Traceback" not in answer

    fuzz_case(request, check, cases)
    with httpx.Client(base_url=f"http://{place[0]}:{place[1]}", timeout=10) as http:
        assert http.get("/healthz").status_code == 200
        assert http.post("/search", json={"text": "red", "k": 1}).json()["hits"][0]["uid"] == "red-1"
