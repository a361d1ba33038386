"""Media from where users have them to a batch: folder, tar and table -> pool -> build -> open -> draw."""

from __future__ import annotations

import gc
import io
import json
import sys
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from diptych.cli.commands.data import main as data_command
from diptych.core.contracts import Draws, Recipe
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.load.stream import batches
from diptych.data.media.decode import decode
from diptych.data.read import read
from diptych.data.read.media import MediaNames, NamedPart
from diptych.data.shards.build import build, open_built

RNG = np.random.default_rng(5)
COUNT = 6
CONTENT: dict[str, np.ndarray] = {
    "images": RNG.integers(0, 256, (COUNT, 3, 8, 9, 3), dtype=np.uint8),
    "clip": RNG.integers(0, 256, (COUNT, 12, 8, 6, 3), dtype=np.uint8),
    "cloud": RNG.normal(size=(COUNT, 30, 5)).astype(np.float32),
    "volume": RNG.integers(-1000, 3000, (COUNT, 4, 6, 5), dtype=np.int16),
    "raster": RNG.integers(0, 65536, (COUNT, 7, 5, 1), dtype=np.uint16),
}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def ply(points: np.ndarray) -> bytes:
    names = ["x", "y", "z", "nx", "red"]
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    return head.encode() + points.astype("<f4").tobytes()


