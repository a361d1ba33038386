"""Label maps: the class of each pixel, from an image of class ids or from the masks of regions.

    media["labels"]   a raster of class numbers as big as the image (KEY.raster-labels.png): 255 is ignored; with `reduce_zero`, 0 is
                      ignored too and 1 is the first class (ADE20K)
    regions           each mask's pixels get the class of its label, smaller masks over larger ones; pixels of no mask are `background`
                      where that is a class, else ignored

Letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.masks import pixels_of

IGNORE = 255
LABELS = "labels"
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LabelMaps:
    """Reads the label map of a sample.

    classes      names in the order of their numbers, 254 at most
    background   the class of pixels of no region; "" ignores them
    reduce_zero  of rasters: 0 is ignored and 1 is the first class
    """

    classes: tuple[str, ...]
    background: str = ""
    reduce_zero: bool = False

    def __post_init__(self) -> None:
        if not 1 < len(self.classes) < IGNORE or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"{len(self.classes)} classes (expected 2 to 254 different names)")
        if self.background and self.background not in self.classes:
            raise ConfigError(f"background is {self.background!r}, which is not a class (expected one of the classes, or '')")

    def __call__(self, sample: Sample, height: int, width: int) -> Labels:
        """uint8 [H, W] for an image of that size, 255 where no class counts. Raises DataError that names the sample."""
        if LABELS in sample.media:
            return self._raster(sample, height, width)
        if not any(region.mask for region in sample.regions):
            raise DataError(
                f"sample '{sample.uid}' has no label map", field=LABELS, expected="KEY.raster-labels.png, or regions with masks"
            )
        return self._paint_masks(sample, height, width)

    def _raster(self, sample: Sample, height: int, width: int) -> Labels:
        value_HWC = sample.media[LABELS].decode()
        if value_HWC.shape != (height, width, 1):
            came = f"the label map of '{sample.uid}' is {list(value_HWC.shape)}"
            raise DataError(came, field=LABELS, expected=f"[{height}, {width}], as its image")
        label_HW = value_HWC[..., 0].astype(np.int64)
        if self.reduce_zero:
            label_HW = np.where((label_HW == 0) | (label_HW == IGNORE), IGNORE, label_HW - 1)
        wrong = label_HW[(label_HW != IGNORE) & ((label_HW < 0) | (label_HW >= len(self.classes)))]
        if wrong.size:
            expected = f"0..{len(self.classes) - 1}, or {IGNORE} to ignore a pixel"
            raise DataError(f"the label map of '{sample.uid}' holds {int(wrong[0])}", field=LABELS, expected=expected)
        found_HW: Labels = label_HW.astype(np.uint8)
        return found_HW

    def _paint_masks(self, sample: Sample, height: int, width: int) -> Labels:
        class_index = {name: number for number, name in enumerate(self.classes)}
        empty = class_index[self.background] if self.background else IGNORE
        label_HW = np.full((height, width), empty, np.uint8)
        try:
            masks = [(pixels_of(region.mask, height, width), region.label) for region in sample.regions if region.mask]
        except DataError as error:
            came = f"in '{sample.uid}' {error.problem}"
            raise DataError(came, field="regions", expected=error.expected) from None
        for mask_HW, label in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            if label not in class_index:
                raise DataError(
                    f"a region of '{sample.uid}' is of class {label!r}", field="regions", expected=_some(self.classes)
                )
            label_HW[mask_HW] = class_index[label]
        return label_HW


def _some(classes: Sequence[str]) -> str:
    more = f", ... ({len(classes)} in all)" if len(classes) > 8 else ""
    return ", ".join(classes[:8]) + more
