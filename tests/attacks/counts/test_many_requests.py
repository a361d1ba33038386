"""Three hundred requests that nobody should send: each gets an answer in JSON that is no fault of the service, which goes on as before."""

from __future__ import annotations

import base64
import io
import json
import socket
import statistics
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from ..conftest import repeated_scans, victim
from ..hostile import DIGITS, NESTED, png

TEXTS = (
    "", " ", "\0", "\ud7ff", "a" * 200_000, "\u202e\x1b[2J", "../../etc/passwd", "{{7*7}}", "' OR 1=1 --", "<script>x</script>",
    "\n" * 999,
)  # fmt: skip
PATHS = (
    "/", "/nowhere", "/v1/embeddings", "/search", "/embed/text", "/embed/image", "/items/u0", "/image/u0", "/info", "/healthz",
    "/readyz", "/metrics", "/items/..%2f..%2fetc%2fpasswd", "/page/..%2f..%2fapp.py", "/page/%00", "/items/%ff", "//",
    "/items/" + "a" * 3000, "/v1/embeddings/", "/openapi.json",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def pictures() -> Iterator[bytes]:
    yield from (
        b"",
        b"x",
        png()[:40],
        bomb(60_000, 60_000),
        bomb(2**31 - 1, 2**31 - 1),
        bomb(0, 0),
        repeated_scans((64, 64), 2_000),
    )
    yield from (b"<svg onload='x'/>", b"%PDF-1.7", b"GIF89a" + bytes(20), b"\xff\xd8\xff" + bytes(100), b"RIFF\0\0\0\0WEBPVP8 ")
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "TIFF")
    yield from (file.getvalue()[:size] for size in (8, 100, 400))


def bodies() -> Iterator[bytes]:
    """JSON and other bodies for routes that take one."""
    values = [None, True, 0, -1, 1e308, [], {}, [[]], [None], {"a": {}}, *TEXTS]
    for value in values:
        yield json.dumps({"input": value}).encode()
        yield json.dumps({"texts": value}).encode()
        yield json.dumps({"text": "a", "k": value}).encode()
        yield json.dumps(value).encode()
    yield from (
        NESTED.encode(),
        b'{"input": ' + DIGITS.encode() + b"}",
        b"{",
        b"\xff\xfe",
        b"NaN",
        b'{"input": "\\ud800"}',
        b"",
        b"a" * 100_000,
    )
    for picture in pictures():
        data = base64.b64encode(picture).decode()
        yield json.dumps({"input": [{"image": data}]}).encode()
        yield json.dumps({"images": [data]}).encode()
    yield json.dumps({"input": [{"image": "not base64 \u2603"}]}).encode()
    yield json.dumps({"input": [{"image": "file:///etc/passwd"}, {"image": "http://127.0.0.1:9/x"}]}).encode()
    yield json.dumps({"input": ["a"] * 5_000}).encode()


def requests() -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    for number, path in enumerate(PATHS):
        for method in METHODS[: 8 if number < 12 else 3]:
            yield method, path, {}, b""
    for body in bodies():
        for path in ("/v1/embeddings", "/search"):
            yield "POST", path, {"Content-Type": "application/json"}, body
    kinds = ("", "text/html", "application/x-pickle", "multipart/form-data", "application/json; charset=utf-7")
    odd_headers = [{"Content-Type": kind} for kind in kinds]
    odd_headers += [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Authorization": "Bearer x"}]
    odd_headers += [{"Content-Encoding": "gzip"}, {"X-Forwarded-For": "1.2.3.4"}, {"Range": "bytes=0-18446744073709551615"}]
    odd_headers += [{"Accept": "image/png"}, {"Cookie": "a" * 4000}]
    for headers in odd_headers:
        yield "POST", "/v1/embeddings", headers, b'{"input": "a"}'


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_requests(tmp_path: Path) -> None:
    with victim(tmp_path, rate=0) as service:
        before, statuses, times = service.memory("VmRSS"), Counter[int](), []
        made = list(requests())
        assert len(made) >= 300
        with httpx.Client(timeout=60) as client:
            for method, path, headers, body in made:
                request = client.build_request(method, "http://x/", headers=headers, content=body)
                request.url = httpx.URL(service.address.rstrip("/")).copy_with(raw_path=path.encode())
                if "Host" not in headers:
                    request.headers["Host"] = ":".join(map(str, service.place))
                begun = time.perf_counter()
                answer = client.send(request)
                times.append(time.perf_counter() - begun)
                statuses[answer.status_code] += 1
                assert answer.status_code < 500 or answer.status_code == 503, (method, path, body[:100], answer.text[:300])
                if answer.status_code >= 400 and method != "HEAD":
                    assert answer.json()["error"]["code"] == answer.status_code, (method, path, answer.text[:300])
                assert b"Traceback" not in answer.content
                assert b"root:x" not in answer.content
        assert service.process.poll() is None
        assert service.answers() < 5
        assert not any("traceback" in json.dumps(event).lower() for event in service.events)
        grown = (service.memory("VmRSS") - before) / 2**20
        assert grown < 400
        cuts = statistics.quantiles(times, n=100)
        counts = ", ".join(f"{code}: {count}" for code, count in sorted(statuses.items()))
        print(
            f"requests: {len(made)} ({counts}); p50 {1e3 * cuts[49]:.1f} ms, p99 {1e3 * cuts[98]:.1f} ms; memory {grown:+.0f} MiB"
        )
        length = b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"
        for junk in (b"\0" * 1000, b"GET / HTTP/9.9\r\n\r\n", length, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            with socket.create_connection(service.place, timeout=5) as line:
                line.sendall(junk)
                line.settimeout(10)
                assert line.recv(100).startswith(b"HTTP/1.1 ")
        assert service.answers() < 5
