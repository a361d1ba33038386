"""CSV, TSV, JSONL and Parquet."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.read import read


def jpeg(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for i in range(4):
        (tmp_path / f"img/{i}.jpg").write_bytes(jpeg(i))
    return tmp_path


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


ROWS = [{"filepath": f"img/{i}.jpg", "caption": f'a "{i}", and\nmore ü', "group": f"00{i}", "score": i / 2} for i in range(4)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_gives_the_same_samples(root: Path, kind: str) -> None:
    path = root / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        write(path, "\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    pool = read(path)
    assert pool.uids == tuple(f"img_{i}" for i in range(4))
    assert [s.texts for s in pool] == [(Text(row["caption"]),) for row in ROWS]
    assert [s.group for s in pool] == ["000", "001", "002", "003"]  # never 0, 1, 2, 3
    assert [s.extras for s in pool] == [{"score": row["score"]} for row in ROWS]
    assert [s.image.read() for s in pool if s.image] == [jpeg(i) for i in range(4)]
    assert pool.name == "pairs"


def test_named_columns(root: Path) -> None:
    text = "pic,de,en,who,part,lic,web,nr\nimg/0.jpg,eins,one,p1,train,MIT,http://x,7\nimg/1.jpg,,two,p2,test,CC0,http://y,8\n"
    pool = read(
        write(root / "t.csv", text),
        image="pic",
        text={"de": "de", "en": "en"},
        group="who",
        split="part",
        licence="lic",
        origin="web",
        uid="nr",
    )
    assert pool[0] == Sample(
        "7", pool[0].image, (Text("eins", "de"), Text("one", "en")), (), (), "p1", "MIT", "http://x",
        {"split": "train"},
    )  # fmt: skip
    assert pool[1].texts == (Text("two", "en"),)
    assert pool.split("test").uids == ("8",)


def test_languages(root: Path) -> None:
    path = write(root / "t.csv", "image,caption,lang\nimg/0.jpg,eins,de\nimg/1.jpg,one,en\n")
    assert [s.texts[0].language for s in read(path)] == ["de", "en"]
    assert [s.texts[0].language for s in read(path, language="lang")] == ["de", "en"]
    assert [s.texts[0].language for s in read(path, language="fr")] == ["fr", "fr"]
    with pytest.raises(DataError, match="no column 'Language!'"):
        read(path, language="Language!")


def test_rows_that_name_one_image_are_one_sample(root: Path) -> None:
    path = write(root / "t.csv", "image,caption,split\n" + "".join(f"img/{i % 2}.jpg,c{i},s{i % 2}\n" for i in range(6)))
    pool = read(path)
    assert [[t.string for t in s.texts] for s in pool] == [["c0", "c2", "c4"], ["c1", "c3", "c5"]]
    assert pool.notes == ["6 rows name 2 images: one sample an image, with all its texts"]
    write(path, "image,caption,split\nimg/0.jpg,a,train\nimg/0.jpg,b,test\n")
    with pytest.raises(DataError, match=r"'img/0.jpg' has split 'train' in .*t\.csv, row 1 and 'test' in .*t\.csv, row 2"):
        read(path)


def test_lists_of_captions_and_mixed_values(root: Path) -> None:
    lines = [
        {"image": "img/0.jpg", "captions": ["a", "b"], "meta": {"k": 1}, "n": 1},
        {"image": "img/1.jpg", "captions": "single", "meta": {"other": [2]}, "n": "two"},
        {"image": "img/2.jpg", "captions": []},
    ]
    pool = read(write(root / "t.jsonl", "\n".join(map(json.dumps, lines))))
    assert [[t.string for t in s.texts] for s in pool] == [["a", "b"], ["single"]]
    assert [s.extras for s in pool] == [{"meta": {"k": 1}, "n": 1}, {"meta": {"other": [2]}, "n": "two"}]
    assert [(bad.uid, bad.reason) for bad in pool.quarantine] == [("img_2", "there is no text")]


def test_bytes_in_parquet_plain_and_in_structs(root: Path) -> None:
    plain = pa.table({"image": [jpeg(1), None], "text": ["a", "b"]})
    struct = pa.table({"image": [{"bytes": jpeg(1), "path": "x"}, {"bytes": None, "path": None}], "text": ["a", "b"]})
    for name, table in (("plain", plain), ("struct", struct)):
        pq.write_table(table, root / f"{name}.parquet")
        pool = read(root / f"{name}.parquet")
        assert pool.uids == ("000000000",)
        assert pool[0].image is not None
        assert pool[0].image.read() == jpeg(1)
        assert pool.quarantine[0].reason == "there is no image"
        assert "row 1" in pool.quarantine[0].file


def test_dates_and_dictionaries_become_plain(root: Path) -> None:
    import datetime

    table = pa.table(
        {
            "image": ["img/0.jpg"],
            "caption": ["a"],
            "day": [datetime.date(2026, 1, 2)],
            "kind": pa.array(["x"]).dictionary_encode(),
            "box": [{"x": 1}],
        }
    )
    pq.write_table(table, root / "t.parquet")
    assert read(root / "t.parquet")[0].extras == {"day": "2026-01-02", "kind": "x", "box": {"x": 1}}


# ---------------------------------------------------------------- bad input


def test_a_missing_column_names_those_that_are_there(root: Path) -> None:
    path = write(root / "t.csv", "filepath,caption\nimg/0.jpg,a\n")
    with pytest.raises(DataError, match=r"no column 'captoin'; did you mean 'caption'\? \(expected one of filepath, caption\)"):
        read(path, text="captoin")
    with pytest.raises(DataError, match="no column 'patient'"):
        read(path, group="patient")
    with pytest.raises(
        DataError, match=r"no column looks like images; columns are a, b \(expected image=COLUMN, or a column 'prompt'\)"
    ):
        read(write(root / "u.csv", "a,b\n1,2\n"))


def test_a_guess_that_could_go_two_ways_is_refused(root: Path) -> None:
    path = write(root / "t.csv", "image,path,caption\nimg/0.jpg,img/1.jpg,a\n")
    with pytest.raises(DataError, match=r"'image' and 'path' could both be the image; columns are image, path, caption"):
        read(path)
    assert read(path, image="path").uids == ("img_1",)
    path = write(root / "t.csv", "image,caption,text\nimg/0.jpg,a,b\n")
    with pytest.raises(DataError, match="'caption' and 'text' could both be the text"):
        read(path)
    assert read(path, text=["text", "caption"])[0].texts == (Text("b"), Text("a"))


def test_web_addresses_are_not_downloaded(root: Path) -> None:
    path = write(root / "t.csv", "url,caption\nhttps://x/a.jpg,a\n")
    with pytest.raises(DataError, match=r"web addresses, and reading never downloads.*img2dataset"):
        read(path, image="url")
    (sample,) = read(path)
    assert (sample.image, sample.extras["url"], sample.texts[0].string) == (None, "https://x/a.jpg", "a")
    local = read(write(root / "u.csv", "url,caption\nimg/0.jpg,a\n"))
    assert local[0].image is not None, "a path in a column of that name is a picture"


def test_duplicate_uids_name_both_rows(root: Path) -> None:
    head, rows = "image,caption,uid\n", ["img/0.jpg,a,x\n", "img/1.jpg,b,y\n", "img/2.jpg,c,x\n"]
    pool = read(write(root / "t.csv", head + "".join(rows)))
    assert pool.uids == ("x", "y")
    (bad,) = map(str, pool.quarantine)
    assert re.search(r"t\.csv, row 3: uid 'x' comes twice: the first one, .*t\.csv, row 1, is kept", bad)
    with pytest.raises(DataError, match=r"t\.csv, row 2, field 'uid': uid 'x' comes twice.* the same holds for 2 of 3 rows"):
        read(write(root / "t.csv", head + rows[0] + rows[2] + rows[2]))


def test_the_wrong_encoding_names_the_byte(root: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv: is not UTF-8: byte 36 \(line 3\) is 0xe9"):
        read(write(root / "t.csv", "image,caption\nimg/0.jpg,a\nimg/1.jpg,\xe9t\xe9\n".encode("latin-1")))
    with pytest.raises(DataError, match="is UTF-16"):
        read(write(root / "t.csv", "image,caption\n".encode("utf-16")))
    pool = read(write(root / "t.csv", b"\xef\xbb\xbfimage,caption\nimg/0.jpg,a\n"))
    assert len(pool) == 1


def test_lines_that_are_no_rows_cost_themselves(root: Path) -> None:
    pool = read(write(root / "t.csv", "image,caption\nimg/0.jpg,a\nimg/1.jpg,b,too many\nimg/2.jpg,\nimg/3.jpg,d\n"))
    assert pool.uids == ("img_0", "img_3")
    reasons = [str(bad) for bad in pool.quarantine]
    assert reasons[0].endswith("t.csv: row 2 has 3 fields instead of 2: 'img/1.jpg,b,too many'")
    assert reasons[1].endswith("t.csv, row 3: there is no text [img_2]")
    good = [json.dumps({"image": f"img/{i}.jpg", "caption": f"c{i}"}).encode() for i in range(3)]
    pool = read(
        write(
            root / "t.jsonl",
            b"\n".join([good[0], b'{"image": ', good[1], b"[1]", b"caf\xe9", b'{"caption": "\\ud800"}', good[2]]),
        )
    )
    assert len(pool) == 3
    assert [bad.reason.split(" ")[1] for bad in pool.quarantine] == ["2", "4", "5", "6"]
    assert "surrogate" in pool.quarantine[3].reason


def test_a_wrong_root_is_noticed(root: Path) -> None:
    (root / "tables").mkdir()
    path = write(root / "tables/t.csv", "image,caption\nimg/0.jpg,a\n")
    with pytest.raises(DataError, match=r"none of the first 1 images exists, such as .*tables/img/0\.jpg"):
        read(path)
    assert len(read(path, root=root)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "image,caption\n", "has no rows"),
        ("t.csv", "image,image\na,b\n", "'image' is twice"),
        ("t.jsonl", "", "has no rows"),
        ("t.jsonl", "nonsense", "first problem: .*line 1"),
        ("t.parquet", "PAR1", "is not readable as Parquet"),
    ],
)
def test_empty_and_broken_tables(root: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(root / name, content))


def test_tables_from_afar_are_kept_in_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    with fsspec.open("memory://bucket/t.csv", "w") as file:
        file.write("image,caption\nimg/0.jpg,a\n")
    pool = read("memory://bucket/t.csv", root=root)
    assert (pool.name, pool[0].texts) == ("t", (Text("a"),))
    assert len(list((root / "cache").rglob("t.csv"))) == 1
    with pytest.raises(DataError, match="does not exist"):
        read("memory://bucket/u.csv")
    with pytest.raises(DataError, match="only tables and folders can be read from a remote address"):
        read("memory://bucket/shards.tar")
    with pytest.raises(DataError, match="does not exist"):
        read("memory://bucket/shards")


@pytest.mark.parametrize(("address", "package"), [("s3://bucket/t.csv", "s3fs"), ("https://localhost/t.csv", "aiohttp")])
def test_an_address_whose_package_is_missing_is_refused_in_one_line(
    address: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec.core")
    for name in ("s3fs", "aiohttp", "fsspec.implementations.http"):
        monkeypatch.setitem(sys.modules, name, None)
    protocol = address.partition(":")[0]
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(
        DataError, match=rf"{address}: cannot be reached: .*{package}.* \(expected that package installed"
    ) as caught:
        read(address)
    assert "\n" not in str(caught.value)


def test_a_table_of_prompts_holds_texts_alone(tmp_path: Path) -> None:
    pool = read(write(tmp_path / "t.csv", "prompt,text,intent\nname a colour,red,2\nsay hello,hello,\n"))
    assert [(one.image, one.texts[0].string, one.extras["prompt"]) for one in (pool[0], pool[1])] == [
        (None, "red", "name a colour"),
        (None, "hello", "say hello"),
    ]
    assert any("the texts stand alone" in note for note in pool.notes)
