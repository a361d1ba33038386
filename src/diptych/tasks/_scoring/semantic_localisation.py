"""Semantic localisation metrics: a heat map over a scene against ground-truth polygons of a text (SeLo; Yuan et al., 2022,
2209.06515).

    r_su  fraction of the map's mass inside the regions, relative to their fraction of the area; higher is better
    r_as  distance of attention peaks from the centres of the regions, as a share of their radius; lower is better
    r_da  concentration of the attention on a region in a single peak; higher is better
    r_mi  mean of the three by weights: 0.4 r_su + 0.35 (1 - r_as) + 0.25 r_da

The published scorer has fixed window sizes in pixels, made for scenes of thousands of pixels: the defaults here. On smaller scenes scale
`PeakOptions` down, and do not compare such scores with published ones. Letters: H W pixels, R regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.box_filters import box_mean

Point = tuple[float, float]
"""x, y in pixels."""
Polygon = Sequence[Point]


@dataclass(frozen=True)
class PeakOptions:
    """Search for attention peaks.

    blur    side of the box filter that smooths the map
    passes  number of smoothing passes
    window  side of the window in which a peak must be the highest point
    least   minimum probability of a peak, in the map before smoothing
    """

    blur: int = 50
    passes: int = 5
    window: int = 1000
    least: float = 0.5

    def __post_init__(self) -> None:
        if self.blur < 1 or self.passes < 0 or self.window < 1 or not 0 <= self.least <= 1:
            raise ConfigError(f"{self} (expected blur and window 1 or more, passes 0 or more, least 0..1)")


PUBLISHED_PEAKS = PeakOptions()


@dataclass(frozen=True, slots=True)
class LocalisationScores:
    """Scores of one map, each 0 to 1 (r_da may exceed it by little, as published); r_as is better when lower."""

    r_su: float
    r_as: float
    r_da: float

    @property
    def r_mi(self) -> float:
        return 0.4 * self.r_su + 0.35 * (1 - self.r_as) + 0.25 * self.r_da


def localisation_scores(
    map_HW: npt.NDArray[np.floating], regions: Sequence[Polygon], *, peaks: PeakOptions = PUBLISHED_PEAKS
) -> LocalisationScores:
    """Scores of a probability map (0 to 1) for one text, whose regions are polygons of three points or more.

    Raises DataError for a map outside of 0 to 1, and for regions without area in the scene or over all of it.
    """
    if map_HW.ndim != 2 or not map_HW.size or not (float(map_HW.min()) >= 0 and float(map_HW.max()) <= 1):
        raise DataError(f"a map {list(map_HW.shape)}", field="map_HW", expected="[H, W] of probabilities, 0 to 1")
    if not regions or any(len(region) < 3 for region in regions):
        raise DataError("no region, or one of less than three points", field="regions", expected="polygons of (x, y)")
    mask_HW = polygon_mask(regions, (map_HW.shape[0], map_HW.shape[1]))
    if not mask_HW.any() or mask_HW.all():
        raise DataError("the regions cover none or all of the scene", field="regions", expected="a part of it")
    circles = [region_circle(region) for region in regions]
    points = attention_peaks(map_HW, peaks)
    return LocalisationScores(
        salient_share(map_HW, mask_HW), attention_shift(circles, points), attention_discreteness(circles, points)
    )


def salient_share(map_HW: npt.NDArray[np.floating], mask_HW: npt.NDArray[np.bool_]) -> float:
    """R_su = 1 - exp(-0.707 (sum pm / (sum p - sum pm + 1e-7)) ((HW - sum m) / sum m))."""
    inside, total, area = float(map_HW[mask_HW].sum()), float(map_HW.sum()), int(mask_HW.sum())
    return 1 - math.exp(-0.707 * inside / (total - inside + 1e-7) * (mask_HW.size - area) / area)


def attention_shift(circles: Sequence[tuple[int, int, int]], peaks: Sequence[tuple[int, int]]) -> float:
    """R_as = (exp(3 o) - 1) / (exp(3) - 1): o, the mean over regions of their peaks' mean distance over the radius, 1 without a peak."""
    shifts = []
    for x, y, radius in circles:
        distances = [distance for peak in peaks if (distance := math.dist((x, y), peak)) <= radius]
        shifts.append(float(np.mean(distances)) / radius if distances else 1.0)
    return (math.exp(3 * float(np.mean(shifts))) - 1) / (math.exp(3) - 1)


def attention_discreteness(circles: Sequence[tuple[int, int, int]], peaks: Sequence[tuple[int, int]]) -> float:
    """R_da, the mean over regions: 0 without a peak, 1 with one, 0.5 (1 - d/r) + exp(-0.5 (n + 2)) with n, d their mean distance from
    their own mean."""
    scores = []
    for x, y, radius in circles:
        inside = np.array([peak for peak in peaks if math.dist((x, y), peak) <= radius], np.float64).reshape(-1, 2)
        if len(inside) < 2:
            scores.append(float(len(inside)))
            continue
        spread = float(np.linalg.norm(inside - inside.mean(0), axis=1).mean())
        scores.append(0.5 * (1 - spread / radius) + math.exp(-0.5 * (len(inside) + 2)))
    return float(np.mean(scores))


def region_circle(region: Polygon) -> tuple[int, int, int]:
    """Centre x, y (mean of the vertices) and radius (1.5 times their mean distance from it), whole pixels cut as published; a radius of 0,
    by which the published scorer divides, is 1."""
    x, y = (int(sum(point[axis] for point in region) / len(region)) for axis in (0, 1))
    return x, y, max(1, int(float(np.mean([math.dist(point, (x, y)) for point in region])) * 1.5))


def attention_peaks(map_HW: npt.NDArray[np.floating], options: PeakOptions = PUBLISHED_PEAKS) -> list[tuple[int, int]]:
    """Peaks (x, y) of a map of 0 to 1, the most probable first: local maxima of the map in 256 levels, smoothed."""
    level_HW = (map_HW * 255.0).astype(np.uint8)
    for _ in range(options.passes):
        level_HW = box_mean(level_HW, options.blur)
    highest_HW = ndimage.maximum_filter(level_HW, size=options.window)
    label_HW, count = ndimage.label((highest_HW == level_HW) & (level_HW > 0), structure=np.ones((3, 3)))
    centres = ndimage.center_of_mass(label_HW > 0, label_HW, range(1, count + 1))
    peaks = [(int(column), int(row)) for row, column in centres]
    peaks.sort(key=lambda peak: -float(map_HW[peak[1], peak[0]]))
    return [(x, y) for x, y in peaks if map_HW[y, x] >= options.least]


def polygon_mask(regions: Sequence[Polygon], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """bool [H, W]: inside one of the polygons or on its edge; corners are cut to whole pixels first."""
    canvas = Image.new("1", (size[1], size[0]))
    drawing = ImageDraw.Draw(canvas)
    for region in regions:
        drawing.polygon([(int(x), int(y)) for x, y in region], fill=1, outline=1)
    return np.array(canvas, np.bool_)
