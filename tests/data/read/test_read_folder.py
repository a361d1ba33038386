"""Folders of images with files beside them, and how `read` tells layouts apart."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.read import expand, read
from diptych.data.read.naming import uid_of, uids_of
from diptych.data.shards.build import build


def jpeg(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def put(root: Path, **files: bytes | str) -> Path:
    """Write files; ``__`` in a name is a dot, ``___`` a slash."""
    for name, data in files.items():
        path = root / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def test_img2dataset_files_layout(tmp_path: Path) -> None:
    for i in range(4):
        fields = {"caption": f"c{i}", "url": f"https://x/{i}.jpg", "key": f"{i:09d}", "width": 9, "height": 9, "similarity": 0.25}
        put(
            tmp_path / f"0000{i // 2}",
            **{f"{i:09d}__jpg": jpeg(i), f"{i:09d}__txt": f"c{i}\n", f"{i:09d}__json": json.dumps(fields)},
        )
    put(tmp_path, **{"00000_stats__json": "{}", "00000__parquet": b"not looked at"})
    pool = read(tmp_path)
    assert pool.uids == ("00000_000000000", "00000_000000001", "00001_000000002", "00001_000000003")
    sample = pool[2]
    assert sample.texts == (Text("c2"),)
    assert sample.source == "https://x/2.jpg"
    assert sample.extras == {"folder": "00001", "key": "000000002", "similarity": 0.25}
    assert sample.image is not None
    assert sample.image.read() == jpeg(2)
    assert pool.quarantine == []
    assert "width, height" in pool.notes[0]
    assert len(read(tmp_path, split="folder").split("00001")) == 2
    assert read(tmp_path, group="key").groups[0] == "000000000"


def test_text_from_json_and_languages(tmp_path: Path) -> None:
    put(tmp_path, a__jpg=jpeg(), a__json=json.dumps({"title": "eins", "caption_en": "one", "patient": 7}))
    put(tmp_path, b__PNG=jpeg(), b__json=json.dumps({"title": "zwei", "caption_en": "two", "patient": 8}))
    assert [s.texts for s in read(tmp_path, language="de")] == [(Text("eins", "de"),), (Text("zwei", "de"),)]
    pool = read(tmp_path, text={"caption_en": "en", "title": "de"}, group="patient")
    assert pool[0].texts == (Text("one", "en"), Text("eins", "de"))
    assert list(pool.groups) == ["7", "8"]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    put(tmp_path, good__jpg=jpeg(), good__txt="fine", latin__jpg=jpeg(), latin__txt="caf\xe9 noir".encode("latin-1"))
    put(tmp_path, wide__jpg=jpeg(), wide__txt="wide".encode("utf-16"), mark__jpg=jpeg(), mark__txt=b"\xef\xbb\xbfmarked")
    put(
        tmp_path,
        alone__txt="no image",
        silent__jpg=jpeg(),
        list__jpg=jpeg(),
        list__json="[1]",
        cut__jpg=jpeg(),
        cut__json='{"caption": "a',
    )
    pool = read(tmp_path)
    assert {s.uid: s.texts[0].string for s in pool} == {"good": "fine", "mark": "marked"}
    why = {bad.uid: (bad.stage, bad.reason, Path(bad.file).name) for bad in pool.quarantine}
    assert why["latin"] == ("text", "is not UTF-8: byte 3 is 0xe9; convert it with iconv", "latin.txt")
    assert why["wide"][1].startswith("is UTF-16")
    assert why["alone"] == ("read", "there is no image beside this text", "alone.txt")
    assert why["silent"] == ("read", "there is no text", "silent.jpg")
    assert why["list"][1] == "holds a JSON list, not an object"
    assert why["cut"][1].startswith("is not JSON: Unterminated string")
    assert len(pool.quarantine) == 6


def test_images_alone_are_a_pool(tmp_path: Path) -> None:
    put(tmp_path, cats___a__jpg=jpeg(), dogs___a__jpg=jpeg(), dogs___b__webp=jpeg())
    pool = read(tmp_path)
    assert pool.uids == ("cats_a", "dogs_a", "dogs_b")
    assert [s.texts for s in pool] == [()] * 3
    assert [s.extras["folder"] for s in pool] == ["cats", "dogs", "dogs"]


def test_two_images_of_one_name_share_the_text(tmp_path: Path) -> None:
    put(tmp_path, a__jpg=jpeg(), a__png=jpeg(), a__txt="both")
    pool = read(tmp_path)
    assert len(set(pool.uids)) == 2
    assert [s.texts[0].string for s in pool] == ["both", "both"]


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains nothing to read \(expected images with a \.txt or \.json"):
        read(tmp_path)
    put(tmp_path, notes__md="x")
    with pytest.raises(DataError, match="contains nothing to read"):
        read(tmp_path)
    put(tmp_path, a__jpg=jpeg(), a__txt=b"\xff")
    with pytest.raises(DataError, match=r"no usable image; first problem: .*a\.txt: is not UTF-8: byte 0"):
        read(tmp_path)


# ---------------------------------------------------------------- telling layouts apart


def test_a_table_beside_images_wins_when_there_are_no_sidecars(tmp_path: Path) -> None:
    put(tmp_path, images___a__jpg=jpeg(), pairs__csv="image,caption\nimages/a.jpg,hello\n")
    assert read(tmp_path)[0].texts == (Text("hello"),)
    put(tmp_path, metadata__csv="file_name,text\nimages/a.jpg,from metadata\n")
    assert read(tmp_path)[0].texts == (Text("from metadata"),)


def test_several_tables_are_refused_but_parquet_parts_are_one(tmp_path: Path) -> None:
    put(tmp_path / "two", a__csv="image,caption\n", b__csv="image,caption\n")
    with pytest.raises(DataError, match=r"holds 2 tables \(a\.csv, b\.csv\)"):
        read(tmp_path / "two")
    (tmp_path / "parts").mkdir()
    for part in range(3):
        pq.write_table(
            pa.table({"image": [jpeg(part)] * 2, "caption": [f"{part} {i}" for i in range(2)]}),
            tmp_path / f"parts/{part}.parquet",
        )
    pool = read(tmp_path / "parts")
    assert pool.uids == ("0_000000000", "0_000000001", "1_000000000", "1_000000001", "2_000000000", "2_000000001")
    assert pool[3].texts[0].string == "1 1"


def test_built_folders_pools_and_samples(tmp_path: Path) -> None:
    made = [Sample("a", texts=(Text("x"),))]
    build(Pool.from_samples(made, name="first"), tmp_path / "out")
    assert list(read(tmp_path / "out")) == made
    assert list(read(made)) == made
    assert read(Pool.from_samples(made), name="other").name == "other"
    with pytest.raises(DataError, match="cannot read a int"):
        read(3)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    put(tmp_path, pairs__csv="image,caption\n", notes__docx=b"x", data__tar__gz=b"x")
    with pytest.raises(DataError, match=r"pairz\.csv: does not exist; did you mean '.*pairs\.csv'"):
        read(tmp_path / "pairz.csv")
    with pytest.raises(DataError, match=r"notes\.docx: \.docx is not a known format"):
        read(tmp_path / "notes.docx")
    with pytest.raises(DataError, match="compressed tar"):
        read(tmp_path / "data.tar.gz")


def test_patterns(tmp_path: Path) -> None:
    put(tmp_path, **{f"{i:03d}__tar": b"" for i in (8, 9, 10)})
    assert [p.name for p in expand(f"{tmp_path}/{{008..010}}.tar")] == ["008.tar", "009.tar", "010.tar"]
    assert [p.name for p in expand(f"{tmp_path}/*.tar")] == ["008.tar", "009.tar", "010.tar"]
    assert [p.name for p in expand(f"{tmp_path}/{{008,010}}.tar")] == ["008.tar", "010.tar"]
    with pytest.raises(DataError, match=r"007\.tar: does not exist"):
        expand(f"{tmp_path}/{{007..009}}.tar")
    assert expand(f"{tmp_path}/nothing*.tar") == []


# ---------------------------------------------------------------- uids

paths = st.text(st.sampled_from("ab_./- é"), min_size=1, max_size=6)


@given(st.lists(paths, max_size=12, unique=True))
def test_uids_are_safe_and_differ(names: list[str]) -> None:
    uids = uids_of(names, names)
    assert len(set(uids)) == len(names)
    assert all(uid and not set(uid) & set("./\\") for uid in uids)
    assert uids == uids_of(names, names)
    assert all(uid == uid_of(name) or uid.startswith(uid_of(name) + "-") for uid, name in zip(uids, names, strict=True))
