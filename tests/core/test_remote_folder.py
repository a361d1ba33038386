"""Listings of a stranger's storage: names that lead out of the cache, sizes that fill the disk, marks of folders."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from diptych.core.disk import remote_folder
from diptych.core.disk.remote_folder import GIB, LIMIT, fetch_ahead, is_remote, open_fetched, open_remote
from diptych.core.errors import DataError, RunError

ADDRESS = "memory://bucket"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_folder, "FIRST_PAUSE", 0.001)
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def read(path: Path) -> bytes:
    with os.fdopen(open_fetched(path, os.O_RDONLY), "rb") as file:
        return file.read()


def has_content(path: Path) -> bool:
    return bool(path.read_bytes().strip(b"\0"))


OUTSIDE = ["../out.tar", "/etc/out.tar", "a/../../out.tar", "a\\out.tar", "a\0.tar", "", ".", "a//b.tar", "./a.tar", "a"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_elsewhere_are_refused(storage: MemoryFileSystem, name: str) -> None:
    files = {name: {"size": 3}, "a/b.txt": {"size": 3}}
    storage.pipe("/bucket/files.json", json.dumps({"files": files}).encode())
    with pytest.raises(DataError, match="lists the file"):
        open_remote(ADDRESS)


SIZES = [(-1, "-1 bytes"), (2**62, "4,611,686,018,427,387,904 bytes"), ("many", "cannot be listed")]


@pytest.mark.parametrize(("size", "message"), SIZES)
def test_sizes_that_no_file_has_are_refused(storage: MemoryFileSystem, size: Any, message: str) -> None:
    storage.pipe("/bucket/files.json", json.dumps({"files": {"a.tar": {"size": size}}}).encode())
    with pytest.raises(DataError, match=message):
        open_remote(ADDRESS)


@pytest.mark.parametrize("text", ["[]", '{"files": ["a.tar"]}', "[" * 5000, '{"files": {"a.tar": {"size": 1e400}}}'])
def test_a_listing_that_is_none(storage: MemoryFileSystem, text: str) -> None:
    storage.pipe("/bucket/files.json", text.encode())
    with pytest.raises(DataError, match="cannot be listed") as caught:
        open_remote(ADDRESS)
    assert len(str(caught.value).splitlines()) == 1


def test_listings_and_small_files_are_bounded(storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.pipe("/bucket/files.json", json.dumps({"files": {"a.bin": {"size": 2**42}}}).encode())
    with pytest.raises(DataError, match=r"has 4,?096\.0 GiB beside its shards, and .* has room for"):
        open_remote(ADDRESS)
    monkeypatch.setattr(remote_folder, "LONGEST_LISTING", 10)
    with pytest.raises(DataError, match=r"cannot be listed: files\.json has more than"):
        open_remote(ADDRESS)


def test_an_answer_without_end_is_cut(storage: MemoryFileSystem) -> None:
    storage.pipe("/bucket/a.tar", bytes(3_000_000))
    storage.pipe("/bucket/files.json", json.dumps({"files": {"a.tar": {"size": 1000}}}).encode())
    path = open_remote(ADDRESS) / "a.tar"
    with pytest.raises(RunError, match="more than 1,000 bytes came"):
        read(path)
    assert [file.name for file in path.parent.iterdir()] == ["a.tar"], "and nothing of it stays"


def test_making_room_leaves_files_beyond_the_folder(storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may hold "%2F" itself, which was a way out when its shard made room for another."""
    outside = "..%2F" * 4 + "precious.tar"
    names = {outside: b"x" * 700, "a/b.tar": b"y" * 700, "a%2Fb.tar": b"z" * 700}
    for name, content in names.items():
        storage.pipe(f"/bucket/{name}", content)
    folder = open_remote(ADDRESS)
    precious = (folder / "../../../../precious.tar").resolve()
    precious.write_text("mine")
    monkeypatch.setenv(LIMIT, str(1000 / GIB))
    for _ in range(2):
        for name, content in names.items():
            assert read(folder / name) == content
            assert [other for other in names if has_content(folder / other)] == [name], "one has room"
    assert precious.read_text() == "mine"


def test_marks_of_folders_are_no_files(storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.pipe("/bucket/a/b.tar", b"shard")
    listed = storage.find("/bucket", detail=True)
    marks = {"/bucket/": {"size": 0}, "/bucket/a/": {"size": 0}}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *words, **options: {**marks, **listed})
    folder = open_remote(ADDRESS)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == ["a/b.tar"]
    assert read(folder / "a/b.tar") == b"shard"


def test_a_users_folder_of_that_name_is_local(tmp_path: Path) -> None:
    path = tmp_path / "remote-data" / "photos" / "data" / "0.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert not is_remote(path)
    assert read(path) == b"mine"


def test_a_name_like_the_cache_is_a_name(storage: MemoryFileSystem) -> None:
    name = f"x/remote-data/{'0' * 24}/data/a.tar"
    storage.pipe(f"/bucket/{name}", b"shard")
    assert read(open_remote(ADDRESS) / name) == b"shard"


def test_a_disk_that_fills_up_lowers_the_limit(storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes checkpoints to the same disk: what fits beside them is still fetched."""
    for name in ("a.tar", "b.tar"):
        storage.pipe(f"/bucket/{name}", name.encode() * 100)
    monkeypatch.setenv(LIMIT, str(5000 / GIB))
    folder = open_remote(ADDRESS)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=600))
    assert read(folder / "a.tar") == b"a.tar" * 100
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    assert read(folder / "b.tar") == b"b.tar" * 100
    assert not has_content(folder / "a.tar"), "it made room"


def test_what_failed_ahead_may_be_asked_for_again(storage: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.pipe("/bucket/a.tar", b"a")
    storage.pipe("/bucket/b.tar", b"b")
    folder = open_remote(ADDRESS)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: thread.run())

    def away(*words: object, **options: object) -> None:
        raise OSError("away")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "get_file", away)
        fetch_ahead([folder / "a.tar", folder / "b.tar"])
    fetch_ahead([folder / "b.tar"])
    assert has_content(folder / "b.tar")
