"""Image generation: the capability of a model, and an object that an image should show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.image import ImageSource


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceImage:
    """A thing that a generated picture should show.

    image   the picture of the thing
    phrase  its name, such as "cat"
    box     where it should be: x0, y0, x1, y1 as shares of the picture's sides
    """

    image: ImageSource
    phrase: str
    box: tuple[float, float, float, float]


@runtime_checkable
class ImageGenerator(Protocol):
    """Pictures of prompts: uint8 [N, H, W, 3], one a prompt, in order.

    references  things that each picture should show, for models that read such; None for prompts alone
    negative    a prompt to move away from; "" moves away from no prompt
    steps       of denoising
    guidance    how far beyond the prediction without a prompt each step goes; 1 goes no further than the prompt's own
    seed        of the noise. A row's picture depends on the seed and its place among the prompts, not on `batch_size`
    """

    def generate_images(
        self,
        prompts: Sequence[str],
        *,
        references: Sequence[Sequence[ReferenceImage]] | None = None,
        negative: str = "",
        steps: int = 50,
        guidance: float = 7.5,
        seed: int = 0,
        batch_size: int = 16,
    ) -> npt.NDArray[np.uint8]: ...
