"""Picture of a map over a large scene, reduced, with the windows of its hits.  Letters: H W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.scene_graph import Region
from diptych.data.media.decode import encode_png
from diptych.data.media.scene_file import Box, SceneFile
from diptych.report.heat import heat_picture

SIDE, STRIP = 720, 512


def write_scene_heat(
    path: Path, scene: SceneFile, map_HW: npt.NDArray[np.float64], words: str, boxes: Sequence[Box], *, side: int = SIDE
) -> None:
    """Write the scene twice, with the map and with the boxes, as PNG; the first box is the best. The scene is read in strips."""
    share = min(1.0, side / max(scene.height, scene.width))
    size = (max(1, round(scene.width * share)), max(1, round(scene.height * share)))
    reduced = Image.new("RGB", size)
    for top in range(0, scene.height, STRIP):
        bottom = min(scene.height, top + STRIP)
        low, high = round(top * share), round(bottom * share)
        if high > low:
            strip = Image.fromarray(scene.window((0, top, scene.width, bottom)))
            reduced.paste(strip.resize((size[0], high - low), Image.Resampling.BOX), (0, low))
    heat = Image.fromarray(map_HW.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    regions = [Region((box[0] * share, box[1] * share, box[2] * share, box[3] * share), "") for box in boxes]
    picture = heat_picture(np.asarray(reduced), np.asarray(heat), words, regions, 0 if regions else None, side=side)
    path.write_bytes(encode_png(picture))
