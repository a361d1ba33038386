"""Every reader on damaged files: what comes is data, rows in the quarantine, or one line; never another exception, and never for long."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.core.registry import MEDIA
from diptych.data.dataset import Pool
from diptych.data.graphs import FORMATS
from diptych.data.media.decode import decode
from diptych.data.read import read
from diptych.data.read.caption_sources import captions_by_uid
from diptych.data.read.links import read_links
from diptych.data.subset import read_uids

from ..data.graphs.conftest import Published
from ..data.graphs.test_drawn_formats import cvat, studio
from .damage import Draw, damaged
from .fuzzing import BOTH, files_of, fuzz_case, fuzz_files, one_line


def picture(side: int = 8, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (9, 200, 40)).save(file, form)
    return file.getvalue()


def folder_of_pictures(folder: Path) -> Path:
    for name in ("one", "two", "sub/three"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(picture())
        (folder / f"{name}.txt").write_text(f"a picture of {name}")
    (folder / "two.json").write_text(json.dumps({"caption": "two", "licence": "CC0", "width": 8, "tags": ["a", {"b": 1}]}))
    return folder


def table(folder: Path, ending: str) -> Path:
    (folder / "a.png").write_bytes(picture())
    rows = [{"image": "a.png", "caption": f"row {row}", "uid": f"u{row}", "group": "g", "score": row / 2} for row in range(4)]
    path = folder / f"table.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "tags": ["x", "y"], "meta": {"a": 1}} for row in rows]), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps({**row, "meta": {"a": [1, "x"]}}) for row in rows))
    else:
        mark = "\t" if ending == "tsv" else ","
        path.write_text("\n".join(mark.join(map(str, row)) for row in [rows[0].keys(), *(row.values() for row in rows)]) + "\n")
    return path


def tar(folder: Path) -> Path:
    path = folder / "00000.tar"
    with tarfile.open(path, "w") as file:
        for name in ("a", "b", "c"):
            parts = {"jpg": picture(form="JPEG"), "txt": name.encode(), "json": json.dumps({"uid": name, "width": 8}).encode()}
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path


def coco_captions(folder: Path) -> Path:
    (folder / "a.png").write_bytes(picture())
    images = [{"id": n, "file_name": "a.png", "width": 8, "height": 8, "license": 1} for n in (1, 2)]
    captions = [{"id": n, "image_id": n % 2 + 1, "caption": f"caption {n}"} for n in range(4)]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": captions, "licenses": [{"id": 1, "name": "CC0"}]}))
    return path


def karpathy(folder: Path) -> Path:
    (folder / "a.png").write_bytes(picture())
    row = {
        "filename": "a.png",
        "split": "train",
        "imgid": 0,
        "cocoid": 5,
        "sentences": [{"raw": "a cat", "sentid": 1, "tokens": ["a"]}],
    }
    path = folder / "dataset_flickr8k.json"
    path.write_text(json.dumps({"images": [row, {**row, "imgid": 1, "split": "restval"}], "dataset": "flickr8k"}))
    return path


def links(folder: Path) -> Path:
    path = folder / "links.parquet"
    pq.write_table(pa.table({"URL": ["http://x/1", "http://x/2"], "TEXT": ["a dog", "a cat"], "similarity": [0.3, 0.1]}), path)
    return folder


def captions(folder: Path) -> Path:
    path = folder / "captions.jsonl"
    path.write_text('{"uid": "a", "caption": "one"}\n{"uid": "b", "captions": ["two", "three"]}\n')
    return path


def subset(folder: Path) -> Path:
    path = folder / "subset.txt"
    path.write_text("a\nb\n")
    return path


def graphs(name: str) -> Callable[[Path], Path]:
    return lambda folder: getattr(Published(folder), name.replace("-", "_"))()  # type: ignore[no-any-return]


def use(pool: Pool) -> None:
    """What training, search and a report ask of data, without decoding large pictures."""
    assert pool.fingerprint
    for bad in pool.quarantine:
        assert bad.reason
    for sample in pool:
        assert isinstance(sample.uid, str)
        assert all(isinstance(text.string, str) for text in sample.texts)
        for region in sample.regions:
            assert np.isfinite(region.box).all()
        if sample.image is not None:
            with one_line(DecodeError):
                decode(sample.image, max_pixels=100_000)


ENDINGS = ("csv", "tsv", "jsonl", "parquet")
READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "folder": (folder_of_pictures, lambda path: use(read(path))),
    **{f"table-{end}": (lambda folder, end=end: table(folder, end), lambda path: use(read(path))) for end in ENDINGS},  # type: ignore[misc]
    "tars": (tar, lambda path: use(read(path))),
    "coco-captions": (coco_captions, lambda path: use(read(path))),
    "karpathy": (karpathy, lambda path: use(read(path))),
    "links": (links, lambda path: use(read_links(path))),
    "captions": (captions, captions_by_uid),
    "subset": (subset, read_uids),
    **{f"graphs-{name}": (graphs(name), lambda path, name=name: use(read(path, format=name))) for name in FORMATS},  # type: ignore[misc]
    "graphs-label-studio": (studio, lambda path: use(read(path))),
    "graphs-cvat": (cvat, lambda path: use(read(path))),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_damaged_files(reader: str, cases: int, tmp_path: Path) -> None:
    write, open_ = READERS[reader]
    if reader.endswith("vg150"):
        pytest.importorskip("h5py", reason="needs the extra h5")
    path = write(tmp_path)
    open_(path)  # as it is, it is sound
    fuzz_files(files_of(tmp_path), lambda: open_(path), cases, lambda file: file.suffix not in (".png", ".jpg"))


def npy(*shape: int, kind: str = "f4") -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(np.prod(shape), dtype=kind).reshape(shape))
    return file.getvalue()


PLY = (
    b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nproperty uchar red\n"
    b"property uchar green\nproperty uchar blue\nend_header\n0 0 0 1 2 3\n1 1 1 4 5 6\n"
)
MEDIA_FILES = {
    "image-png": ("image", "a.png", picture()),
    "image-jpeg": ("image", "a.jpg", picture(form="JPEG")),
    "image-webp": ("image", "a.webp", picture(form="WEBP")),
    "image-gif": ("image", "a.gif", picture(form="GIF")),
    "image-tiff": ("image", "a.tif", picture(form="TIFF")),
    "image-bmp": ("image", "a.bmp", picture(form="BMP")),
    "clip-gif": ("clip", "a.gif", picture(form="GIF")),
    "cloud-ply": ("cloud", "a.ply", PLY),
    "cloud-npy": ("cloud", "a.npy", npy(5, 6)),
    "volume-npy": ("volume", "a.npy", npy(3, 4, 5, kind="i2")),
    "raster-npy": ("raster", "a.npy", npy(3, 4, 5)),
    "raster-tiff": ("raster", "a.tif", picture(form="TIFF")),
}


@BOTH
@pytest.mark.parametrize("name", MEDIA_FILES)
def test_a_decoder_of_damaged_media(name: str, cases: int) -> None:
    kind, file, content = MEDIA_FILES[name]
    medium = MEDIA.load(kind)()

    def opened(data: bytes) -> None:
        medium.decode(MediaItem(kind, (BytesImage(data, file),)))

    opened(content)

    fuzz_case(lambda draw: damaged(draw, file, content), opened, cases)


def wat_file(folder: Path) -> Path:
    from ..data.web.test_web_archive import PAGE, wat, write_archive

    content = wat([{"path": "IMG@/src", "url": "cat.jpg", "alt": "a cat"}, {"path": "IMG@/src", "url": "/dog.png", "alt": "dog"}])
    return write_archive(folder / "a.wat", [("metadata", PAGE, content)] * 2, zipped=False)


@BOTH
def test_web_archives_damaged_inside_and_out(cases: int, tmp_path: Path) -> None:
    pytest.importorskip("warcio", reason="needs the extra curate")
    from diptych.data.web.web_archive import links_of

    from ..data.web.test_web_archive import PAGE, wat, write_archive

    content = wat([{"path": "IMG@/src", "url": "cat.jpg", "alt": "a cat"}])
    whole = wat_file(tmp_path).read_bytes()

    path = tmp_path / "b.wat"

    def made(draw: Draw) -> None:
        if draw.draw(st.booleans(), "inside"):
            write_archive(path, [("metadata", PAGE, damaged(draw, "x.json", content)), ("metadata", PAGE, content)], zipped=False)
        else:
            path.write_bytes(damaged(draw, "b.wat", whole))

    def opened(_: None) -> None:
        bad: list[Any] = []
        assert all(isinstance(link.text, str) for link in links_of(path, bad))

    fuzz_case(made, opened, cases)
