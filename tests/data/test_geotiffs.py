"""Pictures from above in the layouts of published sets, and GeoTIFF as rows: bands, tiles, classes, coordinates, bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.data.media.decode import decode, encode_png
from diptych.data.media.scene_file import SceneFile
from diptych.worlds.overhead.scenes import METRES, geotiff

RANDOM = np.random.default_rng(0)


def pixels(side: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RANDOM.integers(0, 256, (side, side, 3), dtype=np.uint8)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("file", "folder", "ending"),
    [("dataset_rsicd.json", "RSICD_images", "png"), ("dataset_RSITMD.json", "images", "tif"), ("dataset.json", "imgs", "tif")],
)
def test_caption_files_of_published_sets(file: str, folder: str, ending: str, tmp_path: Path) -> None:
    """RSICD, RSITMD and UCM captions: one JSON file in Karpathy's form beside a folder of pictures."""
    names = [f"airport_{number}.{ending}" for number in range(3)]
    for name in names:
        write(tmp_path / folder / name, geotiff(pixels(), crs=None) if ending == "tif" else encode_png(pixels()))
    images = [
        {
            "filename": name,
            "imgid": number,
            "split": ("train", "val", "test")[number],
            "sentids": [5 * number],
            "sentences": [
                {"tokens": ["planes"], "raw": f"{number} planes near a terminal .", "imgid": number, "sentid": 5 * number}
            ],
        }
        for number, name in enumerate(names)
    ]
    (tmp_path / file).write_text(json.dumps({"images": images, "dataset": file}))
    pool = dp.read(tmp_path / file)
    assert [*pool.split_names] == ["train", "val", "test"]
    assert [pool[row].texts[0].string for row in range(3)] == [f"{n} planes near a terminal ." for n in range(3)]
    image = pool[0].image
    assert image is not None
    assert decode(image).shape == (32, 32, 3)


@pytest.mark.parametrize(("file", "folder"), [("rsicd_test.csv", "RSICD_images"), ("rsitmd_test.csv", "images")])
def test_tables_of_published_sets(file: str, folder: str, tmp_path: Path) -> None:
    """Tables that GeoRSCLIP tests on: a row a caption, pictures in a folder beside, RSICD's in GB 18030."""
    strings = ["a plane\uff0c near a terminal", "it’s grey"]
    for number in range(2):
        write(tmp_path / folder / f"airport_{number}.png", encode_png(pixels()))
    rows = ["filename,title", *(f"airport_{number}.png,{text}" for number in range(2) for text in strings)]
    encoding = "gb18030" if "rsicd" in file else "utf-8"
    (tmp_path / file).write_text("\n".join(rows), encoding=encoding)
    pool = dp.read(tmp_path / file)
    assert [[text.string for text in sample.texts] for sample in pool] == [strings, strings]
    image = pool[0].image
    assert image is not None
    assert decode(image).shape == (32, 32, 3)


def test_encodings_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode_png(pixels()))
    (tmp_path / "t.csv").write_bytes("image;caption\na.png;été".encode("latin-1"))
    with pytest.raises(DataError, match=r"byte 20 \(line 2\) is 0xe9 .*encoding=NAME"):
        dp.read(tmp_path / "t.csv")
    assert dp.read(tmp_path / "t.csv", encoding="latin-1")[0].texts[0].string == "été"
    (tmp_path / "t.csv").write_text("image;caption\na.png;été", encoding="utf-16")
    assert dp.read(tmp_path / "t.csv", encoding="utf-16")[0].texts[0].string == "été"
    for encoding in ("ascii", "none-such"):
        with pytest.raises(DataError, match=f"cannot be read with encoding '{encoding}'"):
            dp.read(tmp_path / "t.csv", encoding=encoding)
    assert main(["data", "build", str(tmp_path / "t.csv"), str(tmp_path / "out"), "--encoding", "utf-16"]) == 0


def test_class_folders_of_pictures(tmp_path: Path) -> None:
    """AID: a folder a class, whose name is the text."""
    for name in ("Airport", "DenseResidential"):
        write(tmp_path / name / f"{name.lower()}_1.png", encode_png(pixels()))
    pool = dp.read(tmp_path, text="folder")
    assert [(pool[row].texts[0].string, pool[row].texts[0].origin) for row in range(2)] == [
        ("Airport", "label"),
        ("DenseResidential", "label"),
    ]


