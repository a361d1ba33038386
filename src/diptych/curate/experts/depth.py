"""Depth of an image by a model of `transformers` in a folder, such as Depth Anything V2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode


@dataclass(frozen=True)
class DepthModel:
    """A model that estimates relative depth, larger being nearer.

    folder  weights (safetensors), configuration and image processor
    """

    folder: str

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """Image processor and model. Raises ConfigError for a folder that holds none."""
        import transformers

        if not Path(self.folder).is_dir():
            raise ConfigError(f"depth model {self.folder} is not a folder (expected one with a depth model of transformers)")
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(self.folder, local_files_only=True)
            model = transformers.AutoModelForDepthEstimation.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"depth model {self.folder}: {first} (expected weights, config.json and a processor)") from error
        return processor, model.eval()

    def __call__(self, image: ImageSource) -> npt.NDArray[np.float32]:
        """Relative depth float32 [H, W] at the size of the image, larger is nearer."""
        import torch

        processor, model = self.parts
        pixels_HWC = decode(image, exact=True)
        with torch.inference_mode():
            raw_BHW = model(**processor(images=pixels_HWC, return_tensors="pt")).predicted_depth
        size = pixels_HWC.shape[:2]
        depth_HW = torch.nn.functional.interpolate(raw_BHW[:, None], size=size, mode="bicubic", align_corners=False)[0, 0]
        made: npt.NDArray[np.float32] = depth_HW.numpy()
        return made
