"""Maps over a model's input, placed in the frame of the original image.  Letters: P places a side, H W pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from diptych.core.errors import ConfigError
from diptych.data.media.transforms import Preprocess

Interpolation = Literal["nearest", "bilinear"]


def in_frame(
    map_PP: npt.NDArray[np.float32], preprocess: Preprocess, height: int, width: int, interpolation: Interpolation
) -> npt.NDArray[np.float32]:
    """float32 [H, W], NaN where preprocessing cut the image off. Raises ConfigError for images that are padded."""
    how: dict[str, Any] = {"mode": interpolation, **({"align_corners": False} if interpolation == "bilinear" else {})}
    map_11PP = torch.from_numpy(np.ascontiguousarray(map_PP))[None, None]
    if preprocess.resize == "squash" and not preprocess.margin:
        return F.interpolate(map_11PP, size=(height, width), **how)[0, 0].numpy()
    if preprocess.resize != "crop":
        raise ConfigError(f"maps of images that are fitted by {preprocess.resize!r} are not placed (expected crop | squash)")
    side = int(preprocess.size * min(height, width) / (preprocess.size + preprocess.margin))
    frame_HW = np.full((height, width), np.nan, np.float32)
    top, left = (height - side) // 2, (width - side) // 2
    frame_HW[top : top + side, left : left + side] = F.interpolate(map_11PP, size=(side, side), **how)[0, 0].numpy()
    return frame_HW
