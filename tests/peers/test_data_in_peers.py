"""Data across the border: what we build is read by the loaders of webdataset, open_clip and datasets, and what they write is read here."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import DataError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.export import export_pool
from diptych.data.shards.build import build, open_built

Note = Callable[[str, str, str, str], None]


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 9, 99)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    samples = [Sample(f"u{n:02d}", BytesImage(picture(n)), (Text(f"text {n}"), Text(f"more {n}"))) for n in range(12)]
    build(
        Pool.from_samples([*samples, Sample("bare", BytesImage(picture(99)))], name="pairs"), tmp_path / "built", shard_samples=5
    )
    return tmp_path / "built"


def test_open_clips_own_loader_takes_every_sample_with_a_text(built: Path, peer: Note) -> None:
    pytest.importorskip("open_clip")
    data = pytest.importorskip("open_clip_train.data")
    arguments = SimpleNamespace(
        train_data=None, val_data=str(built / "shards/{00000..00002}.tar"), train_num_samples=None, val_num_samples=13, seed=0,
        dataset_resampled=False, train_data_upsampling_factors=None, workers=1, batch_size=4, world_size=1, distributed=False,
    )  # fmt: skip
    loader = data.get_wds_dataset(arguments, lambda image: np.asarray(image)[0, 0], is_train=False, tokenizer=lambda text: [text])
    texts = [text for _, batch in loader.dataloader for text in batch]
    assert sorted(texts) == sorted(f"text {n}" for n in range(12))
    peer("open_clip_torch", "open_clip_train.data.get_wds_dataset", "reads ours", "texts of shards of `data build`")


def test_webdataset_reads_text_and_json(built: Path, peer: Note) -> None:
    wds = pytest.importorskip("webdataset")
    rows = list(wds.WebDataset(str(built / "shards/{00000..00002}.tar"), shardshuffle=False).decode("pil"))
    assert len(rows) == 13
    assert {row["__key__"]: row.get("txt") for row in rows} == {**{f"u{n:02d}": f"text {n}" for n in range(12)}, "bare": None}
    assert all(row["json"]["uid"] == row["__key__"] for row in rows)
    peer("webdataset", "WebDataset", "reads ours", "texts and JSON of shards of `data build`")


def test_an_older_data_set_opens_as_before(built: Path, tmp_path: Path) -> None:
    """Format 1 had no texts beside the pictures, which our own reader takes from the tables."""
    mark = json.loads((built / "diptych.json").read_text())
    assert mark["format"] == 2
    (built / "diptych.json").write_text(json.dumps({**mark, "format": 1}))
    pool = open_built(built)
    assert len(pool) == 13
    assert sum(len(sample.texts) for sample in pool) == 24
    build(pool, tmp_path / "again", shard_samples=5)
    assert json.loads((tmp_path / "again/diptych.json").read_text())["format"] == 2
    (built / "diptych.json").write_text(json.dumps({**mark, "format": 3}))
    with pytest.raises(DataError, match="format 1 to 2"):
        open_built(built)


def test_tars_that_webdataset_writes(tmp_path: Path, peer: Note) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(4):
            writer.write({"__key__": f"{number:04d}", "jpg": picture(number), "txt": f"text {number}", "json": {"n": number}})
    pool = dp.read(tmp_path / "a.tar")
    assert [(sample.texts[0].string, sample.extras["n"]) for sample in pool] == [(f"text {n}", n) for n in range(4)]
    peer("webdataset", "TarWriter", "is read", "pictures, texts and JSON")


def test_datasets_there_and_back(built: Path, tmp_path: Path, peer: Note) -> None:
    datasets = pytest.importorskip("datasets")
    pool = open_built(built)
    export_pool(pool, tmp_path / "hub", "datasets")
    theirs = datasets.load_from_disk(str(tmp_path / "hub"))
    again = dp.read(theirs, captions=False)
    assert sorted(again.uids) == sorted(pool.uids)
    texts = {sample.uid: [text.string for text in sample.texts] for sample in pool}
    assert {sample.uid: [text.string for text in sample.texts] for sample in again} == texts
    export_pool(pool, tmp_path / "parquet", "parquet")
    (file,) = (tmp_path / "parquet").rglob("*.parquet")
    table = datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(table) == len(pool)
    peer("datasets", "load_from_disk, load_dataset", "reads ours", "rows of `data export --to datasets` and `parquet`")
    peer("datasets", "Dataset", "is read", "uids and texts, equal")


def test_shards_as_img2dataset_writes_them(built: Path, tmp_path: Path) -> None:
    export_pool(open_built(built), tmp_path / "out", "img2dataset")
    for tar in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(tar) as archive:
            names = archive.getnames()
        keys = {name.partition(".")[0] for name in names}
        assert all(f"{key}.json" in names for key in keys)
    assert len(dp.read(tmp_path / "out", captions=False)) == 13


def test_clients_of_embeddings(tmp_path: Path, peer: Note) -> None:
    """The OpenAI client, LangChain's and LlamaIndex' against the service: one vector from all."""
    pytest.importorskip("openai")
    from ..serve.conftest import running  # type: ignore[import-not-found,unused-ignore]

    with running(tmp_path) as service:
        import openai

        address = {"base_url": f"{service.address}/v1", "api_key": "none"}
        client = openai.OpenAI(**address)
        name = client.models.list().data[0].id
        answer = client.embeddings.create(model=name, input=["red", "green"])
        expected = np.array([row.embedding for row in answer.data])
        assert answer.usage.prompt_tokens == 2
        assert client.models.retrieve(name).id == name
        peer("openai", "OpenAI().embeddings, .models", "reads ours", "`diptych serve`")
        langchain = pytest.importorskip("langchain_openai")
        made: Any = langchain.OpenAIEmbeddings(model=name, check_embedding_ctx_length=False, **address)
        np.testing.assert_allclose(made.embed_documents(["red", "green"]), expected, atol=1e-6)
        np.testing.assert_allclose(made.embed_query("green"), expected[1], atol=1e-6)
        peer("langchain-openai", "OpenAIEmbeddings", "reads ours", "`diptych serve`, vectors of the OpenAI client")


def test_llama_index_embeds_by_the_service(tmp_path: Path, peer: Note) -> None:
    embeddings = pytest.importorskip("llama_index.embeddings.openai")
    from ..serve.conftest import running  # type: ignore[import-not-found,unused-ignore]

    with running(tmp_path) as service:
        made = embeddings.OpenAIEmbedding(model_name="stub/colours", api_base=f"{service.address}/v1", api_key="none")
        green = np.array(made.get_text_embedding("green"))
        np.testing.assert_allclose(made.get_text_embedding_batch(["red", "green"])[1], green, atol=1e-6)
        assert green.argmax() == 1
        assert made.get_query_embedding("green") == pytest.approx(green.tolist())
    peer("llama-index-embeddings-openai", "OpenAIEmbedding", "reads ours", "`diptych serve`")


def test_supervision_writes_boxes_that_are_read(tmp_path: Path, peer: Note) -> None:
    """COCO files that supervision writes: boxes and names are those that went in."""
    supervision = pytest.importorskip("supervision")
    boxes_N4 = np.array([[2, 3, 12, 9], [5, 1, 20, 15]], np.float32)
    for name in ("images", "theirs"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(picture(number))
    found = {
        str(tmp_path / "images" / f"{number}.jpg"): supervision.Detections(
            xyxy=boxes_N4[: 1 + number % 2], class_id=np.array([0, 1])[: 1 + number % 2]
        )
        for number in range(3)
    }
    theirs = supervision.DetectionDataset(classes=["cat", "dog"], images=list(found), annotations=found)
    theirs.as_coco(
        images_directory_path=str(tmp_path / "theirs/images"), annotations_path=str(tmp_path / "theirs/annotations.json")
    )
    pool = dp.read(tmp_path / "theirs/annotations.json")
    assert len(pool) == 3
    for sample in pool:
        assert [region.label for region in sample.regions] == ["cat", "dog"][: len(sample.regions)]
        np.testing.assert_allclose([region.box for region in sample.regions], boxes_N4[: len(sample.regions)], atol=0.01)
    assert sorted(len(sample.regions) for sample in pool) == [1, 1, 2]
    peer("supervision", "DetectionDataset.as_coco", "is read", "boxes and names")
