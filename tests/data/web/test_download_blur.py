"""Boxes are blurred as img2dataset defines it, before pictures are sized; a Ray cluster makes the same bytes."""

from __future__ import annotations

import io
import json
import math
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from diptych.core.errors import DataError, UnknownName
from diptych.data.web.blur import blurred, boxes_of
from diptych.data.web.download import Download, download
from diptych.data.web.download_shard import Resizer
from diptych.data.web.picture_sizing import resized


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def smooth(values_HWC: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur by two passes of a kernel of 2 ceil(4 sigma) + 1 values, mirrored at the borders."""
    radius = math.ceil(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        margins = [(radius, radius) if one == axis else (0, 0) for one in range(3)]
        padded = np.pad(values_HWC, margins, mode="reflect")
        values_HWC = np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), axis, padded)
    return values_HWC


def test_the_blur_is_the_published_mixture() -> None:
    image = picture(60, 80)
    boxes = ((0.25, 0.25, 0.5, 0.5), (0.6, 0.5, 0.7, 0.8))
    mask = np.zeros(image.shape)
    mask[15 - 2 : 30 + 2, 20 - 2 : 40 + 2] = 1  # 20 x 15 pixels, grown by 2
    mask[int(30 - 1.8) : int(48 + 1.8), int(48 - 1.8) : int(56 + 1.8)] = 1
    sigma = 0.1 * 20
    soft = smooth(mask, sigma)
    expected = (image * (1 - soft) + smooth(image.astype(float), sigma) * soft).clip(0, 255)
    done = blurred(image, boxes)
    assert np.abs(done.astype(float) - expected).max() <= 0.51
    assert np.array_equal(done[:, 75:], image[:, 75:])
    assert done[18:28, 25:35].std() < image[18:28, 25:35].std() / 3


def test_a_box_at_the_border_is_blurred_and_an_empty_one_changes_nothing() -> None:
    image = picture(40, 40)
    assert blurred(image, [(0.0, 0.0, 0.5, 0.5)])[:15, :15].std() < image[:15, :15].std() / 3
    assert blurred(image, [(0.5, 0.5, 0.5, 0.5)]) is image
    assert blurred(image, [(1.5, 1.5, 1.9, 1.9)]) is image


def test_boxes_of_a_cell() -> None:
    assert boxes_of(None, field="faces") == ()
    assert boxes_of("[[0, 0.1, 0.2, 1]]", field="faces") == boxes_of([[0, 0.1, 0.2, 1]], field="faces") == ((0, 0.1, 0.2, 1),)
    for wrong in ("nothing", [[0, 1]], [[0, 0, 30, 40]], [[0, 0, float("nan"), 1]], 5):
        with pytest.raises(DataError, match="faces"):
            boxes_of(wrong, field="faces")


class Apart:
    """Calls what it is given at once, and counts."""

    calls = 0

    def submit(self, function: Any, /, *args: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


def test_the_blur_comes_before_the_size_and_travels_to_other_processes() -> None:
    file = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(file, "PNG")
    options = Download(size=32, encode="png", blur="faces")
    boxes = ((0.2, 0.2, 0.8, 0.8),)
    data, _ = resized(file.getvalue(), options, boxes=boxes)
    blurred_file = io.BytesIO()
    Image.fromarray(blurred(picture(64, 64), boxes)).save(blurred_file, "PNG")
    assert data == resized(blurred_file.getvalue(), options)[0] != resized(file.getvalue(), options)[0]
    apart = Apart()
    assert Resizer(options, apart)(file.getvalue(), "a", boxes)[0] == data
    assert apart.calls == 1


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    links = pa.table({"uid": ["a"], "url": ["http://127.0.0.1/a"], "text": ["a"], "boxes": [json.dumps([[0, 0, 1, 1]])]})
    with pytest.raises(UnknownName, match="faces"):
        download(links, tmp_path / "out", Download(blur="faces"))


@pytest.mark.slow
def test_a_ray_cluster_sizes_the_same_bytes() -> None:
    pytest.importorskip("ray")
    from diptych.core.ray_cluster import RayExecutor

    file = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(file, "PNG")
    options = Download(size=32, engine="ray")
    assert Resizer(options, RayExecutor("a test"))(file.getvalue(), "a") == Resizer(options, None)(file.getvalue(), "a")
