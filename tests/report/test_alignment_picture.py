"""The picture of an alignment: heat where the weight is, nothing where it is lowest, a frame round the best patch."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ShapeError
from diptych.report.alignment import GAP, STRIP, alignment_picture, panel_size

GREY = np.full((40, 60, 3), 100, np.uint8)


def test_heat_lies_on_the_patches_that_weigh_most() -> None:
    weight_WHW = np.zeros((2, 2, 2), np.float32)
    weight_WHW[1, 0, 1] = 1.0
    picture = alignment_picture(GREY, ["a text", "word"], weight_WHW, side=120)
    height, width = panel_size(GREY, 120)
    assert (height, width) == (80, 120)
    assert picture.shape == (height + STRIP, 2 * width + GAP, 3)
    flat, heated = picture[:height, :width], picture[:height, width + GAP :]
    assert np.abs(flat.astype(int) - 100).max() <= 1, "equal weights have no heat and no frame"
    changed = np.abs(heated.astype(int) - 100).max(axis=2) > 8
    inner = changed[5 : height // 2 - 5, width // 2 + 5 : width - 5]
    assert inner.all()
    assert not changed[height // 2 + 5 :, :].any()
    assert not changed[:, : width // 2 - 5].any()


def test_the_grid_lies_on_the_part_that_the_model_saw() -> None:
    weight_WHW = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    third = (1 / 3, 0.0, 2 / 3, 1.0)
    picture = alignment_picture(GREY, ["text"], weight_WHW, third, side=120)[: panel_size(GREY, 120)[0]]
    changed = (np.abs(picture.astype(int) - 100).max(axis=2) > 8).any(axis=0)
    assert not changed[:38].any()
    assert not changed[83:].any()
    assert changed[41:79].all()
    padded = alignment_picture(GREY, ["text"], weight_WHW, (0.0, -0.25, 1.0, 1.25), side=120)
    assert padded.shape == (80 + STRIP, 120, 3)


def test_many_words_stand_in_rows_and_bad_weights_are_refused() -> None:
    words = [f"word {n}" * (n + 1) for n in range(6)]
    picture = alignment_picture(GREY, words, np.random.default_rng(0).random((6, 3, 3)).astype(np.float32), side=60)
    assert picture.shape == (2 * (40 + STRIP) + GAP, 4 * 60 + 3 * GAP, 3)
    with pytest.raises(ShapeError, match=r"1 words and weights \[2, 3, 3\]"):
        alignment_picture(GREY, ["one"], np.zeros((2, 3, 3), np.float32))
