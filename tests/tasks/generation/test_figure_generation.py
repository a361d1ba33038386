"""Generated figures: a model that draws what is asked, one that swaps colours, and one that pastes the references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from diptych.api import evaluate
from diptych.core.errors import DataError
from diptych.tasks.generation.figure_generation import FigureGeneration
from diptych.worlds.figures.world import figures
from diptych.worlds.scenes.world import scenes


class Known:
    """Gives the pictures of a data set, in order."""

    name = "known"

    def __init__(self, data: Any, *, pasted: bool = False) -> None:
        self.data, self.pasted = data, pasted

    def generate_images(self, prompts: Sequence[str], **options: Any) -> Any:
        assert [len(row) for row in options["references"]] == [2] * len(prompts)
        pictures = []
        for row, references in enumerate(options["references"]):
            pixels_HWC = self.data[row].image.pixels_HWC
            if self.pasted:
                pixels_HWC = np.maximum(*(one.image.pixels_HWC for one in references))
            pictures.append(pixels_HWC)
        return np.stack(pictures)


def test_what_was_drawn_scores_best() -> None:
    data = figures(12, seed=9)
    task = FigureGeneration(limit=12)
    right, pasted = evaluate(Known(data), task, data), evaluate(Known(data, pasted=True), task, data)
    assert right.metrics["relation_accuracy"].value == right.metrics["identity_accuracy"].value == 1.0
    assert right.metrics["key_point_error"].value < 0.02
    assert pasted.metrics["key_point_error"].value > 0.05
    assert not right.metrics["key_point_error"].higher_is_better
    with pytest.raises(DataError, match="has no figures"):
        evaluate(Known(data), task, scenes(2))
