"""Word-patch alignment: cosines of patches where there are any, occlusion otherwise, and the grid in its place."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import Mean, Patches, corner

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess, visible_share
from diptych.pipelines.alignment import SIDE, align, covered


def test_patches_are_weighed_by_their_cosine() -> None:
    found = align(Patches(), ArrayImage(corner()), "red blue")
    assert (found.method, found.words, found.weight_WHW.shape) == ("patches", ("red blue", "red", "blue"), (3, 4, 4))
    truth = np.zeros((4, 4))
    truth[:2, :2] = 1
    np.testing.assert_allclose(found.weight_WHW[1], truth, atol=1e-2)
    np.testing.assert_allclose(found.weight_WHW[2], 1 - truth, atol=1e-2)
    np.testing.assert_allclose(found.weight_WHW[0], 0.5, atol=1e-2)  # mean over the two words
    assert found.score == pytest.approx(1.0, abs=1e-4)  # each word has a patch that fits it
    assert align(Patches(), ArrayImage(corner()), "green").score < 0.01


def test_occlusion_weighs_by_what_the_cosine_loses() -> None:
    pixels = corner()
    found = align(Mean(), ArrayImage(pixels), "red blue", grid=2)
    model = Mean()
    image_ND = model.embed_images([ArrayImage(picture) for picture in (pixels, *covered(pixels, 2))])
    text_WD = model.embed_texts(["red blue", "red", "blue"])
    for word in range(3):  # the definition, part by part
        for part in range(4):
            expected = float(text_WD[word] @ image_ND[0] - text_WD[word] @ image_ND[1 + part])
            assert found.weight_WHW[word, part // 2, part % 2] == pytest.approx(expected, abs=1e-6)
    assert found.weight_WHW[1].argmax() == 0
    assert found.method == "occlusion"
    assert found.box == (0, 0, 1, 1)
    assert found.score == pytest.approx(float(text_WD[0] @ image_ND[0]), abs=1e-6)


def test_covers_are_the_whole_picture_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    changed = np.stack([(picture != pixels).any(axis=-1) for picture in covered(pixels, 3)])
    assert changed.sum(axis=0).max() == 1
    assert changed.any(axis=0).mean() > 0.95  # a pixel that has the mean colour cannot change
    large = np.zeros((10, 3 * SIDE, 3), np.uint8)
    large[:, 2 * SIDE :] = 255
    found = align(Mean(), ArrayImage(large), "red", grid=3)
    assert found.weight_WHW.shape == (1, 3, 3)


@pytest.mark.parametrize(
    ("resize", "size", "box"),
    [
        ("squash", (30, 10), (0, 0, 1, 1)),
        ("crop", (30, 10), (1 / 3, 0, 2 / 3, 1)),
        ("crop", (10, 40), (0, 3 / 8, 1, 5 / 8)),
        ("pad", (30, 10), (0, -1, 1, 2)),
    ],
)
def test_the_grid_lies_where_the_model_looked(resize: str, size: tuple[int, int], box: tuple[float, ...]) -> None:
    assert visible_share(Preprocess(16, resize=resize), *size) == pytest.approx(box)


def test_models_that_cannot_be_asked() -> None:
    with pytest.raises(ConfigError, match="embeds both"):
        align(object(), ArrayImage(corner()), "red")
    with pytest.raises(ConfigError, match="grid is 1"):
        align(Mean(), ArrayImage(corner()), "red", grid=1)

    class Odd(Patches):
        def embed_patches(self, images):
            return [rows[:15] for rows in super().embed_patches(images)]

    with pytest.raises(ConfigError, match="15 patches do not form a square"):
        align(Odd(), ArrayImage(corner()), "red")
