"""Axis-aligned boxes in space: centre x, y, z and extents.  Letters: N, M boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError

Floats = npt.NDArray[np.float64]


def box_iou_3d(one_N6: npt.ArrayLike, other_M6: npt.ArrayLike) -> Floats:
    """IoU [N, M] of the volumes of every box with every other; 0 where neither has a volume.

    >>> box_iou_3d([[0, 0, 0, 2, 2, 2]], [[1, 0, 0, 2, 2, 2], [9, 0, 0, 1, 1, 1]]).round(3).tolist()
    [[0.333, 0.0]]
    """
    one, other = (np.asarray(boxes, np.float64).reshape(-1, 6) for boxes in (one_N6, other_M6))
    low_N3, low_M3 = one[:, :3] - one[:, 3:] / 2, other[:, :3] - other[:, 3:] / 2
    high_N3, high_M3 = one[:, :3] + one[:, 3:] / 2, other[:, :3] + other[:, 3:] / 2
    side_NM3 = np.minimum(high_N3[:, None], high_M3[None]) - np.maximum(low_N3[:, None], low_M3[None])
    shared_NM = side_NM3.clip(0).prod(-1)
    whole_NM = one[:, 3:].prod(1)[:, None] + other[:, 3:].prod(1)[None] - shared_NM
    iou_NM: Floats = np.divide(shared_NM, whole_NM, out=np.zeros_like(shared_NM), where=whole_NM > 0)
    return iou_NM


@dataclass(frozen=True, slots=True)
class SceneBoxes:
    """Boxes of a room with scores; `chosen` says which of them are the answer, where there may be none or several.

    box_N6   centres and extents in metres
    score_N  higher is more likely
    chosen_N bool
    labels   class of each, "" if it has none; texts: a caption of each. Empty where these were not asked for
    """

    box_N6: Floats
    score_N: Floats
    chosen_N: npt.NDArray[np.bool_]
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.box_N6)
        if self.box_N6.shape != (count, 6) or self.score_N.shape != (count,) or self.chosen_N.shape != (count,):
            raise ShapeError(
                f"boxes {list(self.box_N6.shape)}, scores {list(self.score_N.shape)}, chosen {list(self.chosen_N.shape)} "
                "(expected [N, 6], [N], [N])"
            )
        if any(part and len(part) != count for part in (self.labels, self.texts)):
            raise ShapeError(
                f"{len(self.labels)} labels and {len(self.texts)} texts for {count} boxes (expected one per box, or none)"
            )