def webp(frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    first, *rest = map(Image.fromarray, frames)
    first.save(file, "WEBP", save_all=True, append_images=rest, lossless=True)
    return file.getvalue()


def numbered(label: str) -> Callable[[np.ndarray], dict[str, bytes]]:
    """Parts without leading zeros: 10 must not come before 2."""
    return lambda pictures: {f"{label}.{number}.png": png(picture) for number, picture in enumerate(pictures)}


FILES: dict[str, tuple[str, Callable[[np.ndarray], dict[str, bytes]]]] = {
    "several pictures": ("images", numbered("images")),
    "frames": ("clip", numbered("clip")),
    "animation": ("clip", lambda frames: {"clip.webp": webp(frames)}),
    "cloud": ("cloud", lambda points: {"cloud.npy": npy(points)}),
    "ply": ("cloud", lambda points: {"ply": ply(points)}),
    "volume": ("volume", lambda voxels: {"volume.npy": npy(voxels)}),
    "raster": ("raster", lambda values: {"raster.png": png(values[..., 0])}),
}


def members(kind: str) -> dict[str, bytes]:
    medium, files = FILES[kind]
    found = {}
    for n, content in enumerate(CONTENT[medium]):
        found |= {f"k{n}.{ending}": data for ending, data in files(content).items()}
        found[f"k{n}.txt"] = f"number {n}".encode()
    return found


def write_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(files: Mapping[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@dataclass(frozen=True)
class MediumBatch(TensorBatch):
    content_B: Rows[torch.Tensor]
    number_B: Rows[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Reads(Recipe):
    """Stacks one medium."""

    medium: str = ""
    batch_size: int = 3
    needs = ("texts",)

    def load(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        return {name: item.decode() for name, item in sample.media.items()}

    def batch(self, draws: Draws) -> MediumBatch:
        content = np.stack([np.asarray(draw.media[self.medium]) for draw in draws])
        numbers = [int(draw.sample.texts[0].string.split()[1]) for draw in draws]
        return MediumBatch(torch.from_numpy(content.astype(np.float64)), torch.tensor(numbers))

    def model(self): ...  # type: ignore[no-untyped-def]
    def features(self, model, batch): ...  # type: ignore[no-untyped-def]
    def losses(self, features, batch): ...  # type: ignore[no-untyped-def]
    def deploy(self, model): ...  # type: ignore[no-untyped-def]
    @classmethod
    def tiny(cls): ...  # type: ignore[no-untyped-def]
    @classmethod
    def paper(cls): ...  # type: ignore[no-untyped-def]


def drawn_are(data: Any, medium: str) -> None:
    seen = set()
    for step in batches(data, Reads(medium=medium), seed=0, stop=2):
        assert not step.failures
        for content, number in zip(step.batch.content_B.numpy(), step.batch.number_B.tolist(), strict=True):
            assert np.array_equal(content, CONTENT[medium][number].astype(np.float64))
            seen.add(number)
    assert seen == set(range(COUNT))


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("kind", list(FILES))
def test_from_a_source_to_a_batch(kind: str, form: str, tmp_path: Path) -> None:
    medium = FILES[kind][0]
    files = members(kind)
    pool = read(write_folder(files, tmp_path / "source") if form == "folder" else write_tar(files, tmp_path / "source.tar"))
    assert len(pool) == COUNT
    assert not pool.quarantine
    assert [text.string for text in pool[1].texts] == ["number 1"]
    drawn_are(pool, medium)
    report = build(pool, tmp_path / "built", shard_samples=4)
    assert report.quarantined == 0
    opened = open_built(tmp_path / "built")
    assert opened[0].media[medium].decode()[0].dtype == CONTENT[medium].dtype
    drawn_are(opened, medium)
    foreign = read(str(tmp_path / "built" / "shards" / "*.tar"))  # as any reader of tars would find them
    drawn_are(foreign, medium)


@pytest.mark.parametrize("kind", ["picture", *FILES])
def test_the_commands_build_verify_and_inspect_every_medium(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "picture":
        files = {f"k{n}.png": png(picture) for n, picture in enumerate(CONTENT["images"][:, 0])}
        files |= {f"k{n}.txt": f"number {n}".encode() for n in range(COUNT)}
    else:
        files = members(kind)
    source, out = str(write_folder(files, tmp_path / "source")), str(tmp_path / "built")

    def asked(*words: str) -> dict[str, Any]:
        assert data_command([*words, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    built = asked("build", source, out, "--shard-samples", "4")
    assert (built["samples"], built["quarantined"]) == (COUNT, 0)
    assert asked("verify", out)["samples"] == COUNT
    page = tmp_path / "page.html"
    report = asked("inspect", out, "--tokenizer", "", "--page", str(page))
    assert (report["samples"], report["broken"]) == (COUNT, [])
    assert page.read_text().count("data:image/") >= COUNT, "a thumbnail a sample"
    opened = read(out)
    if kind == "picture":
        assert report["media"] == {}
        for row, uid in enumerate(opened.uids):
            assert np.array_equal(decode(opened[row].image, exact=True), CONTENT["images"][int(uid[1:]), 0])
        return
    medium = FILES[kind][0]
    assert report["media"] == {medium: COUNT}
    ((shape, count),) = report["shapes"][medium].items()
    assert count == COUNT
    assert shape.startswith(f"{CONTENT[medium].dtype} ")
    drawn_are(opened, medium)


def test_a_folder_of_frames_beside_a_picture(tmp_path: Path) -> None:
    frame_THWC = CONTENT["clip"][0]
    files = {f"a/v.1.clip/{number}.png": png(frame_HWC) for number, frame_HWC in enumerate(frame_THWC)}
    files |= {"a/v.1.png": png(frame_THWC[3]), "a/v.1.txt": b"a film", "a/notes.clip/readme.md": b"no frames"}
    pool = read(write_folder(files, tmp_path / "source"), group="folder")
    assert list(pool.uids) == ["a_v-1"]
    assert pool[0].group == "a"
    assert np.array_equal(pool[0].media["clip"].decode(), frame_THWC)
    assert np.array_equal(pool[0].shown.thumbnail(), frame_THWC[3])


def test_endings_that_the_user_names(tmp_path: Path) -> None:
    depth, scan = CONTENT["raster"][0][..., 0], CONTENT["volume"][0]
    files = {"u.depth.npy": npy(depth), "u.npy": npy(scan), "u.png": png(CONTENT["clip"][0][0]), "u.txt": b"a room"}
    asked = {"npy": "volume", "depth.npy": "raster"}
    for pool in (
        read(write_folder(files, tmp_path / "folder"), media=asked),
        read(write_tar(files, tmp_path / "one.tar"), media=asked),
    ):
        sample = pool[0]
        assert {name: item.medium for name, item in sample.media.items()} == {"depth": "raster", "volume": "volume"}
        assert np.array_equal(sample.media["depth"].decode()[..., 0], depth)
        assert np.array_equal(sample.media["volume"].decode(), scan)
        assert sample.image is not None
    with pytest.raises(DataError, match=r"no file ends in \.ply2"):
        read(tmp_path / "folder", media={"ply2": "cloud"})
    with pytest.raises(UnknownName, match="did you mean 'cloud'"):
        read(tmp_path / "folder", media={"npy": "clouds"})


def test_without_a_word_a_bare_array_is_nobodys_business(tmp_path: Path) -> None:
    files = {"u.npy": npy(np.zeros(3)), "u.png": png(CONTENT["clip"][0][0]), "u.txt": b"a"}
    for pool in (read(write_folder(files, tmp_path / "folder")), read(write_tar(files, tmp_path / "one.tar"))):
        assert not pool.has_media
        assert len(pool) == 1


def test_columns_of_a_table(tmp_path: Path) -> None:
    write_folder({f"p/{n}.npy": npy(points) for n, points in enumerate(CONTENT["cloud"])}, tmp_path)
    for n, frames in enumerate(CONTENT["clip"]):
        write_folder({f"v/{n}/{t}.png": png(frame) for t, frame in enumerate(frames)}, tmp_path)
    lines = ["points,video,caption", *(f"p/{n}.npy,v/{n},number {n}" for n in range(COUNT)), "p/0.npy,v/0,once more"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    pool = read(tmp_path / "t.csv", media={"points": "cloud", "video": "clip"})
    assert len(pool) == COUNT
    assert [text.string for text in pool[0].texts] == ["number 0", "once more"]
    assert not pool.extra_names
    for n in range(COUNT):
        assert np.array_equal(pool[n].media["points"].decode(), CONTENT["cloud"][n])
        assert np.array_equal(pool[n].media["video"].decode(), CONTENT["clip"][n])
    with pytest.raises(DataError, match="none of the first"):
        read(tmp_path / "t.csv", media={"points": "cloud"}, root=tmp_path / "elsewhere")
    with pytest.raises(DataError, match="did you mean 'points'"):
        read(tmp_path / "t.csv", media={"point": "cloud"})


def test_bytes_and_lists_of_a_parquet_table(tmp_path: Path) -> None:
    table = pa.table(
        {
            "scan": [npy(voxels) for voxels in CONTENT["volume"]],
            "frames": [[png(frame) for frame in frames] for frames in CONTENT["clip"]],
            "caption": [f"number {n}" for n in range(COUNT)],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    pool = read(tmp_path / "t.parquet", media={"scan": "volume", "frames": "clip"})
    assert np.array_equal(pool[2].media["scan"].decode(), CONTENT["volume"][2])
    assert np.array_equal(pool[2].media["frames"].decode(), CONTENT["clip"][2])


def test_a_row_with_nothing_but_a_text_is_left_out(tmp_path: Path) -> None:
    files = members("cloud")
    del files["k2.cloud.npy"]
    for pool in (read(write_folder(files, tmp_path / "folder")), read(write_tar(files, tmp_path / "one.tar"))):
        assert len(pool) == COUNT - 1
        (bad,) = pool.quarantine
        assert bad.uid == "k2"
        assert "no image" in bad.reason


def test_names_by_hand() -> None:
    named = MediaNames({"npz.npy": "volume"})
    assert named.part("a.clip.gif") == NamedPart("a", "clip", "clip")
    assert named.part("a.b.Clip.007.jpg") == NamedPart("a.b", "clip", "clip", 7)
    assert named.part("a.raster-near-IR.tif") == NamedPart("a", "near-IR", "raster")
    assert named.part("a.PLY") == NamedPart("a", "cloud", "cloud")
    assert named.part("a.npz.npy") == NamedPart("a", "npz", "volume")
    assert [named.part(name) for name in ("a.jpg", "a.gif", "a.v3.jpg", "clip.gif", ".clip.gif", "a.image.png", "a.npy")] == [
        None
    ] * 7


def test_the_command_takes_endings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"u.npy": npy(CONTENT["volume"][0]), "u.txt": b"a scan"}
    write_folder(files, tmp_path / "source")
    assert data_command(["build", str(tmp_path / "source"), str(tmp_path / "built"), "--media", "npy=volume"]) == 0
    assert np.array_equal(open_built(tmp_path / "built")[0].media["volume"].decode(), CONTENT["volume"][0])
    with pytest.raises(ConfigError, match="does not name a kind"):
        data_command(["inspect", str(tmp_path / "source"), "--media", "npy"])


def test_data_of_pictures_alone_keep_their_identity_and_bytes(tmp_path: Path) -> None:
    """Numbers from before there were media: nobody's fingerprint changes."""
    files = {f"p{n}.txt": f"picture {n}".encode() for n in range(5)}
    for n in range(5):
        file = io.BytesIO()
        Image.fromarray(np.full((4 + n, 6, 3), (n, 90, 250 - n), np.uint8)).save(file, "BMP")
        files[f"p{n}.bmp"] = file.getvalue()
    pool = read(write_folder(files, tmp_path / "pictures"))
    report = build(pool, tmp_path / "built")
    assert pool.fingerprint == "6185a585fd5e5431"
    assert report.fingerprint == "f27065f81cf0e084"
    assert read("emoji").content_fingerprint() == "215d5bbb1de0a781"
    assert not (tmp_path / "built/tables/media.parquet").exists()


class Cyclic:
    """Freed by the collector alone, which runs Python and so lets other threads go on in the middle of what this one parses."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(30):
            pass


def test_threads_read_arrays_at_once() -> None:
    item = MediaItem("volume", (BytesImage(npy(CONTENT["volume"][0]), "u.npy"),))
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5, 2, 2)
    try:
        with ThreadPoolExecutor(8) as threads:
            read = list(threads.map(lambda _: ([Cyclic() for _ in range(3)], item.decode())[1], range(3000)))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
    assert all(np.array_equal(array, CONTENT["volume"][0]) for array in read)
