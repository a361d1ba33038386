"""What img2dataset's `Resizer` makes of a picture (rom1504/img2dataset 95523bc under OpenCV 5.0 and albumentations 1.4.18, PNG out), four
modes, with and without `resize_only_if_bigger`, at 12 pixels. The fixture is keyed width-height-mode-flag."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.data.web.download import Download, resized

THEIRS = np.load(Path(__file__).parent / "fixtures" / "img2dataset_sizes.npz")


def picture(width: int, height: int) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    channels = ((7 * x + 3 * y) % 256, (x * y) % 256, (255 - 5 * x + y * 11) % 256)
    file = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels as they are before the JPEG."""
    whole = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda image, file, *_, **__: whole(image, file, "PNG"))


def test_sizes_and_pixels_are_img2datasets(parity: Any) -> None:
    pairs = []
    for name in THEIRS.files:
        width, height, mode, only = name.split("-")
        options: Any = {"size": 12, "resize": mode, "only_if_bigger": only == "1"}
        data, facts = resized(picture(int(width), int(height)), Download(**options))
        found_HWC = np.asarray(Image.open(io.BytesIO(data)))
        assert found_HWC.shape == THEIRS[name].shape, name
        assert (facts["height"], facts["width"]) == found_HWC.shape[:2]
        pairs.append((found_HWC.astype(np.int64), THEIRS[name].astype(np.int64)))
    assert len(pairs) == 32
    parity("laion", "downloaded pictures, sized", "rom1504/img2dataset 95523bc, OpenCV 5.0", pairs, tolerance=1)


def test_pils_filters_are_there_and_differ() -> None:
    ours, pils = (
        np.asarray(Image.open(io.BytesIO(resized(picture(37, 23), Download(size=12, filters=name))[0])))
        for name in ("opencv", "pil")
    )
    assert ours.shape == pils.shape == (12, 12, 3)
    assert np.abs(ours.astype(int) - pils).max() > 5


def test_a_picture_of_too_many_pixels_is_refused() -> None:
    assert resized(picture(20, 10), Download(max_area=200))[1]["original_width"] == 20
    with pytest.raises(DecodeError, match="at most 199 pixels"):
        resized(picture(20, 10), Download(max_area=199))
