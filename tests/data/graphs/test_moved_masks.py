"""Masks follow their pictures: through resizing, mirroring and cutting, and into a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.graphs.batch import graph_batch
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.graphs.moved_mask import MovedMask
from diptych.data.graphs.transforms import RandomHorizontalFlip, RandomShortSideResize, cropped, mirrored, resized
from diptych.data.masks import encode

MASK = np.random.default_rng(0).random((7, 11)) < 0.5


def moved(picture: tuple[np.ndarray, SceneGraph]) -> np.ndarray:
    mask = picture[1].regions[0].mask
    assert isinstance(mask, MovedMask)
    return mask.pixels()


def shown() -> tuple[np.ndarray, SceneGraph]:
    return np.zeros((7, 11, 3), np.uint8), SceneGraph((Region((0, 0, 11, 7), "thing", mask=encode(MASK)),))


def naive(mask_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    old_height, old_width = mask_HW.shape
    rows = [[mask_HW[int(y * old_height / height), int(x * old_width / width)] for x in range(width)] for y in range(height)]
    return np.array(rows)


def test_pixels_are_taken_and_mirrored_last() -> None:
    assert (moved(resized(shown(), 13, 5)) == naive(MASK, 13, 5)).all()
    assert (moved(mirrored(shown())) == MASK[:, ::-1]).all()
    for picture in (resized(mirrored(shown()), 9, 16), mirrored(resized(shown(), 9, 16))):
        assert (moved(picture) == naive(MASK, 9, 16)[:, ::-1]).all()
    assert (moved(cropped(shown(), 2, 3, 4, 6)) == MASK[2:6, 3:9]).all()
    assert (moved(cropped(mirrored(shown()), 2, 3, 4, 6)) == MASK[:, ::-1][2:6, 3:9]).all()
    assert (moved(mirrored(cropped(mirrored(shown()), 2, 3, 4, 6))) == MASK[2:6, 2:8]).all()


def drawn(*masks: object) -> Draws:
    image_HWC = np.zeros((7, 11, 3), np.uint8)
    regions = tuple(Region((1, 1, 6, 5), name, mask=mask) for name, mask in zip(("a", "b"), masks, strict=False))
    sample = Sample("uid", image=ArrayImage(image_HWC, "uid"), regions=regions)
    draw = Draw(sample, np.random.default_rng(0), image_HWC)
    bare = replace(draw, sample=replace(sample, regions=regions[:1]), rng=np.random.default_rng(0))
    return Draws((draw, bare), np.random.default_rng(0))


def test_a_batch_holds_the_pixels_of_every_region() -> None:
    outline = [[1, 1, 9, 1, 9, 6, 1, 6]]
    views, lists = RandomShortSideResize(shorts=(14,), longest=30, mirror=RandomHorizontalFlip(share=1.0)), LabelLists(("b", "a"))
    batch = graph_batch(drawn(encode(MASK), outline), views=views, labels=lists, multiple=32, masks=True)
    assert batch.masks is not None
    assert [tuple(mask_KHW.shape) for mask_KHW in batch.masks] == [(2, 14, 22), (1, 14, 22)]
    large = MASK.repeat(2, 0).repeat(2, 1)[:, ::-1]
    for mask_KHW in batch.masks:
        assert (mask_KHW[0].numpy() == large).all()
    box = batch.masks[0][1].nonzero()
    assert box.amin(0).tolist() + box.amax(0).tolist() == [2, 4, 11, 19]
    assert len(batch.rows(1, 2).masks or ()) == 1
    assert graph_batch(drawn(None, outline), views=views, labels=lists).masks is None


def test_refused() -> None:
    views, lists = RandomShortSideResize(shorts=(14,), longest=30), LabelLists(("a", "b"))
    with pytest.raises(DataError, match="'uid' has a region 'b' without a mask"):
        graph_batch(drawn(encode(MASK), None), views=views, labels=lists, masks=True)
    with pytest.raises(DataError, match=r"'uid': a mask is \[11, 7\] \(expected \[7, 11\]"):
        graph_batch(drawn(encode(MASK.T)), views=views, labels=lists, masks=True)
