"""Worst predictions of findings with their pictures and maps.  Letters: H W pixels, C channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.report import page
from diptych.report.heat import heat_picture
from diptych.report.pictures import data_uri

SIDE = 240
"""Pixels of a picture; its map stands beside it."""
HeatMap = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WorstCase:
    """A wrong prediction.

    label        the finding
    uid          of the image
    present      the truth
    probability  of the finding, as predicted
    pixels_HWC   the image
    map_HW       where the model sees the finding, NaN where it did not look; None where it has no map
    """

    label: str
    uid: str
    present: bool
    probability: float
    pixels_HWC: npt.NDArray[np.uint8]
    map_HW: HeatMap | None = None

    @property
    def words(self) -> str:
        """Truth and prediction in words."""
        return f"{self.uid}: {'present' if self.present else 'absent'}, predicted {self.probability:.2f}"

    @property
    def picture(self) -> str:
        """Data URI of the image, at its left the map where there is one."""
        if self.map_HW is None:
            return data_uri(self.pixels_HWC, side=SIDE)
        both_HWC = heat_picture(self.pixels_HWC, np.nan_to_num(self.map_HW), self.label, (), None, side=SIDE)
        return data_uri(both_HWC, side=2 * SIDE)


def worst_case_blocks(name: str, cases: Sequence[WorstCase]) -> list[str]:
    """A heading with the encoder's name, and a fold for each finding with its cases."""
    blocks = [page.heading(name)]
    for label in dict.fromkeys(case.label for case in cases):
        chosen = [case for case in cases if case.label == label]
        figures = [page.figure(case.picture, case.words) for case in chosen]
        blocks.append(page.folded_blocks(f"{label}: {len(chosen)}", [page.sheet(figures, large=True)]))
    return blocks
