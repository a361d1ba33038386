"""Localisation in scenes: the published scores, windows by hand, hits within a window of the truth through the coordinate system."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from diptych import api
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.data.media.box_filters import box_mean, box_median
from diptych.data.media.decode import decode, encode_png
from diptych.data.media.scene_file import SceneFile
from diptych.pipelines.scene_localisation import SceneMapOptions, locate, probability_map, scene_windows, window_means
from diptych.tasks._scoring.semantic_localisation import (
    PeakOptions,
    attention_discreteness,
    attention_peaks,
    attention_shift,
    localisation_scores,
    region_circle,
    salient_share,
)

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

RELEASED = Path(__file__).parents[1] / "parity" / "released" / "selo_released.npz"
"""Scores by xiaoyuan1996/SemanticLocalizationMetrics 1e9596d of four maps, each with the published windows and with small ones."""
SQUARE = [(100, 80), (300, 80), (300, 260), (100, 260)]
REGIONS = (
    [SQUARE],
    [[(500, 100), (800, 120), (760, 400), (520, 380)], [(50, 450), (250, 450), (250, 650), (50, 650)]],
    [[(420, 300), (640, 300), (640, 560), (420, 560)]],
    [SQUARE],
)
SMALL = SceneMapOptions((64, 96), median=9, peaks=PeakOptions(blur=5, passes=2, window=101))


class RedSeeker:
    """Embeds an image by how red it is, and any text as red."""

    name, fingerprint = "red seeker", "red"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        return np.stack([self._vector(image) for image in images])

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        return np.tile(np.array([[1.0, 0.0]], np.float32), (len(texts), 1))

    def _vector(self, image: Any) -> np.ndarray:
        pixels = decode(image, exact=True).astype(np.float64)
        angle = math.pi / 2 * (1 - min(1.0, float((pixels[..., 0] - pixels[..., 2]).mean()) / 255))
        return np.array([math.cos(angle), math.sin(angle)], np.float32)


def test_scores_are_the_published_ones(parity: Any) -> None:
    with np.load(RELEASED) as released:
        maps, rows = released["maps"], released["scores"]
    pairs = []
    for case, blur, window, r_su, r_as, r_da, r_mi in rows:
        peaks = PeakOptions(blur=int(blur), window=int(window))
        scores = localisation_scores(maps[int(case)] / 255.0, REGIONS[int(case)], peaks=peaks)
        pairs += [(scores.r_su, r_su), (scores.r_as, r_as), (scores.r_da, r_da), (scores.r_mi, r_mi)]
    assert len({round(float(b), 6) for _, b in pairs}) > 12
    parity(
        "georsclip",
        "four scores of semantic localisation",
        "SLM.py of SemanticLocalizationMetrics (1e9596d)",
        pairs,
        tolerance=1e-6,
    )


def test_scores_of_hand_made_maps() -> None:
    map_HW = np.zeros((64, 64))
    map_HW[20:30, 20:30] = 0.8
    mask_HW = np.zeros((64, 64), bool)
    mask_HW[16:32, 16:32] = True
    assert salient_share(map_HW, mask_HW) == pytest.approx(1.0)
    even = np.full((64, 64), 0.3)
    assert salient_share(even, mask_HW) == pytest.approx(1 - math.exp(-0.707))
    circle = region_circle([(16, 16), (32, 16), (32, 32), (16, 32)])
    assert circle == (24, 24, int(1.5 * math.hypot(8, 8)))
    assert attention_shift([circle], []) == 1.0
    assert attention_shift([circle], [(24, 24)]) == 0.0
    assert attention_shift([circle, circle], [(24, 32)]) == pytest.approx((math.exp(3 * 8 / 16) - 1) / (math.exp(3) - 1))
    assert [attention_discreteness([circle], peaks) for peaks in ([], [(24, 24)], [(60, 60)])] == [0.0, 1.0, 0.0]
    assert attention_discreteness([circle], [(20, 24), (28, 24)]) == pytest.approx(0.5 * (1 - 4 / 16) + math.exp(-2))
    assert attention_peaks(map_HW, PeakOptions(blur=3, passes=1, window=15)) == [(24, 24)]
    assert attention_peaks(map_HW, PeakOptions(blur=3, passes=1, window=15, least=0.9)) == []
    with pytest.raises(DataError, match="probabilities"):
        localisation_scores(map_HW * 2, [SQUARE])
    with pytest.raises(DataError, match="cover none or all"):
        localisation_scores(map_HW, [[(-5, -5), (90, -5), (90, 90), (-5, 90)]])


def test_box_filters_are_naive_loops() -> None:
    value_HW = np.random.default_rng(0).integers(0, 256, (23, 17), dtype=np.uint8)
    np.testing.assert_array_equal(box_median(value_HW, 9), ndimage.median_filter(value_HW, 9, mode="nearest"))
    padded = np.pad(value_HW.astype(float), ((4, 3), (4, 3)), "reflect")
    mean = [[padded[y : y + 8, x : x + 8].mean() for x in range(17)] for y in range(23)]
    np.testing.assert_allclose(box_mean(value_HW, 8), mean, atol=0.5)
    with pytest.raises(ConfigError, match="odd"):
        box_median(value_HW, 8)
    with pytest.raises(ConfigError, match="shorter side"):
        box_mean(value_HW, 40)


def test_windows_and_their_means() -> None:
    boxes = scene_windows(100, 130, (40, 400))
    assert len(set(boxes)) == len(boxes)
    assert boxes[:4] == ((0, 0, 40, 40), (40, 0, 80, 40), (80, 0, 120, 40), (90, 0, 130, 40))
    assert (20, 20, 60, 60) in boxes
    assert scene_windows(30, 50, (40,)) == ((0, 0, 50, 30),)
    value_N = np.random.default_rng(1).random(len(boxes))
    naive = np.zeros((2, 100, 130))
    for (left, top, right, bottom), value in zip(boxes, value_N, strict=True):
        naive[:, top:bottom, left:right] += np.array([value, 1.0])[:, None, None]
    np.testing.assert_allclose(window_means((100, 130), boxes, value_N), naive[0] / naive[1], atol=1e-12)
    assert window_means((100, 130), boxes, value_N, scale=4).shape == (25, 33)
    assert probability_map(np.full((40, 40), 0.2), 3).max() == 0


def scene_pixels(x: int = 300, y: int = 120) -> np.ndarray:
    """Grey noise with a red square of 30 pixels around a point: uint16 reflectance [3, H, W]."""
    value_CHW = np.random.default_rng(2).integers(1800, 2200, (3, 256, 400)).astype(np.uint16)
    value_CHW[0, y - 15 : y + 15, x - 15 : x + 15] = 4000
    value_CHW[1:, y - 15 : y + 15, x - 15 : x + 15] = 100
    return value_CHW


def geotiff(path: Path, value_CHW: np.ndarray, *, crs: str | None = "EPSG:32630", **options: Any) -> Path:
    """Ten metres a pixel, from 500 km east on the zone's central meridian."""
    profile = {"driver": "GTiff", "height": value_CHW.shape[1], "width": value_CHW.shape[2], "count": value_CHW.shape[0]}
    transform = from_origin(500_000, 4_500_000, 10, 10)
    with rasterio.open(path, "w", **profile, dtype=value_CHW.dtype, crs=crs, transform=transform, **options) as file:
        file.write(value_CHW)
    return path


