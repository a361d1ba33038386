"""Boxes in a room as a model reads them: points of each, its place in the room, and the thing that it lies on.

Letters: M proposals, K points of each, N things, P points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DataError
from diptych.core.points.boxes_3d import box_iou_3d
from diptych.core.sample import Sample
from diptych.data.points.room_language import RoomObject, boxes_of_objects, room_objects

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProposalReading:
    """Which boxes are proposals, and what is read of each. A detector is not needed: they are the extra `proposals` of a sample, boxes of
    centre and extents from anywhere, else the boxes of its objects.

    most     proposals of a room, further ones are left out; fewer are padded
    inside   points that are read of each
    jitter   in training, boxes of objects are moved and scaled by up to this share of their extents
    matched  IoU from which a proposal counts as the thing that it overlaps most
    """

    most: int = 64
    inside: int = 128
    jitter: float = 0.1
    matched: float = 0.25

    def __post_init__(self) -> None:
        if min(self.most, self.inside) < 1 or not 0 <= self.jitter < 1 or not 0 < self.matched <= 1:
            raise ConfigError(
                f"most {self.most}, inside {self.inside}, jitter {self.jitter}, matched {self.matched} "
                "(expected 1 or more, 1 or more, a share below 1, and an IoU above 0)"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)

    def boxes(self, sample: Sample, rng: np.random.Generator | None = None) -> Floats:
        """[M, 6], `most` at most. With `rng` the boxes of objects are jittered."""
        given = sample.extras.get("proposals")
        if given is not None:
            box_M6 = np.asarray(given, np.float64)
            if box_M6.ndim != 2 or box_M6.shape[1] != 6 or not np.isfinite(box_M6).all() or (box_M6[:, 3:] < 0).any():
                raise DataError(
                    f"sample '{sample.uid}' has proposals of {list(box_M6.shape)}",
                    field="proposals",
                    expected="finite boxes [M, 6], centre and extents",
                )
            return box_M6[: self.most]
        box_M6 = boxes_of_objects(room_objects(sample))[: self.most]
        if rng is not None and self.jitter:
            box_M6[:, :3] += rng.uniform(-self.jitter, self.jitter, (len(box_M6), 3)) * box_M6[:, 3:]
            box_M6[:, 3:] *= 1 + rng.uniform(-self.jitter, self.jitter, (len(box_M6), 3))
        return box_M6

    def points(
        self, cloud_P6: npt.NDArray[Any], box_M6: Floats, rng: np.random.Generator | None = None
    ) -> npt.NDArray[np.float32]:
        """float32 [M, inside, 6]: points in each box, relative to its centre, with colours of 0..1; zeros for a box without points."""
        rng = np.random.default_rng(0) if rng is None else rng
        colour = cloud_P6[:, 3:6] / (255.0 if float(cloud_P6[:, 3:6].max(initial=0)) > 1 else 1.0)
        point_MKF = np.zeros((len(box_M6), self.inside, 6), np.float32)
        for number, box in enumerate(box_M6):
            within_P = np.flatnonzero((np.abs(cloud_P6[:, :3] - box[:3]) <= box[3:] / 2 + 0.02).all(1))
            if len(within_P):
                chosen_K = np.resize(rng.permutation(within_P), self.inside)
                point_MKF[number] = np.concatenate([cloud_P6[chosen_K, :3] - box[:3], colour[chosen_K]], 1)
        return point_MKF

    def matches(self, box_M6: Floats, objects: list[RoomObject]) -> npt.NDArray[np.int64]:
        """Place in `objects` of the thing that each proposal lies on, -1 for none."""
        if not len(box_M6) or not objects:
            return np.full(len(box_M6), -1)
        iou_MN = box_iou_3d(box_M6, boxes_of_objects(objects))
        return np.where(iou_MN.max(1) >= self.matched, iou_MN.argmax(1), -1)


def placed_boxes(box_M6: Floats, cloud_P6: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 [M, 6]: centres around the middle of the room and above its floor, and logarithms of extents (at least a centimetre)."""
    low_3, high_3 = cloud_P6[:, :3].min(0), cloud_P6[:, :3].max(0)
    middle_3 = np.array([(low_3[0] + high_3[0]) / 2, (low_3[1] + high_3[1]) / 2, low_3[2]])
    return np.concatenate([box_M6[:, :3] - middle_3, np.log(box_M6[:, 3:].clip(0.01))], 1).astype(np.float32)


def padded(x: npt.NDArray[Any], count: int, value: float = 0) -> npt.NDArray[Any]:
    """The array with rows of `value` after it, `count` in all."""
    return np.concatenate([x, np.full((count - len(x), *x.shape[1:]), value, x.dtype)])
