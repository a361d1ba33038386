"""IoU of boxes in NumPy against torchvision, pycocotools and counted pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou as torchvision_iou

from diptych.core.box_iou import aligned_box_iou, box_iou


def boxes(count: int, seed: int) -> np.ndarray:
    """Whole-numbered xyxy boxes in 12 x 12 pixels, of at least one pixel."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 10, (count, 2))
    return np.concatenate([low, low + rng.integers(1, 3, (count, 2))], 1).astype(np.float64)


def pixels(box: np.ndarray, last: int) -> np.ndarray:
    grid = np.zeros((14, 14), bool)
    x0, y0, x1, y1 = box.astype(int)
    grid[y0 : y1 + last, x0 : x1 + last] = True
    return grid


def test_pairwise_iou_is_torchvision_s() -> None:
    one, other = boxes(20, 0), boxes(30, 1)
    expected = torchvision_iou(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(box_iou(one, other), expected, atol=1e-12)
    assert box_iou([[5, 5, 5, 5]], [[5, 5, 5, 5]]).tolist() == [[0.0]]
    assert box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)


def test_a_crowd_counts_as_pycocotools_counts_it() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    one, other, crowd = boxes(20, 2), boxes(15, 3), np.arange(15) % 3 == 0
    wide = [np.concatenate([each[:, :2], each[:, 2:] - each[:, :2]], 1) for each in (one, other)]
    expected = mask.iou(*wide, crowd.astype(np.uint8).tolist())
    np.testing.assert_allclose(box_iou(one, other, crowd_M=crowd), expected, atol=1e-12)


def test_aligned_iou_counts_pixels_with_and_without_the_last() -> None:
    one, other = boxes(200, 4), boxes(200, 5)
    for inclusive in (False, True):
        cells = [(pixels(a, inclusive), pixels(b, inclusive)) for a, b in zip(one, other, strict=True)]
        expected = [(a & b).sum() / (a | b).sum() for a, b in cells]
        np.testing.assert_allclose(aligned_box_iou(one, other, inclusive=inclusive), expected, atol=1e-12)
    apart = np.array([[0.0, 0, 2, 2]]), np.array([[2.0, 0, 4, 2]])
    assert aligned_box_iou(*apart, inclusive=True)[0] > 0
    assert aligned_box_iou(*apart, inclusive=True, touching=False).tolist() == [0.0]
