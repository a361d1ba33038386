"""Type of a figure by its pixels: a drawing on white, a scan in grey, or a picture in colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

FigureType = Literal["drawing", "scan", "photo"]
TYPES: tuple[FigureType, ...] = ("drawing", "scan", "photo")


def figure_type(figure_HWC: npt.NDArray[np.uint8], *, white: float = 0.4, grey: float = 8.0) -> FigureType:
    """Type of a figure. A rule of three numbers, no model: its errors are to be measured on one's own data.

    white  share of pixels of level 240 and more from which on a figure is a "drawing": plots, diagrams, schemes
    grey   mean difference of a pixel's largest and smallest channel up to which another one is a "scan": radiographs, CT, MR, blots
    """
    if float((figure_HWC >= 240).all(2).mean()) >= white:
        return "drawing"
    spread_HW = figure_HWC.max(2).astype(np.int16) - figure_HWC.min(2)
    return "scan" if float(spread_HW.mean()) <= grey else "photo"