def test_a_hit_lies_at_its_coordinates(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "scene.tif", scene_pixels())
    with SceneFile.open(path) as scene:
        located = locate(RedSeeker(), scene, "red", SMALL)
        best = located.hits[0]
        assert max(abs(best.x - 300), abs(best.y - 120)) < 64
        assert scene.coordinates(300, 120) == (503_000, 4_498_800)
        longitude, latitude = scene.lon_lat(best.x, best.y)
        east, north = scene.lon_lat(300, 120)
        assert east == pytest.approx(-3 + math.degrees(3000 / (0.9996 * 6_378_137 * math.cos(math.radians(40.6)))), abs=2e-4)
        metres = (abs(longitude - east) * 84_500, abs(latitude - north) * 111_000)
        assert max(metres) < 640  # a window
        geojson = located.geojson(scene, "red")
    ring = geojson["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert min(point[0] for point in ring) <= longitude <= max(point[0] for point in ring)


def test_bands_nodata_and_stretch_are_of_the_whole_scene(tmp_path: Path) -> None:
    value_CHW = np.tile(np.linspace(1000, 3000, 200).astype(np.uint16), (4, 100, 1))
    value_CHW[:, :, :20] = 0
    path = geotiff(tmp_path / "bands.tif", value_CHW, nodata=0)
    with SceneFile.open(path, bands=(4, 3, 2)) as scene:
        whole = scene.window((0, 0, 200, 100))
        assert (whole[:, :20] == 0).all()
        low, high = np.percentile(value_CHW[0, :, 20:], (2, 98))
        expected = np.rint(np.clip((value_CHW[0, 0, 20:].astype(float) - low) / (high - low), 0, 1) * 255)
        np.testing.assert_array_equal(whole[0, 20:, 0], expected)
        tiles = list(scene.tiles(64, overlap=16))
        assert {tile.pixels_HWC.shape for tile in tiles} == {(64, 64, 3)}
        for tile in tiles:
            left, top, right, bottom = tile.box
            np.testing.assert_array_equal(tile.pixels_HWC, whole[top:bottom, left:right])
        assert max(tile.box[2] for tile in tiles) == 200
        with pytest.raises(DataError, match="a part of 200 x 100"):
            scene.window((0, 0, 201, 5))
    with pytest.raises(DataError, match="has 4 bands, asked for 5, 3, 2"):
        SceneFile.open(path, bands=(5, 3, 2))
    byte = geotiff(tmp_path / "byte.tif", np.full((3, 40, 40), 77, np.uint8))
    with SceneFile.open(byte) as scene:
        assert scene.window((0, 0, 40, 40)).max() == 77
    (tmp_path / "broken.tif").write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"broken\.tif"):
        SceneFile.open(tmp_path / "broken.tif")


def test_the_command_writes_a_map_and_geojson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "load", lambda address: RedSeeker())
    path = geotiff(tmp_path / "scene.tif", scene_pixels())
    sizes = ["--windows", "64", "96", "--median", "9", "--blur", "5", "--apart", "101"]
    out, hits = tmp_path / "map.png", tmp_path / "hits.geojson"
    assert (
        main(["locate", "runs/clip", str(path), "a red roof", *sizes, "--out", str(out), "--geojson", str(hits), "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert abs(printed["hits"][0]["x"] - 300) < 64
    assert printed["hits"][0]["longitude"] == pytest.approx(
        json.loads(hits.read_text())["features"][0]["properties"]["centre"][0]
    )
    assert out.read_bytes().startswith(b"\x89PNG")
    nowhere = geotiff(tmp_path / "nowhere.tif", scene_pixels(), crs=None)
    assert main(["locate", "runs/clip", str(nowhere), "red", *sizes, "--geojson", str(hits)]) == 1
    assert "has no coordinate system" in capsys.readouterr().err
    picture = tmp_path / "scene.png"
    picture.write_bytes(encode_png((scene_pixels() // 16).astype(np.uint8).transpose(1, 2, 0).copy()))
    assert main(["locate", "runs/clip", str(picture), "red", *sizes]) == 0
    assert " x " in capsys.readouterr().out
