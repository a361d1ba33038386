"""Common methods of detectors: `detect` for detectors without relations, and class names for detectors with fixed classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.scene_graph import SceneGraph
from diptych.core.terminal import notebook
from diptych.data.media.decode import decode
from diptych.models.detection.images import DetectionPreprocess

SHOWN = 8
"""Names in an error, at most."""


class RegionDetector(ABC):
    """Base of `Detector`s without relations."""

    name: str

    @one_or_many
    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]:
        """The `top` best regions of each image with a score above `threshold`. Raises ConfigError if `relations` are asked for."""
        if relations:
            raise ConfigError(f"{self.name} does not predict relations (expected objects alone, or a run of rlipv2)")
        return self.regions(images, objects, top=top, threshold=threshold, batch_size=batch_size)

    @abstractmethod
    def regions(
        self, images: Sequence[ImageSource], objects: Sequence[str], *, top: int, threshold: float, batch_size: int
    ) -> list[SceneGraph]:
        """`detect` of a model of this kind."""


class ClosedSetDetector(ABC):
    """Base of detectors that detect only the classes of their training."""

    name: str
    model: nn.Module
    images: DetectionPreprocess

    @property
    @abstractmethod
    def objects(self) -> tuple[str, ...]:
        """The classes of training."""

    def _repr_html_(self) -> str:
        return notebook.model_facts(self, self.model)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _class_mask(self, objects: Sequence[str]) -> Tensor:
        """bool [K], True for each class of training that is asked for. Raises DataError if none is."""
        class_mask_K = torch.tensor([name in set(objects) for name in self.objects], device=self._device)
        if not class_mask_K.any():
            raise self._unknown_names("objects", objects, self.objects)
        return class_mask_K

    def _unknown_names(self, field: str, asked: Sequence[str], trained: Sequence[str]) -> DataError:
        """The error for names of which training had none."""
        return DataError(
            f"{self.name} was trained on none of {list(asked)[:5]}",
            field=field,
            expected=f"names of its training: {first_names(trained)}",
        )

    def _model_input(self, image: ImageSource) -> tuple[npt.NDArray[np.uint8], Tensor, tuple[int, int]]:
        """Pixels [H, W, 3] of an image, the batch of one [1, 3, H, W] that the model reads, and (height, width) of it without padding."""
        pixels_HWC = decode(image, exact=True)
        shown_BCHW, pixel_BHW = self.images([pixels_HWC])
        mask_HW = torch.ones(shown_BCHW.shape[2:]) if pixel_BHW is None else pixel_BHW[0]
        return pixels_HWC, shown_BCHW.to(self._device), (int(mask_HW[:, 0].sum()), int(mask_HW[0].sum()))


def first_names(names: Sequence[str]) -> str:
    """The first few names, separated by commas, for a message."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
