"""Downloading from a server on this machine: what is honoured, what is refused, what a second run asks for."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, DecodeError, RunError
from diptych.data.columns import read_parquet
from diptych.data.read import read
from diptych.data.web import download as download_module
from diptych.data.web import download_shard
from diptych.data.web.download import Download, download, resized
from diptych.data.web.polite_http import FetchError, FetchPolicy, fetch_image, opted_out, public_address


def picture(width: int = 40, height: int = 20, number: int = 0, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def bomb() -> bytes:
    """A PNG whose header declares 100,000 x 100,000 pixels."""
    data = bytearray(picture())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


class Site(BaseHTTPRequestHandler):
    asked: Counter[str] = Counter()
    repaired: set[str] = set()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/robots.txt", "/.well-known/tdmrep.json"):
            self.send_error(404)
            return
        self.asked[path] += 1
        headers, status, body = {}, 200, picture(number=len(path))
        if path == "/noai":
            headers["X-Robots-Tag"] = "noindex, NoAI"
        elif path == "/noai-for-another":
            headers["X-Robots-Tag"] = "otherbot: noai"
        elif path.startswith("/flaky") and path not in self.repaired:
            status = 503
        elif path == "/moved":
            status, headers["Location"] = 302, "/there"
        elif path == "/to-private":
            status, headers["Location"] = 302, "http://10.0.0.1/x.png"
        elif path == "/to-file":
            status, headers["Location"] = 302, "file:///etc/passwd"
        elif path == "/circle":
            status, headers["Location"] = 302, "/circle"
        elif path == "/text":
            body = b"<html>not an image</html>"
        elif path == "/bomb":
            body = bomb()
        elif path == "/short":
            headers["Content-Length"] = str(len(body) + 50)
        elif path == "/huge":
            body = b"x" * 300_000
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked.clear()
    Site.repaired.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


HERE = FetchPolicy(timeout=5, max_bytes=200_000, allow_private=True)


def links(site: str, *paths: str) -> pa.Table:
    rows = [
        {"uid": f"u{n:03}", "url": path if "://" in path else site + path, "text": f"text {n}"} for n, path in enumerate(paths)
    ]
    return pa.Table.from_pylist(rows)


def statuses(out: Path) -> dict[str, tuple[str, str | None]]:
    rows = [
        row
        for path in sorted(out.glob("*.parquet"))
        if not path.name.endswith(".idx.parquet")
        for row in read_parquet(path).to_pylist()
    ]
    return {row["uid"]: (row["status"], row["error_kind"]) for row in rows}


def test_every_failure_is_a_row_with_its_kind(site: str, tmp_path: Path) -> None:
    wanted = [
        "/a",
        "/noai",
        "/noai-for-another",
        "/missing-flaky",
        "/flaky",
        "/moved",
        "/to-file",
        "/circle",
        "/text",
    ]
    wanted += ["/bomb", "/short", "/huge", "ftp://x/y", "http://no-such-name.invalid/a"]
    report = download(links(site, *wanted), tmp_path / "out", Download(size=16, threads=4, policy=HERE))
    kinds = {wanted[int(uid[1:])]: kind for uid, (_, kind) in statuses(tmp_path / "out").items()}
    assert kinds == {
        "/a": None, "/noai": "opt-out", "/noai-for-another": None, "/missing-flaky": None, "/flaky": "http 503", "/moved": None,
        "/to-file": "address", "/circle": "redirects", "/text": "image", "/bomb": "image",
        "/short": "connection", "/huge": "size", "ftp://x/y": "address", "http://no-such-name.invalid/a": "dns",
    }  # fmt: skip
    assert (report.links, report.succeeded, report.tried) == (14, 4, 14)
    assert statuses(tmp_path / "out")["u009"][0] == "failed_to_resize"
    messages = [row["error_message"] or "" for row in read_parquet(tmp_path / "out" / "00000.parquet").to_pylist()]
    assert all("\n" not in message for message in messages)
    assert "100,000" in messages[9] or "100000" in messages[9]


def test_the_layout_is_img2datasets_and_reads_back(site: str, tmp_path: Path) -> None:
    download(links(site, "/a", "/noai", "/b", "/c"), tmp_path, Download(size=16, shard_links=3, policy=HERE))
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["00000.tar", "00001.tar"]
    pool = read(tmp_path)
    assert [sample.texts[0].string for sample in pool] == ["text 0", "text 2", "text 3"]
    import tarfile

    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames() == [
            f"0000000{n}.{kind}".replace("0000000", "00000000") for n in (0, 2) for kind in ("jpg", "txt", "json")
        ]
        record = json.loads(tar.extractfile("000000000.json").read())
        assert record["sha256"] == hashlib.sha256(tar.extractfile("000000000.jpg").read()).hexdigest()
    assert (record["uid"], record["original_width"], record["width"], record["height"]) == ("u000", 40, 16, 16)


def test_a_second_run_asks_nothing_and_retry_asks_the_failed_alone(site: str, tmp_path: Path) -> None:
    table, options = links(site, "/a", "/flaky1", "/b", "/flaky2"), Download(size=16, policy=HERE)
    assert download(table, tmp_path, options).succeeded == 2
    assert download(table, tmp_path, options).tried == 0
    before = read(tmp_path)[0].image.read()
    Site.repaired.add("/flaky2")
    report = download(table, tmp_path, options, retry_failed=True)
    assert (report.tried, report.succeeded) == (2, 3)
    assert Site.asked == {"/a": 1, "/b": 1, "/flaky1": 2, "/flaky2": 2}
    pool = read(tmp_path)
    assert [sample.texts[0].string for sample in pool] == ["text 0", "text 2", "text 3"]
    assert pool[0].image.read() == before, "what was there is stored as it was"


def test_a_killed_run_goes_on_with_whole_shards(site: str, tmp_path: Path) -> None:
    table, options = links(site, *(f"/x{n}" for n in range(6))), Download(size=16, shard_links=2, threads=1, policy=HERE)
    download(table, tmp_path, options)
    Site.asked.clear()
    (tmp_path / "00001.parquet").unlink()  # as after a kill between the tar and its mark
    (tmp_path / "00001.tar").write_bytes(b"half a tar")
    assert download(table, tmp_path, options).succeeded == 6
    assert set(Site.asked) == {"/x2", "/x3"}


def test_retries_on_the_spot(site: str, tmp_path: Path) -> None:
    download(links(site, "/flaky", "/noai"), tmp_path, Download(retries=2, policy=HERE))
    assert Site.asked == {"/flaky": 3, "/noai": 1}


def test_private_addresses_are_refused_also_behind_a_name(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = FetchPolicy(timeout=2)
    for url in (
        f"{site}/a",
        "http://localhost/x",
        "http://[::1]/x",
        "http://169.254.169.254/latest",
        "http://0.0.0.0/x",
        "http://192.168.1.1/",
    ):
        with pytest.raises(FetchError) as raised:
            fetch_image(url, policy)
        assert raised.value.kind == "private", url
    assert not Site.asked
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 80)) for number in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answers)
    with pytest.raises(FetchError, match=r"is 127\.0\.0\.1, which is not public"):
        public_address("two.example", 80, policy)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::ffff:10.0.0.1", 80, 0, 0))]
    )
    with pytest.raises(FetchError, match="not public"):
        public_address("mapped.example", 80, policy)


def test_a_redirect_into_a_private_network_is_refused(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_this_server(host: str, port: int, policy: FetchPolicy) -> str:
        return host if f"{host}:{port}" == site.removeprefix("http://") else public_address(host, port, policy)

    monkeypatch.setattr("diptych.data.web.polite_http.public_address", only_this_server)
    assert fetch_image(f"{site}/moved", FetchPolicy())
    with pytest.raises(FetchError, match=r"10\.0\.0\.1, which is not public"):
        fetch_image(f"{site}/to-private", FetchPolicy())


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (["noai"], "noai"),
        (["all", "NoImageIndex"], "noimageindex"),
        (["diptych: noimageai"], "noimageai"),
        (["googlebot: noai"], ""),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"], "noindex"),
        (["nofollow"], ""),
        ([], ""),
    ],
)
def test_opt_outs(tags: list[str], says: str) -> None:
    assert opted_out(tags, FetchPolicy()) == says


@pytest.mark.parametrize(
    ("mode", "width", "height"),
    [("border", 16, 16), ("keep_ratio", 32, 16), ("keep_ratio_largest", 16, 8), ("center_crop", 16, 16), ("no", 40, 20)],
)
def test_sizes(mode: str, width: int, height: int) -> None:
    data, facts = resized(picture(), Download(size=16, resize=mode))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, image.format) == ((width, height), "JPEG")
    assert (facts["width"], facts["height"], facts["original_width"], facts["original_height"]) == (width, height, 40, 20)


def test_a_border_is_white_and_the_picture_whole() -> None:
    red = io.BytesIO()
    Image.new("RGB", (40, 20), (200, 0, 0)).save(red, "PNG")
    data, _ = resized(red.getvalue(), Download(size=16))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert (pixels[0].min(), pixels[-1].min()) > (240, 240)
    assert abs(pixels[8, 0] - (200, 0, 0)).max() < 20


def test_limits_of_an_image() -> None:
    with pytest.raises(DecodeError, match="short side of at least 30"):
        resized(picture(), Download(min_side=30))
    with pytest.raises(DecodeError, match=r"at most 1:1\.5"):
        resized(picture(), Download(max_aspect=1.5))
    assert resized(picture(), Download(size=64, only_if_bigger=True))[1]["width"] in (40, 64)
    with pytest.raises(ConfigError, match=r"quality 1\.\.100"):
        Download(quality=0)
    with pytest.raises(ConfigError, match="at most 10,000"):
        Download(shard_links=20_000)


def test_a_resolver_that_is_down_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", down)  # a real one keeps each name waiting for seconds
    table = links("", *(f"http://nowhere{n}.invalid/x" for n in range(60)))
    with pytest.raises(RunError, match=r"5\d of 5\d names could not be looked up.*run the same command again"):
        download(table, tmp_path, Download(threads=8))


def test_other_links_in_the_same_folder_are_refused(site: str, tmp_path: Path) -> None:
    download(links(site, "/a"), tmp_path / "o", Download(policy=HERE))
    with pytest.raises(DataError, match="holds the images of other links"):
        download(links(site, "/b"), tmp_path / "o", Download(policy=HERE))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        download(links(site, "/a"), tmp_path / "full", Download(policy=HERE))
    with pytest.raises(DataError, match="no column 'text'"):
        download(links(site, "/a").drop_columns(["text"]), tmp_path / "p", Download(policy=HERE))


def test_the_command(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(links(site, "/a", "/noai"), tmp_path / "links.parquet")
    command = ["data", "download", str(tmp_path / "links.parquet"), str(tmp_path / "out"), "--size", "16"]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["links"], facts["succeeded"], facts["errors"]) == (2, 0, {"private": 2})
    assert main([*command, "--retry-failed"]) == 0
    assert "2  private" in (said := capsys.readouterr().out)
    assert "--allow-private asks them" in said
    assert main([*command, "--retry-failed", "--allow-private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == {"opt-out": 1}


def test_a_bar_counts_shards_and_every_link(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, list[int]] = {}

    def with_bar(steps: Any, total: int, what: str, *, least: int = 1) -> Iterator[Any]:
        counts = counted.setdefault(what, [])
        counts += [total, 0]
        at = len(counts) - 1
        for step in steps:
            counts[at] += 1
            yield step

    for module in (download_module, download_shard):
        monkeypatch.setattr(module, "with_bar", with_bar)
    download(links(site, "/a", "/text", "/b"), tmp_path / "out", Download(threads=2, shard_links=2, policy=HERE))
    assert counted == {"shards": [2, 2], "links": [2, 2, 1, 1]}
