"""Slides are cut at one scale whatever their scanner's, tissue is found, and what was computed of it survives a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, MissingExtra
from diptych.core.image import BytesImage, FileImage
from diptych.core.media import MediaItem
from diptych.data.dataset import Pool
from diptych.data.media.formats.tiled_tiff import pyramid, tiled_tiff
from diptych.data.media.slide import Slide
from diptych.data.slides.barcodes import grouped_by_patient, patient_of
from diptych.data.slides.features import SlideFeatures, kept_features, path_of, read_features, write_features
from diptych.data.slides.tiling import Tiling, pixels_of, tiles_of
from diptych.data.slides.tissue_mask import otsu, saturation, tissue_mask
from diptych.worlds.tissue.slides import GLASS, drawn, layout, slides

pytest.importorskip("openslide", reason="needs the extra 'slides'")
pytest.importorskip("h5py", reason="needs the extra 'slides'")


def opened(pixels: np.ndarray, levels: int = 1, spacing: float | None = 0.5, engine: Any = "openslide") -> Any:
    data = tiled_tiff(pyramid(pixels, levels), spacing=spacing)
    return Slide(engine=engine).decode(MediaItem("slide", (BytesImage(data, "one.tif"),)))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("engine", ["openslide", "tiffslide"])
def test_a_real_slide_reads_alike_in_both_libraries(engine: Any, tmp_path: Path) -> None:
    """Immunostained colon of scikit-image, tiled to 4096 x 4096 pixels in three levels, as `tifffile` writes it."""
    pytest.importorskip(engine, reason=f"needs the extra of {engine}")
    data, tifffile = (pytest.importorskip(name, reason="needs the extra 'peers'") for name in ("skimage.data", "tifffile"))
    whole = np.tile(data.immunohistochemistry(), (8, 8, 1))
    file = tmp_path / "colon.tif"
    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        writer.write(whole, tile=(256, 256), photometric="rgb", subifds=0, **resolution)
        for step in (2, 4):
            scaled = {"resolution": (20_000 / step, 20_000 / step), "resolutionunit": "CENTIMETER"}
            writer.write(np.ascontiguousarray(whole[::step, ::step]), tile=(256, 256), photometric="rgb", subfiletype=1, **scaled)
    slide = Slide(engine=engine).decode(MediaItem("slide", (FileImage(file),)))
    assert slide.size == (4096, 4096)
    assert [*slide.levels] == [1.0, 2.0, 4.0]
    assert slide.spacing == pytest.approx(0.5)
    assert np.array_equal(slide.region(700, 1300, 300, 200), whole[1300:1500, 700:1000])
    assert np.array_equal(slide.region(512, 1024, 100, 100, level=1), whole[1024:1224:2, 512:712:2])
    tiling = Tiling(size=128, mpp=1.0, tissue=0.2)
    tiles = tiles_of(slide, tiling, str(file))
    assert (tiles.level, tiles.extent, tiles.candidates) == (1, 256, 256)
    assert len(tiles) >= 200, "stained tissue covers most of the picture"
    first = next(pixels_of(slide, tiles, tiling))
    x, y = tiles.place_N2[0]
    assert np.array_equal(first, whole[y : y + 256 : 2, x : x + 256 : 2])


def test_our_tiff_has_its_levels_its_scale_and_its_pixels() -> None:
    pixels = noise(600, 700)
    for engine in ("openslide", "tiffslide"):
        if engine == "tiffslide":
            pytest.importorskip("tiffslide", reason="needs the extra 'tiffslide'")
        slide = opened(pixels, 3, 0.25, engine)
        assert slide.size == (700, 600)
        assert [*slide.levels] == pytest.approx([1.0, 2.0, 4.0])
        assert slide.spacing == pytest.approx(0.25, rel=1e-4)
        assert np.array_equal(slide.region(90, 240, 64, 32), pixels[240:272, 90:154])
        assert np.array_equal(slide.region(200, 300, 40, 20, level=1), pyramid(pixels, 2)[1][150:170, 100:140])
    assert opened(pixels, spacing=None).spacing is None


def test_the_level_is_chosen_by_micrometres_and_not_by_its_index() -> None:
    pixels = noise(640, 640)
    fine, coarse = opened(pixels, 3, 0.25), opened(pixels[:320, :320], 2, 0.5)
    for slide, extent, level in ((fine, 128, 2), (coarse, 64, 1)):
        tiles = tiles_of(slide, Tiling(size=32, mpp=1.0, tissue=0.0), "one")
        assert (tiles.extent, tiles.level, slide.levels[tiles.level]) == (extent, level, extent / 32)
        assert len(tiles) == tiles.candidates == 25
    between = tiles_of(fine, Tiling(size=32, mpp=0.75, tissue=0.0), "one")
    assert (between.extent, fine.levels[between.level]) == (96, 2.0), "read at 0.5, made smaller to 0.75"
    assert next(pixels_of(fine, between, Tiling(size=32, mpp=0.75))).shape == (32, 32, 3)
    half = tiles_of(fine, Tiling(size=32, mpp=1.0, overlap=0.5, tissue=0.0), "one")
    assert half.stride == 64
    assert len(half) == 81


def test_otsu_and_saturation_are_the_known_ones() -> None:
    filters = pytest.importorskip("skimage.filters", reason="needs the extra 'peers'")
    from PIL import Image

    rng = np.random.default_rng(0)
    for _ in range(5):
        values = np.clip(np.concatenate([rng.normal(40, 12, 900), rng.normal(150, 30, 300)]), 0, 255).astype(np.uint8)
        assert otsu(values) == filters.threshold_otsu(values)
    assert otsu(np.full(9, 7, np.uint8)) == 7
    pixels = noise(40, 40)
    theirs = np.asarray(Image.fromarray(pixels).convert("HSV"))[..., 1].astype(int)
    assert np.abs(saturation(pixels).astype(int) - theirs).max() <= 1
    assert not tissue_mask(np.full((8, 8, 3), 243, np.uint8)).any()
    assert not tissue_mask(np.clip(np.random.default_rng(1).normal(243, 2, (64, 64, 3)), 0, 255).astype(np.uint8)).any()


def test_tiles_of_glass_are_passed_over_and_tiles_of_tissue_are_not() -> None:
    rng = np.random.default_rng(2)
    truth = layout(rng, 12, 0.1)
    slide = opened(drawn(rng, truth, "fibroma"), 3)
    tiles = tiles_of(slide, Tiling(size=48, mpp=0.5, tissue=0.25), "one")
    seen = {(int(y) // 48, int(x) // 48) for x, y in tiles.place_N2}
    assert seen == {(int(y), int(x)) for y, x in np.argwhere(truth != GLASS)}
    assert tiles.candidates == 144


@pytest.mark.parametrize(
    ("spacing", "tiling", "message"),
    [
        (None, Tiling(size=32), r"has no micrometres per pixel .*--spacing"),
        (1.0, Tiling(size=32, mpp=0.5), "scanned at 1 micrometres per pixel, more coarsely than the requested 0.5"),
        (0.5, Tiling(size=512), "has 300 x 200 pixels, a tile 512"),
    ],
)
def test_a_slide_that_cannot_be_cut_costs_one_line(spacing: float | None, tiling: Tiling, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        tiles_of(opened(noise(200, 300), spacing=spacing), tiling, "one.tif")
    assert str(caught.value).startswith("one.tif")
    assert "\n" not in str(caught.value)
    if spacing is None:
        assert len(tiles_of(opened(noise(200, 300), spacing=None), replace(tiling, spacing=0.5, tissue=0.0), "one.tif")) == 54
    with pytest.raises(ConfigError):
        Tiling(overlap=1.0)


def test_features_come_back_and_other_settings_are_refused(tmp_path: Path) -> None:
    slide = opened(noise(200, 300))
    tiles = tiles_of(slide, Tiling(size=64, tissue=0.0), "one")
    vectors = np.random.default_rng(0).normal(size=(len(tiles), 5)).astype(np.float32)
    settings = {"mpp": 0.5, "model": "m"}
    write_features(path_of(tmp_path, "a"), SlideFeatures(tiles, vectors, settings))
    again = kept_features(tmp_path, "a", settings)
    assert again is not None
    assert np.array_equal(again.vector_ND, vectors)
    assert np.array_equal(again.tiles.place_N2, tiles.place_N2)
    assert (again.tiles.shape, again.tiles.extent) == ((300, 200), 64)
    assert kept_features(tmp_path, "b", settings) is None
    with pytest.raises(DataError, match=r"was made with mpp 0\.5, not 1\.0"):
        kept_features(tmp_path, "a", {**settings, "mpp": 1.0})
    (tmp_path / "c.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a file of slide features"):
        read_features(tmp_path / "c.h5")


def test_patients_come_from_barcodes() -> None:
    assert patient_of("TCGA-KN-8425-01Z-00-DX1.1D2AB7D2") == "TCGA-KN-8425"
    for bad in ("TCGA-KN", "TCGA-KN-842-01Z", "C3N-02373-22", "TCGA-KN-84255"):
        with pytest.raises(DataError, match="does not name a patient"):
            patient_of(bad)
    rows = [replace(slides(1, tiles=8)[0], uid=uid, extras={}) for uid in ("TCGA-KN-8425-01Z", "TCGA-KN-8425-02Z")]
    assert grouped_by_patient(Pool.from_samples(rows)).groups == ("TCGA-KN-8425", "TCGA-KN-8425")
    with pytest.raises(DataError, match="row 1, field 'uid': barcode 'slide-7' does not name a patient"):
        grouped_by_patient(Pool.from_samples([rows[0], replace(rows[1], uid="slide-7")]))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tiffslide", None)
    with pytest.raises(MissingExtra, match="tiffslide"):
        opened(noise(64, 64), engine="tiffslide")
    with pytest.raises(ConfigError, match="openslide"):
        opened(noise(64, 64), engine="vips")
