"""Label maps as DenseCLIP reads and changes them: labels stay on their pixels, and what is ignored costs nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diptych.core.errors import DataError, ShapeError
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.label_maps import IGNORE, LabelMaps
from diptych.data.masks import decode as decode_mask
from diptych.data.media.augment.segmentation_views import SegmentationView, filled, shaken
from diptych.objectives.segmentation import pixel_cross_entropy
from diptych.worlds.scenes.world import scenes


def test_the_loss_leaves_ignored_pixels_out() -> None:
    logit = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    label[0, :4] = IGNORE
    resized = F.interpolate(logit, size=(8, 8), mode="bilinear")
    each = [
        -float(resized[b, :, y, x].log_softmax(0)[int(label[b, y, x])])
        for b in range(2)
        for y in range(8)
        for x in range(8)
        if label[b, y, x] != IGNORE
    ]
    assert float(pixel_cross_entropy(logit, label)) == pytest.approx(np.mean(each))
    assert float(pixel_cross_entropy(logit, label, count_ignored=True)) == pytest.approx(np.sum(each) / 128)
    assert pixel_cross_entropy(logit, torch.full((2, 8, 8), IGNORE, dtype=torch.uint8)) == 0


def test_label_maps() -> None:
    data = scenes(4)
    sample = data[0]
    names = tuple(sorted({r.label for r in sample.regions} | {"nothing"}))
    label_HW = LabelMaps(names, "nothing")(sample, 64, 64)
    masks = [(r.label, decode_mask(r.mask)) for r in sample.regions]
    covered = np.sum([mask_HW for _, mask_HW in masks], axis=0)
    for label, mask_HW in masks:
        assert (label_HW[mask_HW & (covered == 1)] == names.index(label)).all()
    empty = covered == 0
    assert (label_HW[empty] == names.index("nothing")).all()
    assert (LabelMaps(names)(sample, 64, 64)[empty] == IGNORE).all()
    with pytest.raises(DataError, match=r"in .+ a mask is \[64, 64\] \(expected \[32, 64\], as its image"):
        LabelMaps(names)(sample, 32, 64)
    outlined = replace(sample, regions=(Region((8, 8, 24, 40), names[0], mask=[[8, 8, 24, 8, 24, 40, 8, 40]]),))
    painted_HW = LabelMaps(names)(outlined, 64, 64)
    assert (painted_HW[8:40, 8:24] == 0).all()
    assert (painted_HW != IGNORE).sum() == 32 * 16
    ade = np.array([[0, 1], [2, 255]], np.uint8)
    whole = Sample("a", media={"labels": MediaItem("raster", (ArraySource(ade),))})
    assert LabelMaps(("wall", "sky"), reduce_zero=True)(whole, 2, 2).tolist() == [[IGNORE, 0], [1, IGNORE]]
    with pytest.raises(DataError, match=r"the label map of 'a' holds 2 \(expected 0..1, or 255"):
        LabelMaps(("wall", "sky"))(whole, 2, 2)
    with pytest.raises(DataError, match=r"the label map of 'a' is \[2, 2, 1\] \(expected \[2, 3\]"):
        LabelMaps(("wall", "sky"))(whole, 2, 3)


def test_views_keep_labels_on_their_pixels() -> None:
    """A picture that shows its own label map stays so; the fill is ignored."""
    rng = np.random.default_rng(0)
    label_HW = (np.arange(48)[:, None] // 12 * 4 + np.arange(64) // 16).astype(np.uint8)
    image_HWC = np.repeat((label_HW * 15)[..., None], 3, 2)
    for _ in range(10):
        seen_HWC, seen_HW = SegmentationView(32, (0.5, 2.0), 0.75, shake=False)(image_HWC, label_HW, rng)
        assert (np.abs(seen_HWC[..., 0].astype(int) - seen_HW.astype(int) * 15) <= 30).mean() > 0.9
        full_CHW, full_HW = filled(torch.from_numpy(seen_HWC.copy()).permute(2, 0, 1).float() + 1, seen_HW, 32)
        inside = full_HW != IGNORE
        assert inside.sum() == seen_HW.size
        assert (full_CHW[:, torch.from_numpy(~inside)] == 0).all(), "the mean colour of a normalised picture"
        assert full_CHW.shape == (3, 32, 32)
        counts = np.bincount(full_HW[inside])
        assert counts.max() < 0.75 * counts.sum()
    with pytest.raises(ShapeError, match=r"an image and its label map are \[48, 64\] and \[48, 63\]"):
        SegmentationView(32)(image_HWC, label_HW[:, 1:], rng)
    same_HWC, same_HW = SegmentationView(48, (1.0, 1.0), 1.0, flip=False, shake=False)(image_HWC[:, :48], label_HW[:, :48], rng)
    assert np.array_equal(same_HWC, image_HWC[:, :48])
    assert np.array_equal(same_HW, label_HW[:, :48])
    assert not np.array_equal(
        SegmentationView(48, (1.0, 1.0), 1.0, flip=False)(image_HWC[:, :48], label_HW[:, :48], rng)[0], same_HWC
    )


def test_a_crop_is_taken_as_it_is_where_ten_draws_are_of_one_class() -> None:
    """mmsegmentation looks at ten crops and takes the eleventh unseen: so many draws are made of a picture of one class."""
    image_HWC, label_HW = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)
    rng, counted = np.random.default_rng(0), np.random.default_rng(0)
    SegmentationView(32, (1.25, 1.25), 0.75, flip=False, shake=False)(image_HWC, label_HW, rng)
    counted.uniform(1.25, 1.25)
    for _ in range(11):
        counted.integers(9), counted.integers(9)
    assert rng.random() == counted.random()


def test_long_pictures_are_bounded_by_their_long_side() -> None:
    image_HWC, label_HW = np.zeros((10, 200, 3), np.uint8), np.arange(200, dtype=np.uint8)[None].repeat(10, 0)
    view = SegmentationView(64, (1.0, 1.0), 1.0, flip=False, shake=False, longest=100)
    seen_HWC, seen_HW = view(image_HWC, label_HW, np.random.default_rng(0))
    assert seen_HWC.shape == (5, 64, 3), "half of 10 x 200, of which 64 columns"
    assert (np.diff(seen_HW[0].astype(int)) == 2).all(), "labels by OpenCV's nearest pixel, which is 2 n"


def test_colours_that_are_not_drawn_are_left_alone() -> None:
    """Sixteen of the 2^5 draws touch neither saturation nor hue: such pictures are linear in what they were, and some are untouched."""
    image_HWC = np.random.default_rng(0).integers(60, 180, (8, 8, 3)).astype(np.uint8)
    same = linear = 0
    for seed in range(200):
        found = shaken(image_HWC, np.random.default_rng(seed)).astype(float)
        same += int((found == image_HWC).all())
        clear = (found > 0) & (found < 255)
        fit = np.polyfit(image_HWC[clear].astype(float), found[clear], 1) if clear.any() else np.zeros(2)
        linear += int(clear.sum() > 32 and np.abs(np.polyval(fit, image_HWC[clear].astype(float)) - found[clear]).max() < 2)
    assert 4 <= same <= 30, "one in sixteen is expected"
    assert 35 <= linear <= 80, "one in four is expected"
