"""What other tools and published data sets leave on disk: recognised by its look, with captions and splits, and nothing lost in silence."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.core.errors import DataError, DiptychError
from diptych.curate.engine.sources import open_pool
from diptych.data.read import read
from diptych.data.read.layouts.pickled import read_plain
from diptych.data.text.question_answering.questions import questions_of


def picture(shade: int = 0, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, 9, 9)).save(file, form)
    return file.getvalue()


def test_the_parquet_of_img2dataset_is_read_from_its_bytes(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "key": ["000000000", "000000001", "000000002"],
        "caption": ["a bus", "gone", "a cat"],
        "url": [f"http://x/{name}" for name in "abc"],
        "status": ["success", "failed_to_download", "success"],
        "error_message": [None, "HTTP Error 404", None],
        "width": [32, None, 32],
        "exif": ["{}", None, "{}"],
        "jpg": [picture(0, "JPEG"), None, picture(5, "JPEG")],
    }
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    for source in (tmp_path, tmp_path / "00000.parquet"):
        pool = read(source)
        assert pool.uids == ("000000000", "000000002")
        assert [sample.texts[0].string for sample in pool] == ["a bus", "a cat"]
        assert pool[0].source == "http://x/a"
        assert pool[1].image.read() == columns["jpg"][2]  # type: ignore[union-attr]
        assert [bad.uid for bad in pool.quarantine] == ["000000001"]
        assert not any("not read" in note for note in pool.notes)


def test_an_image_folder_with_splits_keeps_captions_and_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("validation", 2)):
        (tmp_path / split / "deep").mkdir(parents=True)
        for number in range(count):
            (tmp_path / split / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "train/deep/x.png").write_bytes(picture(9))
    names = ["0.png", "1.png", "2.png", "deep/x.png"]
    (tmp_path / "train/metadata.jsonl").write_text("\n".join(json.dumps({"file_name": n, "text": f"train {n}"}) for n in names))
    (tmp_path / "validation/metadata.csv").write_text("file_name,text\n0.png,val 0\n")
    pool = read(tmp_path)
    assert {(sample.texts[0].string, sample.extras["split"]) for sample in pool} == {
        *((f"train {n}", "train") for n in names),
        ("val 0", "val"),
    }
    assert pool.split_names == ["train", "val"]
    assert all(sample.image.read() for sample in pool)  # type: ignore[union-attr]
    assert any("1 pictures are in no metadata file" in note for note in pool.notes)


def test_hugging_face_reads_the_same_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "set" / split / f"{number}.png").write_bytes(picture(number))
        rows = [{"file_name": f"{n}.png", "text": f"{split} {n}"} for n in range(2)]
        (tmp_path / "set" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    ours = read(tmp_path / "set")
    for split in ("train", "test"):
        assert sorted(sample.texts[0].string for sample in ours.split(split)) == sorted(theirs[split]["text"])


def test_instruction_files_of_llava_are_dialogues(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(picture())
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cup."}]
    more = [{"from": "human", "value": "Which colour?"}, {"from": "gpt", "value": "Red."}]
    rows = [{"id": "text", "conversations": more}, {"id": "1", "image": "images/a.png", "conversations": turns + more}]
    (tmp_path / "mix.json").write_text(json.dumps(rows))
    for source in (tmp_path, tmp_path / "mix.json"):
        pool = read(source)
        assert [(q.text, q.answer) for q in questions_of(pool[0])] == [("What is it?", "A cup."), ("Which colour?", "Red.")]
        assert len(pool) == 1
        assert "a dialogue without a picture" in str(pool.quarantine[0])


def test_flickr30k_between_bars(tmp_path: Path) -> None:
    (tmp_path / "flickr30k_images").mkdir()
    for number in range(2):
        (tmp_path / f"flickr30k_images/{number}.jpg").write_bytes(picture(number, "JPEG"))
    rows = [f'{n}.jpg| {k}| A man , number {k} "quoted" .' for n in range(2) for k in range(5)]
    rows[3] = "0.jpg| 3   A row without its second bar ."  # as the published file has one
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\n" + "\n".join(rows) + "\n")
    for source in (tmp_path, tmp_path / "results.csv"):
        pool = read(source)
        assert [len(sample.texts) for sample in pool] == [4, 5]
        assert pool[0].texts[0].string == 'A man , number 0 "quoted" .'
        assert len(pool.quarantine) == 1
        assert pool[0].image.read()  # type: ignore[union-attr]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_links_without_a_header_are_links(tmp_path: Path, order: tuple[int, int]) -> None:
    pairs = [("a red bus", "http://x/1.jpg"), ('a "cat', "https://x/2.jpg")]
    (tmp_path / "cc.tsv").write_text("".join("\t".join(pair[column] for column in order) + "\n" for pair in pairs))
    pool = open_pool(tmp_path / "cc.tsv")
    assert {(sample.texts[0].string, url) for sample, url in zip(pool, pool.column("url"), strict=True)} == set(pairs)
    assert list(read(tmp_path / "cc.tsv")) == list(pool)


# ---------------------------------------------------------------- RefCOCO


def refcoco(folder: Path) -> list[dict[str, Any]]:
    (folder / "images").mkdir(parents=True)
    (folder / "images/COCO_train2014_000000000001.jpg").write_bytes(picture(0, "JPEG"))
    images = [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg", "width": 32, "height": 24}]
    boxes = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [n, 2, 10, 10]} for n in (16, 17)]
    kinds = [{"id": 1, "name": "person"}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    return [
        {
            "ref_id": n,
            "ann_id": n,
            "image_id": 1,
            "file_name": f"COCO_train2014_000000000001_{n}.jpg",
            "category_id": 1,
            "split": "testA",
            "sent_ids": [n, n + 1],
            "sentences": [{"raw": f"Man {n}!", "sent": f"man {n}", "tokens": ["man"], "sent_id": n}],
        }
        for n in (16, 17)
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_refcoco_is_read_without_unpickling(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    references = refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(references, protocol))
    assert read_plain(tmp_path / "refs(unc).p") == references
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    for source in (tmp_path, tmp_path / "refs(unc).p"):
        pool = read(source)
        assert pool.split_names == ["testA"]
        assert [region.box for region in pool[0].regions] == [(16.0, 2.0, 26.0, 12.0), (17.0, 2.0, 27.0, 12.0)]
        grounding = pool[0].extras["grounding"]
        assert [one["text"] for one in grounding] == ["man 16", "man 17"]
        assert [one["phrases"][0] for one in grounding] == [{"spans": [[0, 6]], "regions": [n], "kind": ""} for n in (0, 1)]


def test_pickles_of_python_2_with_shared_and_nested_values(tmp_path: Path) -> None:
    """As `cPickle` wrote them: byte strings, memo references, and values that refer to each other."""
    path = tmp_path / "a.p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'n'\nI16\nsS'box'\n(lp4\nF1.5\naI2\nasag1\na.")
    value = read_plain(path)
    assert value == [{"sent": "café", "n": 16, "box": [1.5, 2]}] * 2
    assert value[0] is value[1]
    shared: list[Any] = [1, (2.5, None, True), {"a": b"x", "b": 2**70}, "ü" * 300]
    path.write_bytes(pickle.dumps([shared, shared, ()], 4))
    assert read_plain(path) == [shared, shared, ()]


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_does_more_is_refused_and_not_run(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refcoco(tmp_path / "set")
    (tmp_path / "set/refs(unc).p").write_bytes(pickle.dumps([Evil()], protocol))
    with pytest.raises(DataError, match="does more than hold data"):
        read(tmp_path / "set")
    whole = pickle.dumps([[1, 2], {"a": 3}], protocol)
    for content in (b"", whole[:-1], whole[:5], b"\xff" * 40, b"(" * 100_000 + b".", b"a.", b"(s.", b"h\x05."):
        (tmp_path / "b.p").write_bytes(content)
        with pytest.raises(DataError):
            read_plain(tmp_path / "b.p")
    assert not (tmp_path / "executed").exists()


def test_what_was_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / f"{name}.png").write_bytes(picture())
        (tmp_path / f"{name}.txt").write_text("text")
    assert not any("not read" in note for note in read(tmp_path).notes)
    (tmp_path / "sub/extra.csv").write_text("image,caption\nb.png,other\n")
    (tmp_path / "splits.pkl").write_bytes(b"x")
    (note,) = [note for note in read(tmp_path).notes if "not read" in note]
    assert note == "not read: splits.pkl, sub/extra.csv; give the path of one to read it"


def test_a_column_of_splits_by_name_and_a_split_by_name(tmp_path: Path) -> None:
    import inspect

    import diptych as dp

    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "set" / split / f"{number}.png").write_bytes(picture(number))
            (tmp_path / "set" / split / f"{number}.txt").write_text(f"{split} {number}")
    assert dp.read(tmp_path / "set", split="folder").split_names == ["test", "train"]
    (tmp_path / "set/t.csv").write_text("image,caption,part\ntrain/0.png,one,train\ntest/0.png,two,7\n")
    pool = dp.read(tmp_path / "set/t.csv", split="part")
    assert (len(pool), pool.split_names) == (2, ["train", "7"])
    assert len(dp.read("emoji", split="unseen_style")) < len(dp.read("emoji"))
    for source in ("emoji", str(tmp_path / "set/t.csv")):
        with pytest.raises(DiptychError):
            dp.read(source, split="nobody")
    kinds = {name: parameter.annotation for name, parameter in inspect.signature(dp.read).parameters.items()}
    assert inspect.Parameter.empty not in kinds.values()
    assert {*inspect.signature(read).parameters, "columns"} == {*kinds}
    assert dp.read(tmp_path / "set/t.csv", columns={"split": "part"}).split_names == ["train", "7"]
