"""RandAugment: every operation gives the bytes of LexLIP's released code, draws are the generator's own, and nothing else decides."""

from __future__ import annotations

import zlib

import numpy as np

from diptych.data.media.augment.rand_augment import MOST, OPERATIONS, rand_augment

# CRC-32 of what the released Phase1/src/transforms/randaug.py makes of `picture()` at magnitude 9, operation by operation
FORWARD = (
    172_409_441,
    2_865_920_530,
    1_411_325_442,
    2_831_638_531,
    818_570_314,
    3_362_384_657,
    3_796_955_817,
    3_670_282_092,
    3_061_385_377,
    3_863_605_131,
    2_877_330_822,
    1_892_941_577,
    1_956_779_236,
    72_161_730,
)
BACKWARD = (
    172_409_441,
    2_865_920_530,
    3_263_872_461,
    2_831_638_531,
    818_570_314,
    3_362_384_657,
    3_796_955_817,
    3_670_282_092,
    3_061_385_377,
    3_863_605_131,
    3_035_243_934,
    1_602_254_585,
    2_690_800_490,
    72_161_730,
)


def picture() -> np.ndarray:
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([(7 * x + 3 * y) % 256, (x * y) % 256, (255 - 5 * x + y * 11) % 256], -1).astype(np.uint8)


def test_every_operation_is_that_of_the_released_code() -> None:
    from PIL import Image

    for wanted, way in ((FORWARD, 1), (BACKWARD, -1)):
        for (change, low, high, signed), expected in zip(OPERATIONS, wanted, strict=True):
            value = 9 / MOST * (high - low) + low
            found = np.asarray(change(Image.fromarray(picture()), way * value if signed else value))
            assert zlib.crc32(found.tobytes()) == expected


def test_the_generator_decides_alone() -> None:
    one, other = (rand_augment(picture(), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, other)
    many = {rand_augment(picture(), np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert len(many) > 15, "draws differ (some operations leave this picture as it is)"
    assert rand_augment(picture(), np.random.default_rng(0), count=0).tobytes() == picture().tobytes()


def test_operations_are_equally_likely() -> None:
    counts = np.bincount(np.random.default_rng(0).integers(len(OPERATIONS), size=14_000), minlength=14)
    assert len(OPERATIONS) == 14
    assert counts.min() > 900
