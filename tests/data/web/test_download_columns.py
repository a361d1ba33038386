"""What travels with a download: every column of the links, statistics, further links; pictures within a memory budget, in processes."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet
from diptych.data.read import read
from diptych.data.web import picture_sizing
from diptych.data.web.download import Download, download, resized
from diptych.data.web.polite_http import FetchPolicy

HERE = FetchPolicy(timeout=20, allow_private=True)


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (20, 90, 200)).save(file, "JPEG")
    return file.getvalue()


class Site(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        found = not self.path.startswith(("/robots", "/.well-known"))
        body = jpeg(40, 20) if found else b""
        if found:
            self.asked.append(self.path)
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def links(site: str, *numbers: int) -> pa.Table:
    return pa.table(
        {
            "uid": [f"u{n}" for n in numbers],
            "url": [f"{site}/{n}" for n in numbers],
            "text": [f"text {n}" for n in numbers],
            "licence": [f"cc{n}" for n in numbers],
            "clip_score": [n / 4 for n in numbers],
            "tags": [[f"t{n}"] for n in numbers],
            "width": list(numbers),
        }
    )


def test_every_column_travels_into_tar_table_and_pool(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(links(site, 1, 2, 3), tmp_path / "links.parquet")
    out = tmp_path / "out"
    words = ["data", "download", str(tmp_path / "links.parquet"), str(out), "--size", "16", "--allow-private", "--encode", "webp"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["succeeded"] == 3
    table = read_parquet(out / "00000.parquet")
    assert table["clip_score"].to_pylist() == [0.25, 0.5, 0.75]
    assert table["licence"].to_pylist() == ["cc1", "cc2", "cc3"]
    assert table["link_width"].to_pylist() == [1, 2, 3]  # `width` is that of the picture
    assert table["width"].to_pylist() == [16, 16, 16]
    with tarfile.open(out / "00000.tar") as tar:
        record = json.loads(tar.extractfile("000000001.json").read())  # type: ignore[union-attr]
        assert (record["licence"], record["clip_score"]) == ("cc2", 0.5)
        assert Image.open(io.BytesIO(tar.extractfile("000000001.webp").read())).format == "WEBP"  # type: ignore[union-attr]
    pool = read(out)
    assert pool.column("clip_score") == [0.25, 0.5, 0.75]
    assert [sample.licence for sample in pool] == ["cc1", "cc2", "cc3"]
    assert main(["data", "build", str(out), str(tmp_path / "built")]) == 0
    built = read(tmp_path / "built")
    assert built.column("licence") == ["cc1", "cc2", "cc3"]
    assert built.column("clip_score") == [0.25, 0.5, 0.75]


def test_statistics_of_a_shard(site: str, tmp_path: Path) -> None:
    table = pa.concat_tables([links(site, 1, 2), links("ftp://nowhere", 3)])
    download(table, tmp_path, Download(size=16, policy=HERE))
    kept = json.loads((tmp_path / "00000_stats.json").read_text())
    assert (kept["count"], kept["successes"], kept["failed_to_download"]) == (3, 2, 1)
    assert kept["status_dict"] == {"success": 2, "address": 1}
    assert kept["bytes"] > 0
    assert read(tmp_path).column("uid") == ["u1", "u2"]


def test_further_links_come_as_further_shards(site: str, tmp_path: Path) -> None:
    options = Download(size=16, shard_links=2, policy=HERE)
    download(links(site, 1, 2, 3), tmp_path, options)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("0*.tar")}
    Site.asked.clear()
    more = links(site, 2, 3, 4, 5, 6)
    with pytest.raises(DataError, match="or --add"):
        download(more, tmp_path, options)
    report = download(more, tmp_path, options, add=True)
    assert sorted(Site.asked) == ["/4", "/5", "/6"]
    assert (report.links, report.tried) == (6, 3)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert read(tmp_path).column("uid") == [f"u{n}" for n in range(1, 7)]
    (tmp_path / "00003.parquet").unlink()  # killed before its end
    Site.asked.clear()
    assert download(more, tmp_path, options, add=True).links == 6
    assert Site.asked == ["/6"]
    assert download(links(site, 1, 2, 3), tmp_path, options).tried == 0  # the links that it began with
    (tmp_path / "00000.parquet").unlink()
    with pytest.raises(DataError, match="has 3 of 4 shards of its earlier links"):
        download(links(site, 9), tmp_path, options, add=True)


def test_other_processes_make_the_same_bytes(site: str, tmp_path: Path) -> None:
    one = Download(size=16, policy=HERE)
    download(links(site, 1, 2, 3), tmp_path / "a", one)
    download(links(site, 1, 2, 3), tmp_path / "b", Download(size=16, policy=HERE, processes=2))
    assert (tmp_path / "a" / "00000.tar").read_bytes() == (tmp_path / "b" / "00000.tar").read_bytes()


def test_large_pictures_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these asks for 8 bytes a pixel, more than half of the budget: never two at once."""
    data, options = jpeg(400, 300), Download(size=16, memory=1)
    now, most, lock = 0, 0, threading.Lock()
    whole = picture_sizing.decode

    def decode(*given: object, **named: object) -> object:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.05)
        pixels = whole(*given, **named)  # type: ignore[arg-type]
        with lock:
            now -= 1
        return pixels

    monkeypatch.setattr(picture_sizing, "decode", decode)
    threads = [threading.Thread(target=resized, args=(data, options)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_jpeg_has_the_pixels_that_pil_gives_it() -> None:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (31, 47, 3), np.uint8)).save(file, "JPEG", quality=80)
    data, _ = resized(file.getvalue(), Download(resize="no", encode="png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(io.BytesIO(file.getvalue()))))