def test_class_folders_of_many_bands(tmp_path: Path) -> None:
    """EuroSAT with all thirteen bands: red, green and blue are the fourth, third and second."""
    values = RANDOM.integers(200, 4000, (64, 64, 13)).astype(np.uint16)
    for name in ("AnnualCrop", "SeaLake"):
        write(tmp_path / name / f"{name}_1.tif", geotiff(values))
    pool = dp.read(tmp_path, format="geotiff?bands=4,3,2")
    assert [pool[row].extras["label"] for row in range(2)] == ["annual crop", "sea lake"]
    assert pool[1].texts[0].string == "sea lake"
    image = pool[0].image
    assert image is not None
    low, high = np.percentile(values[..., 3], (2, 98))
    red = np.rint(np.clip((values[..., 3] - low) / (high - low), 0, 1) * 255)
    np.testing.assert_array_equal(decode(image, exact=True)[..., 0], red)
    with pytest.raises(DataError, match="has 13 bands, asked for 14, 3, 2"):
        dp.read(tmp_path, format="geotiff?bands=14,3,2")


def test_tiles_know_where_they_lie(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", geotiff(pixels(200)))
    pool = dp.read(path, format="geotiff?tile=96&overlap=16")
    assert [pool[row].extras["box"] for row in range(3)] == [[0, 0, 96, 96], [80, 0, 176, 96], [104, 0, 200, 96]]
    assert len(pool) == 9
    assert {*pool.groups} == {"scene.tif"}
    with SceneFile.open(path) as scene:
        for row in range(len(pool)):
            sample = pool[row]
            left, top, right, bottom = sample.extras["box"]
            assert sample.image is not None
            np.testing.assert_array_equal(decode(sample.image, exact=True), scene.window((left, top, right, bottom)))
            middle = scene.lon_lat((left + right) / 2, (top + bottom) / 2)
            assert (sample.extras["longitude"], sample.extras["latitude"]) == pytest.approx(middle, abs=1e-12)
    east = (pool[1].extras["longitude"] - pool[0].extras["longitude"]) * 84_300  # metres a degree at 40.6 degrees north
    assert east == pytest.approx(80 * METRES, rel=0.02)


def test_built_tiles_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "scenes" / "one.tif", geotiff(pixels(64)))
    out = tmp_path / "built"
    assert main(["data", "build", str(tmp_path / "scenes"), str(out), "--format", "geotiff?tile=32"]) == 0
    capsys.readouterr()
    built, read = dp.read(out), dp.read(tmp_path / "scenes", format="geotiff?tile=32")
    by_uid = {read[row].uid: read[row] for row in range(4)}
    for row in range(4):
        sample = built[row]
        theirs = by_uid[sample.uid].image
        assert sample.image is not None
        assert theirs is not None
        np.testing.assert_array_equal(decode(sample.image, exact=True), decode(theirs, exact=True))
        assert list(sample.extras["box"]) == by_uid[sample.uid].extras["box"]


def test_bad_files_are_left_out_and_bad_options_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "good.tif", geotiff(pixels(), crs=None))
    write(tmp_path / "a" / "cut.tif", geotiff(pixels())[:60])
    write(tmp_path / "a" / "empty.tif", b"")
    outside = write(tmp_path.parent / f"{tmp_path.name}_outside.tif", geotiff(pixels()))
    (tmp_path / "a" / "link.tif").symlink_to(outside)
    pool = dp.read(tmp_path, format="geotiff")
    assert [pool[row].uid for row in range(len(pool))] == ["a_good"]
    assert "longitude" not in pool[0].extras
    assert pool[0].extras["crs"] == ""
    reasons = {Path(entry.file).name: entry.reason for entry in pool.quarantine}
    assert {*reasons} == {"cut.tif", "empty.tif", "link.tif"}
    assert "leads out" in reasons["link.tif"]
    for words in ("geotiff?bands=4,3", "geotiff?side=3", "geotiff?tile=x", "geotiff?tile=1,2", "geotiff?tile=8&overlap=8"):
        with pytest.raises(DataError):
            dp.read(tmp_path, format=words)
    with pytest.raises(DataError, match="contains no GeoTIFF"):
        dp.read(write(tmp_path / "b" / "x.txt", b"x").parent, format="geotiff")


def test_a_band_of_floats_and_a_single_band(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(-1, 1, 64, dtype=np.float32), (64, 1))[..., None]
    ramp[:, 60:] = np.nan
    path = write(tmp_path / "ndvi.tif", geotiff(ramp, nodata=float("nan")))
    with SceneFile.open(path) as scene:
        window = scene.window((0, 0, 64, 64))
    assert (window[:, 60:] == 0).all()
    assert (np.diff(window[0, :60, 0].astype(int)) >= 0).all()
    assert window[..., 0].max() == 255
    assert (window[..., 0] == window[..., 2]).all()
    assert decode(FileImage(write(tmp_path / "x.png", encode_png(window)))).shape == (64, 64, 3)
