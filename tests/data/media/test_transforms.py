import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.errors import ConfigError, ShapeError
from diptych.core.randomness import keyed_rng
from diptych.data.media.transforms import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENAI_MEAN,
    OPENAI_STD,
    Preprocess,
    random_crop,
    resized,
)

SHAPES = [(48, 80), (81, 53), (224, 224), (225, 500), (300, 301), (31, 17), (100, 37)]


def noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (shape[0] // 4 + 1, shape[1] // 4 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(shape[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize(("ours", "theirs"), [("crop", "shortest"), ("squash", "squash"), ("pad", "longest")])
@pytest.mark.parametrize("size", [32, 63])
def test_pixels_equal_open_clips_evaluation_transform(ours, theirs, size):
    from open_clip.transform import image_transform

    transform = image_transform(
        size, is_train=False, mean=OPENAI_MEAN, std=OPENAI_STD, resize_mode=theirs, interpolation="bicubic"
    )
    images = [noise(shape) for shape in SHAPES]
    expected = torch.stack([transform(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(Preprocess(size, resize=ours)(images), expected, rtol=0, atol=1e-6)


def test_pixels_equal_transformers_image_processors():
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    images = [noise(shape) for shape in [(64, 96), (128, 128), (100, 60)]]
    clip = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    squash = SiglipImageProcessor(size={"height": 32, "width": 32}, resample=Image.Resampling.BICUBIC)
    level = 1 / 255 / 0.26  # their resize runs on tensors: one level of 255
    for processor, ours in ((clip, Preprocess(32)), (squash, Preprocess(32, *HALF, resize="squash"))):
        pairs = [Image.fromarray(image) for image in images]
        expected = processor(pairs, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1.01 * level)


def test_round_trip_and_no_images():
    chosen = Preprocess(64, IMAGENET_MEAN, IMAGENET_STD, "pad", "bilinear", fill=255)
    assert Preprocess.from_json(chosen.to_json()) == chosen
    assert chosen([]).shape == (0, 3, 64, 64)


def test_wrong_settings_and_images_are_named():
    for wrong, message in [
        ({"size": 0}, "size is 0"),
        ({"size": 8, "resize": "cut"}, "'cut'"),
        ({"size": 8, "std": (1, 1, 0)}, "std above 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Preprocess(**wrong)
    with pytest.raises(ShapeError, match=r"uint8 \[4, 4\]"):
        Preprocess(8)([np.zeros((4, 4), np.uint8)])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_crops_are_square_and_repeatable(height, width, key):
    image = noise((height, width))
    crop = random_crop(image, 24, keyed_rng(key), (0.3, 1.0))
    assert crop.shape == (24, 24, 3)
    assert crop.dtype == np.uint8
    np.testing.assert_array_equal(crop, random_crop(image, 24, keyed_rng(key), (0.3, 1.0)))


def test_crops_cover_the_share_of_the_area_that_was_asked_for():
    y, x = np.mgrid[:200, :240]
    image = np.stack([x, y, y], -1).astype(np.uint8)  # every pixel tells its place
    areas, ratios, lefts = [], [], []
    for key in range(400):
        crop = random_crop(image, 200, keyed_rng(key), (0.4, 0.6)).astype(float)
        wide, tall = np.ptp(crop[..., 0]) + 1, np.ptp(crop[..., 1]) + 1
        areas.append(wide * tall / (200 * 240))
        ratios.append(wide / tall)
        lefts.append(crop[..., 0].min() / max(1.0, 240 - wide))
    assert 0.38 < min(areas) < 0.42 < 0.58 < max(areas) < 0.62
    assert 0.73 < min(ratios) < 0.78 < 1.28 < max(ratios) < 1.37
    assert np.mean(lefts) == pytest.approx(0.5, abs=0.05)


def test_fast_resize_is_within_two_levels_of_pil():
    for shape in [(300, 200), (64, 64), (97, 131)]:
        image = noise(shape)
        image.flags.writeable = False  # as rows of a memory map are
        expected = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(resized(image, 56) - expected).max() <= 2
        np.testing.assert_array_equal(resized(image[:, ::-1], 56), resized(np.ascontiguousarray(image[:, ::-1]), 56))
