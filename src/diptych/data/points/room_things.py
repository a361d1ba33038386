"""Things of a room as arrays: boxes, places, colours, points, and features that were computed before.

Letters: M things, K points of each, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.points.proposals import ProposalReading

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoomThings:
    """box_M6      centres and extents in metres
    placed_M6   the same with centres around the middle of the room, z above its floor
    colour_M3   mean colour of the points, 0..1
    point_MKF   points of each, relative to its centre, with colours
    feature_MF  from the extra `object_features`, [M, 0] without
    image_MF    features from images, from the extra `object_image_features`, [M, 0] without
    """

    box_M6: Floats
    placed_M6: npt.NDArray[np.float32]
    colour_M3: npt.NDArray[np.float32]
    point_MKF: npt.NDArray[np.float32]
    feature_MF: npt.NDArray[np.float32]
    image_MF: npt.NDArray[np.float32]

    def features(self, *, images: bool) -> npt.NDArray[np.float32]:
        """Features of each thing, [M, F]; with those from images behind them."""
        return np.concatenate([self.feature_MF, self.image_MF], 1) if images else self.feature_MF


def read_things(sample: Sample, reading: ProposalReading, medium: str, rng: np.random.Generator | None = None) -> RoomThings:
    """The things of a room: its proposals, else its objects, jittered with `rng`. Raises DataError without a coloured cloud, and where
    features and things differ in number."""
    if medium not in sample.media:
        raise DataError(f"sample '{sample.uid}' has no cloud", field=medium, expected="KEY.ply, KEY.cloud.npy, ...")
    cloud_P6: npt.NDArray[Any] = sample.media[medium].decode()
    if cloud_P6.shape[1] < 6:
        raise DataError(f"sample '{sample.uid}' has a cloud without colours", field=medium, expected="x y z and colours")
    box_M6 = reading.boxes(sample, rng)
    point_MKF = reading.points(cloud_P6, box_M6, rng)
    low_3, high_3 = cloud_P6[:, :3].min(0), cloud_P6[:, :3].max(0)
    middle_3 = [(low_3[0] + high_3[0]) / 2, (low_3[1] + high_3[1]) / 2, low_3[2]]
    placed_M6 = box_M6 - [*middle_3, 0, 0, 0]
    features = [_given_features(sample, name, len(box_M6), reading.most) for name in ("object_features", "object_image_features")]
    return RoomThings(box_M6, placed_M6.astype(np.float32), point_MKF[..., 3:].mean(1), point_MKF, *features)


def _given_features(sample: Sample, name: str, count: int, most: int) -> npt.NDArray[np.float32]:
    given = sample.extras.get(name)
    feature_MF = np.zeros((count, 0), np.float32) if given is None else np.asarray(given, np.float32)[:most]
    if feature_MF.ndim != 2 or len(feature_MF) != count:
        raise DataError(
            f"sample '{sample.uid}' has features {list(feature_MF.shape)} for {count} things",
            field=name,
            expected="a row for each",
        )
    return feature_MF
