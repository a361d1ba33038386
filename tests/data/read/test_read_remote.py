"""Folders in object storage, against moto's S3 server with errors, cut answers and slow ones: the same rows, within the cache's limit."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("moto")
s3fs = pytest.importorskip("s3fs")
from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

from diptych.core.disk import remote_folder  # noqa: E402
from diptych.core.disk.remote_folder import GIB, LIMIT, is_remote  # noqa: E402
from diptych.core.errors import ConfigError, DataError, RunError  # noqa: E402
from diptych.core.image import BytesImage  # noqa: E402
from diptych.core.sample import Sample, Text  # noqa: E402
from diptych.data.dataset import Pool  # noqa: E402
from diptych.data.load.shard_order import ShardOrder, remote_order  # noqa: E402
from diptych.data.read import read  # noqa: E402
from diptych.data.shards.build import build  # noqa: E402

SHARDS, ROWS = 6, 48
Answer = Any


@dataclass
class Storage:
    """moto behind a layer that counts GETs of shards and spoils some answers. spoil: given the number of a GET, what to do with it."""

    app: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    spoil: Callable[[int], str] = lambda number: ""
    gets: Counter[str] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __call__(self, environ: dict[str, Any], start: Any) -> Answer:
        path = environ["PATH_INFO"]
        fault = ""
        if environ["REQUEST_METHOD"] == "GET" and path.endswith(".tar"):
            self.gets[path] += 1
            fault = self.spoil(next(self.numbers))
        if fault == "error":
            start("503 Slow Down", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return [b""]
        if fault == "denied":
            start("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return [b""]
        if fault == "slow":
            time.sleep(0.4)
        if fault != "cut":
            return self.app(environ, start)
        kept: list[Any] = []
        body = b"".join(self.app(environ, lambda *words: kept.append(words)))
        headers = [(name, value) for name, value in kept[0][1] if name.lower() != "content-length"]
        start(kept[0][0], [*headers, ("Content-Length", str(len(body) // 2))])
        return [body[: len(body) // 2]]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    served = Storage()
    server = make_server("127.0.0.1", 0, served, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "DIPTYCH_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_folder, "FIRST_PAUSE", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/moto-api/reset", data=b"").close()
    s3fs.S3FileSystem().mkdir("bucket")
    yield served
    server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def build_pairs(folder: Path, seed: int = 0) -> Path:
    """Pictures of noise with captions, in shards."""
    rng, samples = np.random.default_rng(seed), []
    for number in range(ROWS):
        png = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(png, "PNG")
        samples.append(Sample(uid=f"pair {number}", image=BytesImage(png.getvalue()), texts=(Text(f"noise {number}"),)))
    build(Pool.from_samples(samples, name="pairs"), folder, shard_samples=ROWS // SHARDS)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pairs(tmp_path_factory.mktemp("built") / "pairs")


def upload(folder: Path, to: str = "bucket/pairs") -> str:
    s3fs.S3FileSystem().put(f"{folder}/", to, recursive=True)
    return f"s3://{to}"


def images(pool: Pool) -> list[bytes]:
    sources = [pool.image_table.source(row) for row in range(len(pool))]
    return [source.read() for source in sources if source is not None]


def held_bytes(tmp_path: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").rglob("*.tar"))


def test_rows_are_those_of_the_local_folder(storage: Storage, built: Path, tmp_path: Path) -> None:
    local, remote = read(built), read(upload(built))
    assert not storage.gets, "opening fetches no shard"
    assert held_bytes(tmp_path) == 0
    assert remote.fingerprint == local.fingerprint
    assert list(remote.column("uid")) == list(local.column("uid"))
    assert images(remote) == images(local)
    assert len(storage.gets) == SHARDS
    assert set(storage.gets.values()) == {1}
    assert images(read("s3://bucket/pairs")) == images(local)
    assert set(storage.gets.values()) == {1}, "a second opening finds them in the cache"


def test_faults_of_the_storage_change_nothing(storage: Storage, built: Path) -> None:
    remote = read(upload(built))
    storage.spoil = lambda number: ("error", "cut", "slow", "")[number % 4]
    assert images(remote) == images(read(built))
    assert sum(storage.gets.values()) > SHARDS, "some answers were faulty"
    assert not remote.quarantine


def test_a_storage_that_stays_away_ends_in_one_line(storage: Storage, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = read(upload(built))
    storage.spoil = lambda number: "error"
    with pytest.raises(RunError, match=r"^s3://bucket/pairs/shards/.*\.tar could not be fetched in 6 tries \(.*\)") as caught:
        images(remote)
    assert len(str(caught.value).splitlines()) == 1
    storage.spoil = lambda number: "denied"
    with pytest.raises(DataError, match=r"^s3://bucket/pairs/shards/.*\.tar: may not be read \(expected credentials") as denied:
        images(remote)
    assert len(str(denied.value).splitlines()) == 1
    storage.spoil = lambda number: ""
    assert images(remote) == images(read(built)), "once it answers, the same pool goes on"


def test_the_cache_stays_below_its_limit(storage: Storage, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(path.stat().st_size for path in built.rglob("*.tar"))
    limit = int(2.5 * largest)
    monkeypatch.setenv(LIMIT, str(limit / GIB))
    remote, local = read(upload(built)), read(built)
    expected = images(local)
    order = ShardOrder(remote.image_table.file_N, window=2)
    for epoch in range(2):
        before = sum(storage.gets.values())
        rows = order(0, epoch, ROWS).tolist()
        assert sorted(rows) == list(range(ROWS))
        for row in rows:
            assert remote.image_table.source(row).read() == expected[row]
            assert held_bytes(tmp_path) <= limit
        assert sum(storage.gets.values()) - before <= SHARDS, "each shard is fetched once an epoch at most"
    monkeypatch.setenv(LIMIT, str(largest / 2 / GIB))
    with pytest.raises(RunError, match=r"does not fit into .* GiB: raise DIPTYCH_REMOTE_CACHE_GIB"):
        images(remote)


def test_the_order_mixes_rows_of_a_few_shards() -> None:
    file_N = np.repeat(np.arange(10, dtype=np.int32), 30)
    rows = ShardOrder(file_N, window=3)(7, 1, 300)
    assert np.array_equal(rows, ShardOrder(file_N, window=3)(7, 1, 300)), "a function of seed and epoch"
    assert sorted(rows.tolist()) == list(range(300))
    assert [len(set(file_N[rows[start : start + 90]])) for start in range(0, 270, 90)] == [3, 3, 3]
    assert len(set(file_N[rows[:20]])) == 3, "mixed from the first rows on"
    other = ShardOrder(file_N, window=3)(7, 2, 300)
    assert set(file_N[other[:90]].tolist()) != set(file_N[rows[:90]].tolist()), "other shards together in each epoch"


def test_only_remote_data_are_read_shard_by_shard(storage: Storage, built: Path) -> None:
    remote = read(upload(built))
    assert remote_order(read(built)) is None
    assert remote_order(remote) is not None
    some = remote.select(np.arange(0, ROWS, 3))
    order = remote_order(some)
    assert order is not None
    assert sorted(order(0, 0, len(some)).tolist()) == list(range(len(some)))


def test_what_changed_is_fetched_again(storage: Storage, built: Path, tmp_path: Path) -> None:
    address = upload(built)
    images(read(address))
    other = build_pairs(tmp_path / "other", seed=1)
    upload(other)
    assert images(read(address)) == images(read(other))


def test_foreign_tars(storage: Storage, built: Path, tmp_path: Path) -> None:
    tars = built / "shards"
    remote = read(upload(tars, "bucket/tars"))
    assert sorted(images(remote)) == sorted(images(read(tars)))
    assert set(storage.gets.values()) == {1}


def test_faulty_addresses_cost_one_line(storage: Storage, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = upload(built)
    monkeypatch.setenv(LIMIT, "1e9")
    with pytest.raises(ConfigError, match=r"DIPTYCH_REMOTE_CACHE_GIB is 1e9, and the disk of .* has room for .* GiB"):
        read(address)
    monkeypatch.setenv(LIMIT, "many")
    with pytest.raises(ConfigError, match="is 'many' \\(expected a number of GiB above 0\\)"):
        read(address)
    monkeypatch.delenv(LIMIT)
    with pytest.raises(DataError, match="does not exist"):
        read("s3://bucket/nothing")
    listing = {"files": {"../../secrets.tar": {"size": 3}}}
    s3fs.S3FileSystem().pipe("bucket/evil/files.json", json.dumps(listing).encode())
    with pytest.raises(DataError, match=r"lists the file '\.\./\.\./secrets\.tar'"):
        read("s3://bucket/evil")

    def forbidden(*words: object, **options: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(s3fs.S3FileSystem, "find", forbidden)
    with pytest.raises(DataError, match=r"s3://bucket/pairs.*may not be read") as caught:
        read(address)
    assert len(str(caught.value).splitlines()) == 1


def test_an_index_beside_the_shards_replaces_the_list(storage: Storage, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = upload(built)
    files = {path.relative_to(built).as_posix(): {"size": path.stat().st_size} for path in built.rglob("*") if path.is_file()}
    s3fs.S3FileSystem().pipe("bucket/pairs/files.json", json.dumps({"files": files}).encode())
    monkeypatch.setattr(s3fs.S3FileSystem, "find", lambda *words, **options: pytest.fail("the storage was asked for its list"))
    remote = read(address)
    assert images(remote) == images(read(built))
    assert is_remote(remote.image_table.files[0])
