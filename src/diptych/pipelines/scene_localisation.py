"""Text localisation in a large scene: a map of similarities over overlapping windows (SeLo; Yuan et al., 2022, 2209.06515).

Letters: H W pixels of the map, N windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Embedder
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.terminal.progress import with_bar
from diptych.data.media.box_filters import box_median
from diptych.data.media.scene_file import Box, SceneFile
from diptych.tasks._scoring.semantic_localisation import PUBLISHED_PEAKS, PeakOptions, attention_peaks

BATCH, LARGEST_MAP = 32, 2048


@dataclass(frozen=True)
class SceneMapOptions:
    """windows  sides of the windows in pixels of the scene; those that do not fit are left out
    median   side of the median that smooths the map, in pixels of the scene: odd; 1 leaves it
    scale    pixels of the scene for one of the map; 0 takes as many as make the map's longer side 2,048 at most (published: 1)
    peaks    search for hits, in pixels of the scene
    """

    windows: tuple[int, ...] = (256, 512, 768)
    median: int = 251
    scale: int = 0
    peaks: PeakOptions = PUBLISHED_PEAKS

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows) < 2 or self.median < 1 or self.median % 2 == 0 or self.scale < 0:
            raise ConfigError(
                f"windows {list(self.windows)}, median {self.median}, scale {self.scale} (expected sides of 2 or more, odd, 0 or more)"
            )


def options_for(height: int, width: int) -> SceneMapOptions:
    """Sizes for a scene of any size: windows of an eighth, a quarter and three eighths of the shorter side; smoothing, blur and distance
    of peaks in the published proportions to the smallest window (251, 50 and 1,000 to 256)."""
    smallest = max(8, min(height, width) // 8)
    median = max(1, smallest * 251 // 256)
    peaks = PeakOptions(blur=max(1, smallest * 50 // 256), window=max(3, smallest * 1000 // 256))
    return SceneMapOptions((smallest, 2 * smallest, 3 * smallest), median - 1 + median % 2, peaks=peaks)


@dataclass(frozen=True, slots=True)
class SceneHit:
    """A peak of the map: x, y in pixels of the scene, its probability, and the best window that holds it with its cosine."""

    x: float
    y: float
    probability: float
    box: Box
    cosine: float


@dataclass(frozen=True)
class SceneMap:
    """Probabilities 0 to 1 over a scene, `scale` pixels of the scene for one of the map; hits, the most probable first."""

    map_HW: npt.NDArray[np.float64]
    scale: int
    hits: tuple[SceneHit, ...]

    def geojson(self, scene: SceneFile, text: str) -> dict[str, Any]:
        """FeatureCollection with a polygon (longitude, latitude) for the window of every hit. Raises DataError for a scene without CRS."""
        features = []
        for hit in self.hits:
            left, top, right, bottom = hit.box
            ring = [
                list(scene.lon_lat(x, y)) for x, y in ((left, top), (left, bottom), (right, bottom), (right, top), (left, top))
            ]
            properties = {
                "text": text,
                "probability": hit.probability,
                "cosine": hit.cosine,
                "pixel": [hit.x, hit.y],
                "centre": list(scene.lon_lat(hit.x, hit.y)),
            }
            features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties})
        return {"type": "FeatureCollection", "features": features}


def locate(model: Embedder, scene: SceneFile, text: str, options: SceneMapOptions | None = None) -> SceneMap:
    """Map and hits of a text in a scene, by any dual encoder. Windows are read and embedded a batch at a time."""
    options = options or SceneMapOptions()
    boxes = scene_windows(scene.height, scene.width, options.windows)
    text_D = model.embed_texts([text])[0]
    starts = range(0, len(boxes), BATCH)
    parts = [
        model.embed_images([ArrayImage(scene.window(box)) for box in boxes[start : start + BATCH]]) @ text_D
        for start in with_bar(starts, len(starts), "windows", least=4)
    ]
    cosine_N = np.concatenate(parts).astype(np.float64)
    scale = options.scale or max(1, -(-max(scene.height, scene.width) // LARGEST_MAP))
    mean_HW = window_means((scene.height, scene.width), boxes, cosine_N, scale=scale)
    map_HW = probability_map(mean_HW, _odd(options.median, scale, min(mean_HW.shape)))
    peaks = replace(
        options.peaks,
        blur=min(max(1, options.peaks.blur // scale), 2 * min(mean_HW.shape) - 1),
        window=max(1, options.peaks.window // scale),
    )
    hits = [_hit(x, y, float(map_HW[y, x]), boxes, cosine_N, scale) for x, y in attention_peaks(map_HW, peaks)]
    return SceneMap(map_HW, scale, tuple(hits))


def scene_windows(height: int, width: int, sides: Sequence[int]) -> tuple[Box, ...]:
    """Windows of each side over a scene, once from the corner and once moved by half a side both ways; at the far edges they are moved in.
    Each once, in order. The whole scene where no side fits."""
    boxes: dict[Box, None] = {}
    for side in sides:
        if side > min(height, width):
            continue
        for first in (0, side - side // 2):
            for top in range(first, height, side):
                for left in range(first, width, side):
                    x, y = min(left, width - side), min(top, height - side)
                    boxes[x, y, x + side, y + side] = None
    return tuple(boxes) or ((0, 0, width, height),)


def window_means(
    size: tuple[int, int], boxes: Sequence[Box], value_N: npt.NDArray[np.float64], *, scale: int = 1
) -> npt.NDArray[np.float64]:
    """Mean over the windows that hold each pixel [H / scale, W / scale]; every pixel has to be in one."""
    height, width = (-(-length // scale) for length in size)
    sums = np.zeros((2, height + 1, width + 1))
    for (left, top, right, bottom), value in zip(boxes, value_N, strict=True):
        x0, y0 = left // scale, top // scale
        x1, y1 = -(-right // scale), -(-bottom // scale)
        corners = ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1))
        for y, x, sign in corners:
            sums[:, y, x] += sign * value, sign
    total_HW, count_HW = sums.cumsum(1).cumsum(2)[:, :-1, :-1]
    mean_HW: npt.NDArray[np.float64] = total_HW / np.rint(count_HW)
    return mean_HW


def probability_map(mean_HW: npt.NDArray[np.float64], median: int = 251) -> npt.NDArray[np.float64]:
    """A map from 0 (lowest) to 1 in 256 levels, smoothed by a median; 0 everywhere where all values are equal."""
    spread = float(np.ptp(mean_HW))
    share_HW = (mean_HW - mean_HW.min()) / spread if spread > 1e-9 else np.zeros_like(mean_HW)
    level_HW = (255 * share_HW).astype(np.uint8)
    smooth_HW: npt.NDArray[np.float64] = box_median(level_HW, median) / 255.0
    return smooth_HW


def _odd(side: int, scale: int, shorter: int) -> int:
    side = min(side // scale, 2 * shorter - 1)
    return max(1, side - 1 + side % 2)


def _hit(x: int, y: int, probability: float, boxes: Sequence[Box], cosine_N: npt.NDArray[np.float64], scale: int) -> SceneHit:
    """The hit at a pixel of the map."""
    across, down = (x + 0.5) * scale, (y + 0.5) * scale
    inside = [n for n, box in enumerate(boxes) if box[0] <= across <= box[2] and box[1] <= down <= box[3]]
    best = max(inside, key=lambda n: cosine_N[n])
    return SceneHit(across, down, probability, boxes[best], float(cosine_N[best]))
