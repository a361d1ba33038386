"""WebDataset tars, sound and otherwise. Python's `tarfile` is the independent reader."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.sample import Text
from diptych.data.read import read
from diptych.data.shards.tar_index import index_path, index_tar, open_index


def jpeg(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pairs(n: int) -> list[tuple[str, bytes]]:
    return [member for i in range(n) for member in ((f"{i:06d}.jpg", jpeg(i)), (f"{i:06d}.txt", f"text {i}".encode()))]


# ---------------------------------------------------------------- the index

names = st.lists(st.text(st.sampled_from("ab./é_"), min_size=1, max_size=140), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    names, st.lists(st.binary(max_size=1500), min_size=6, max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
)
def test_the_index_is_what_tarfile_finds(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: list[bytes], kind: int
) -> None:
    path = tar(tmp_path_factory.mktemp("tar") / "a.tar", list(zip(names, data, strict=False)), kind)
    with tarfile.open(path) as archive:
        found = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
    index = index_tar(path)
    refused = {problem.member for problem in index.problems}
    mine = [(row["name"].rstrip("/"), row["offset"], row["size"]) for row in index.members.to_pylist()]
    found = [(name.rstrip("/"), *place) for name, *place in found]
    assert mine == [row for row in found if row[0] not in {name.rstrip("/") for name in refused}]
    assert all(name.startswith("/") or ".." in name.split("/") for name in refused)


def test_it_is_stored_and_used_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", pairs(5))
    fresh = index_tar(path)
    assert open_index(path) == fresh
    assert index_path(path).is_file()
    calls = []
    monkeypatch.setattr("diptych.data.shards.tar_index.index_tar", lambda p: calls.append(p) or index_tar(p))
    assert open_index(path) == fresh  # stored == rebuilt
    assert calls == []
    tar(path, pairs(7))
    assert len(open_index(path).members) == 14
    tar(path, [*pairs(6), ("x.jpg", jpeg()), ("x.txt", b"of the same size")])
    os.utime(path, ns=(path.stat().st_atime_ns, index_path(path).stat().st_mtime_ns + 10**9))
    assert len(open_index(path).members) == 14
    assert len(calls) == 2


def test_a_read_only_folder_puts_it_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tar(tmp_path / "a.tar", pairs(3))
    from diptych.data.shards import tar_index

    real = tar_index.write_parquet

    def refuse(place: Path, table: object) -> None:
        if place.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        real(place, table)

    monkeypatch.setattr(tar_index, "write_parquet", refuse)
    assert len(read(path)) == 3
    assert not index_path(path).exists()
    assert len(list((tmp_path / "cache/diptych/index").iterdir())) == 1
    monkeypatch.setattr(tar_index, "index_tar", lambda _: pytest.fail("the stored index was not used"))
    assert len(read(path)) == 3


# ---------------------------------------------------------------- samples


def test_img2dataset_shards(tmp_path: Path) -> None:
    for shard in range(2):
        members = []
        for i in range(3):
            key = f"{shard:05d}{i:04d}"
            fields = {"caption": f"c {key}", "url": f"http://x/{key}", "key": key, "status": "success", "width": 24, "height": 16}
            members += [
                (f"{key}.jpg", jpeg(i)),
                (f"{key}.json", json.dumps(fields).encode()),
                (f"{key}.txt", f"c {key}".encode()),
            ]
        tar(tmp_path / f"{shard:05d}.tar", members)
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    pool = read(tmp_path)
    assert pool.uids == tuple(f"{shard:05d}{i:04d}" for shard in range(2) for i in range(3))
    assert pool[4].texts == (Text("c 000010001"),)
    assert pool[4].source == "http://x/000010001"
    assert pool[4].extras == {"key": "000010001"}
    assert pool[4].image is not None
    assert pool[4].image.read() == jpeg(1)
    assert pool.quarantine == []
    assert len(read(tmp_path / "00001.tar")) == 3
    assert len(read(str(tmp_path / "{00000..00001}.tar"))) == 6
    assert list(read(str(tmp_path / "*.tar"))) == list(pool)


def test_other_members(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        [("a.PNG", jpeg(1)), ("a.cls", b"7"), ("a.caption", "ünï".encode()), ("a.npy", b"x"), ("b.webp", jpeg(2)), ("b.cls", b"dog"),
         ("b.json", b'{"alt_text": "b", "patient": 3}'), ("only.pth", b"?"), (".hidden.jpg", jpeg())],
    )  # fmt: skip
    pool = read(path, group="patient")
    assert [(s.uid, s.texts[0].string, s.extras["cls"], s.group) for s in pool] == [("a", "ünï", 7, ""), ("b", "b", "dog", "3")]
    assert pool.quarantine == []


def test_keys_that_come_in_several_shards_differ(tmp_path: Path) -> None:
    for shard in "ab":
        tar(tmp_path / f"{shard}.tar", pairs(2))
    pool = read(tmp_path)
    assert len(set(pool.uids)) == 4
    assert pool.uids == read(tmp_path).uids
    assert all(uid.startswith(("000000-", "000001-")) for uid in pool.uids)


# ---------------------------------------------------------------- bad input


def test_a_tar_cut_in_the_middle(tmp_path: Path) -> None:
    whole = tar(tmp_path / "whole.tar", pairs(6)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        places = {m.name: (m.offset_data, m.offset_data + m.size) for m in archive.getmembers()}
    at = (places["000003.jpg"][0] + places["000003.jpg"][1]) // 2
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[:at])
    pool = read(path)
    assert pool.uids == ("000000", "000001", "000002")
    assert [(bad.uid, bad.file, bad.reason) for bad in pool.quarantine] == [
        ("000003", f"{path}:000003.jpg", f"cut at byte {at:,}: '000003.jpg' would end at byte {places['000003.jpg'][1]:,}")
    ]
    assert str(read(path).quarantine[0]) == str(pool.quarantine[0])  # the stored index remembers


@pytest.mark.parametrize("at", range(100, 8000, 733))
def test_a_cut_anywhere_loses_only_what_comes_after(tmp_path: Path, at: int) -> None:
    whole = tar(tmp_path / "whole.tar", pairs(4)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        ends = [(m.name, m.offset_data + m.size) for m in archive.getmembers()]
    (tmp_path / "cut.tar").write_bytes(whole[:at])
    expected = [name for name, end in ends if end <= at]
    index = index_tar(tmp_path / "cut.tar")
    assert index.members["name"].to_pylist() == expected
    assert len(index.problems) == (0 if at >= -(-ends[-1][1] // 512) * 512 + 512 else 1)
    assert all("byte" in problem.reason for problem in index.problems)


def test_damage_in_a_header_is_placed(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", pairs(4))
    with tarfile.open(path) as archive:
        header = archive.getmember("000002.jpg").offset
    data = bytearray(path.read_bytes())
    data[header + 5] ^= 0xFF
    path.write_bytes(data)
    pool = read(path)
    assert pool.uids == ("000000", "000001")
    assert pool.quarantine[0].reason == f"no tar header at byte {header:,}: everything after it is lost"
    path.write_bytes(b"not a tar at all" * 100)
    with pytest.raises(DataError, match="is not a tar file"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read(path)
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataError, match="compressed with gzip"):
        read(path)


def test_dotted_keys(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        [("one.v3.jpg", jpeg()), ("one.v3.txt", b"one"), ("img.1.jpg", jpeg(1)), ("img.1.txt", b"a"), ("img.2.jpg", jpeg(2)),
         ("img.2.txt", b"b"), ("d.ir/two.jpg", jpeg()), ("d.ir/two.txt", b"two")],
    )  # fmt: skip
    pool = read(path)
    assert {s.uid: s.texts[0].string for s in pool} == {"one": "one", "d-ir_two": "two"}
    assert [bad.uid for bad in pool.quarantine] == ["img"]
    assert "key 'img' has 2 images (img.1.jpg, img.2.jpg): a key ends at its first dot" in pool.quarantine[0].reason
    assert pool.notes == ["6 members have a dot inside their key; the key ends at the first one, as WebDataset has it"]


def test_split_members_are_joined(tmp_path: Path) -> None:
    members = pairs(4)
    path = tar(tmp_path / "a.tar", members[0::2] + members[1::2])
    pool = read(path)
    assert [(s.uid, s.texts[0].string) for s in pool] == [(f"{i:06d}", f"text {i}") for i in range(4)]
    assert pool.notes == ["4 samples had members that are not side by side; they were joined"]


def test_missing_members(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [*pairs(2), ("x.jpg", jpeg()), ("y.txt", b"alone"), ("000000.txt", b"again")])
    pool = read(path)
    assert pool.uids == ("000000", "000001")
    assert pool[0].texts == (Text("text 0"),)
    why = {bad.uid: bad.reason for bad in pool.quarantine}
    assert why == {
        "x": "there is no text",
        "y": "key 'y' has no image, only txt",
        "000000": "this name comes twice in the tar; the first one is kept",
    }


def test_paths_that_climb_out_are_refused(tmp_path: Path) -> None:
    evil = ["../../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:evil.jpg", "..\\evil.jpg"]
    path = tar(tmp_path / "sub.tar", [*[(name, jpeg()) for name in evil], *pairs(1)])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(tmp_path.parent.rglob("*evil*"))
    pool = read(path)
    assert pool.uids == ("000000",)
    assert [bad.file.rpartition("sub.tar:")[2] for bad in pool.quarantine] == [*evil, "link.jpg"]
    assert all("refused" in bad.reason for bad in pool.quarantine)
    assert sorted(tmp_path.parent.rglob("*evil*")) == before


def test_captions_in_the_wrong_encoding(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [*pairs(1), ("x.jpg", jpeg()), ("x.txt", "na\xefve".encode("latin-1"))])
    pool = read(path)
    assert pool.uids == ("000000",)
    assert str(pool.quarantine[0]) == f"{path}:x.txt: is not UTF-8: byte 2 is 0xef; convert it with iconv [x]"


def test_a_tar_without_samples_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sample with an image; first problem: .*key 'a' has no image"):
        read(tar(tmp_path / "a.tar", [("a.txt", b"x")]))
