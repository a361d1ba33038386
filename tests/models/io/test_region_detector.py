"""Parts that detectors and generators share: what every one of them refuses in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diptych.core.errors import ConfigError, DataError, PromptTooLong
from diptych.core.image import ArrayImage
from diptych.core.scene_graph import Region, SceneGraph
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.io.generation import require_room
from diptych.models.io.region_detector import ClosedSetDetector, RegionDetector


class Cups(RegionDetector, ClosedSetDetector):
    name = "cups"
    objects = ("cup", *(f"thing {number}" for number in range(9)))  # type: ignore[assignment]

    def __init__(self) -> None:
        self.model, self.images = nn.Linear(1, 1), DetectionPreprocess(20, longest=40, stride=32)

    def regions(self, images: Sequence[Any], objects: Sequence[str], *, top: int, threshold: float, batch_size: int) -> list[Any]:
        mask_K = self._class_mask(objects)
        assert (top, threshold, batch_size) == (100, 0.0, 16)
        return [SceneGraph((Region((0, 0, 1, 1), str(mask_K.nonzero().flatten().tolist())),)) for _ in images]


IMAGE = ArrayImage(np.full((10, 15, 3), 9, np.uint8))


def test_one_image_or_several_and_names_in_one_string() -> None:
    assert Cups().detect(IMAGE, objects="thing 0, cup").regions[0].label == "[0, 1]"
    assert len(Cups().detect([IMAGE, IMAGE], objects=["cup"])) == 2


def test_relations_and_names_without_training_are_refused() -> None:
    with pytest.raises(ConfigError, match="cups does not predict relations"):
        Cups().detect([IMAGE], objects=["cup"], relations=["on"])
    with pytest.raises(DataError, match=r"cups was trained on none of \['dog'\].*cup, thing 0, .*thing 6, \.\.\."):
        Cups().detect([IMAGE], objects=["dog"])


def test_input_of_a_model_is_one_padded_image_and_its_size_without_padding() -> None:
    pixels_HWC, image_BCHW, size = Cups()._model_input(IMAGE)
    assert (pixels_HWC.shape, image_BCHW.shape, size) == ((10, 15, 3), (1, 3, 32, 32), (20, 30))
    assert not image_BCHW[..., 20:, :].any()
    assert torch.all(image_BCHW[..., :20, :30] != 0)


@pytest.mark.parametrize(("read", "length"), [(6, 10), (60, 0)])
def test_room_for_the_answer(read: int, length: int) -> None:
    require_room(read, 4, length, model="'m'")
    with pytest.raises(PromptTooLong, match=r"words take 7 of the 10 tokens of 'm', so 4 tokens more") as error:
        require_room(7, 4, 10, source="words", model="'m'")
    assert error.value.room == 3
