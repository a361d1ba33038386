"""timm's RandAugment and random erasing, bit for bit with timm where both take their draws from one generator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, random_erasing

from diptych.data.media.augment.increasing_augment import OPERATIONS, increasing_augment
from diptych.data.media.augment.random_erasing import erase_
from diptych.data.media.transforms import IMAGENET_MEAN

TIMM = "timm, the transforms that CoCu's release asks for"


def drawn_from(rng: np.random.Generator) -> SimpleNamespace:
    """What timm takes of Python's `random`, from a generator of numpy."""
    return SimpleNamespace(
        random=rng.random,
        uniform=rng.uniform,
        gauss=rng.normal,
        randint=lambda low, high: int(rng.integers(low, high + 1)),
    )


def picture(seed: int, height: int = 37, width: int = 52) -> Any:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] % 256
    return ((smooth + rng.integers(0, 60, (height, width, 3))) % 256).astype(np.uint8)


def posterize(image: Any, bits: int, **_: Any) -> Any:
    """Pillow's, before it refused to keep no bit."""
    return image.point([value & ~(2 ** (8 - bits) - 1) for value in range(256)] * 3)


def theirs(image_HWC: Any, seed: int, monkeypatch: pytest.MonkeyPatch, config: str) -> Any:
    rng = np.random.default_rng(seed)
    fill = tuple(min(255, round(255 * value)) for value in IMAGENET_MEAN)
    made = auto_augment.rand_augment_transform(
        config, {"translate_const": 100, "img_mean": fill, "interpolation": Image.Resampling.BILINEAR}
    )
    chosen = SimpleNamespace(choice=lambda ops, n, replace, p: [ops[i] for i in rng.integers(len(ops), size=n)])
    monkeypatch.setattr(auto_augment, "random", drawn_from(rng))
    monkeypatch.setitem(auto_augment.NAME_TO_OP, "PosterizeIncreasing", posterize)
    monkeypatch.setattr(auto_augment, "np", SimpleNamespace(random=chosen))
    return np.asarray(made(Image.fromarray(image_HWC)))


def test_pictures_are_changed_as_timm_changes_them(parity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, changed, black = [], 0, 0
    for seed in range(400):
        image_HWC = picture(seed)
        ours = increasing_augment(image_HWC, np.random.default_rng(seed), mean=IMAGENET_MEAN)
        timms = theirs(image_HWC, seed, monkeypatch, "rand-m9-mstd0.5-inc1")
        pairs.append((torch.tensor(ours), torch.tensor(timms)))
        changed += not np.array_equal(ours, image_HWC)
        black += not ours.any()
    parity("cocu", "RandAugment that grows with its magnitude", TIMM, pairs, tolerance=0.0)
    assert 0.6 < changed / 400 < 0.8, "a quarter of pictures gets no operation"
    assert black, "at the largest magnitude posterize leaves nothing"


@pytest.mark.parametrize("magnitude", [0, 1, 5, 10])
def test_at_every_strength(magnitude: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(40):
        image_HWC = picture(seed, 8, 5)
        ours = increasing_augment(
            image_HWC, np.random.default_rng(seed), mean=IMAGENET_MEAN, magnitude=magnitude, deviation=3.0, count=4, chance=0.9
        )
        np.testing.assert_array_equal(ours, theirs(image_HWC, seed, monkeypatch, f"rand-m{magnitude}-n4-p0.9-mstd3.0-inc1"))


def test_there_are_fifteen_operations() -> None:
    assert len(OPERATIONS) == len(auto_augment._RAND_INCREASING_TRANSFORMS) == 15


def test_boxes_are_erased_as_timm_erases_them(parity: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, erased = [], 0
    for seed in range(200):
        height, width = [(24, 31), (3, 40), (2, 2), (1, 9)][seed % 4]
        image_CHW = torch.zeros(3, height, width)
        ours = erase_(image_CHW.clone(), np.random.default_rng(seed), chance=0.5)
        rng = np.random.default_rng(seed)
        monkeypatch.setattr(random_erasing, "random", drawn_from(rng))
        monkeypatch.setattr(
            random_erasing,
            "_get_pixels",
            lambda pixel, colour, size, rng=rng, **_: torch.from_numpy(rng.standard_normal(size)).float(),
        )
        timms = random_erasing.RandomErasing(0.5, mode="pixel", max_count=1, device="cpu")(image_CHW.clone())
        pairs.append((ours, timms))
        erased += int(ours.any())
    parity("cocu", "erased boxes", TIMM, pairs, tolerance=0.0)
    assert 30 < erased < 110, "where sides are two pixels or fewer, no box of an eligible area is smaller both ways"
