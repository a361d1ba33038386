"""Training views of BenchX's fine-tuning: as the paper says, and as its code does by torchvision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional as TF

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.data.media.transforms import Preprocess, crop_box
from diptych.tasks.domains.head_images import RELEASED_AREA, HeadImages, random_view
from diptych.tasks.domains.head_runs import FineTuning, HeadSwitches, fine_tuned_scores

SIDE = 56
PIXELS = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
NORMALISED = (transforms.Grayscale(num_output_channels=3), transforms.ToTensor(), transforms.Normalize([0.4978], [0.2449]))


class MeanColour(nn.Module):
    """The smallest tower: mean of each channel."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image_BCHW: torch.Tensor) -> Any:
        return SimpleNamespace(pooled_BD=self.scale * image_BCHW.mean((2, 3)))


def head_images(augment: Any, count: int = 3) -> HeadImages:
    images = [ArrayImage(np.roll(PIXELS, 10 * row, 0), str(row)) for row in range(count)]
    made = HeadImages(SimpleNamespace(preprocess=Preprocess(SIDE), embed_images=lambda _: np.zeros((count, 2))), images, augment)
    made._vectors_ND, made.tower = None, MeanColour()  # type: ignore[assignment]
    return made


def test_the_papers_crop_is_any_square_of_the_resized_image() -> None:
    whole = np.asarray(Image.fromarray(PIXELS).resize((64 * 130 // 90, 64), Image.Resampling.BILINEAR))
    offsets = set()
    for draw in range(200):
        view = random_view(PIXELS, SIDE, "crop", keyed_rng("crop", draw))
        fits = [
            (top, left)
            for top in range(whole.shape[0] - SIDE + 1)
            for left in range(whole.shape[1] - SIDE + 1)
            if np.array_equal(view, whole[top : top + SIDE, left : left + SIDE])
        ]
        assert len(fits) == 1
        offsets.add(fits[0])
    tops, lefts = ({offset[axis] for offset in offsets} for axis in (0, 1))
    assert tops == set(range(9))
    assert lefts == set(range(whole.shape[1] - SIDE + 1)), "along the long side too, not within the middle square"


def test_the_released_views_are_torchvisions(parity: Any) -> None:
    released = transforms.RandomResizedCrop(SIDE)
    assert tuple(released.scale) == RELEASED_AREA
    images = head_images("released")
    theirs, mirrored, rng = [], 0, keyed_rng("views", 3)
    for row in [*range(3)] * 4:
        pixels_HWC = images.images[row].pixels_HWC
        top, left, height, width = crop_box(90, 130, rng, tuple(released.scale), tuple(released.ratio))
        view = TF.resized_crop(Image.fromarray(pixels_HWC), top, left, height, width, [SIDE, SIDE], released.interpolation)
        if rng.random() < 0.5:
            view, mirrored = TF.hflip(view), mirrored + 1
        theirs.append(transforms.Compose(NORMALISED)(view))
    assert 0 < mirrored < 12
    views = images.training_batch([*range(3)] * 4, keyed_rng("views", 3))
    assert (views - torch.stack(theirs)).abs().max() < 2.5 / 255 / 0.2449, "two grey levels: torch's filter for PIL's"
    evaluated = transforms.Compose([transforms.Resize(SIDE), transforms.CenterCrop(SIDE), *NORMALISED])
    pairs = [
        (images.batch([row])[0], evaluated(Image.fromarray(images.images[row].pixels_HWC)))  # type: ignore[attr-defined]
        for row in range(3)
    ]
    parity(
        "benchx", "images of evaluation by `augment=released`", "torchvision, as BenchX's NIHTransforms", pairs, tolerance=1e-6
    )


def test_evaluation_and_runs_without_augmentation_see_whole_images() -> None:
    for augment in ("none", "crop"):
        images = head_images(augment)
        torch.testing.assert_close(images.batch([1])[0], Preprocess(SIDE)([np.roll(PIXELS, 10, 0)])[0])
        same = torch.equal(images.training_batch([1], keyed_rng("views")), images.batch([1]))
        assert same == (augment == "none")
    with pytest.raises(ConfigError, match="augment is 'flip'"):
        head_images("flip")


def test_training_reads_new_views_in_each_epoch() -> None:
    drawn: list[torch.Tensor] = []

    class Watched(HeadImages):
        def training_batch(self, rows: Any, rng: np.random.Generator) -> torch.Tensor:
            drawn.append(super().training_batch(rows, rng))
            return drawn[-1]

    plain = head_images("crop", 1)
    watched = Watched(plain.model, plain.images, "crop")
    watched._vectors_ND, watched.tower = None, plain.tower
    truth = np.ones((1, 1), bool)
    settings = FineTuning(epochs=3, batch_size=1, warmup=1)
    for _ in range(2):
        fine_tuned_scores(watched, truth, [0], plain, truth, [plain], HeadSwitches(False, False, 0.0), settings, seed=1)
    assert len(drawn) == 6
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.stack(drawn[:3]), torch.stack(drawn[3:])), "a seed gives its views again"
