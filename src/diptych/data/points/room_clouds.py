"""Clouds of rooms as a model reads them, in metres: sampled, moved to the middle of the floor, with colours; and classes of points.

Letters: P points, F values of a point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.sample import Sample

POINT_LABELS = "point_labels"
IGNORED = 255
"""Class of points that count nowhere."""


@dataclass(frozen=True)
class RoomPreprocess:
    """Sampling and centring of a cloud of a room; metres, z up.

    points  of a cloud, drawn at random; a cloud with fewer gives all of them, and some again
    turn    in training, a rotation about z by any angle
    """

    points: int = 20_000
    turn: bool = True

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ConfigError(f"{self.points} points (expected 1 or more)")

    def rows(self, count: int, rng: np.random.Generator | None = None) -> npt.NDArray[np.int64]:
        """Places of the points that are read, [points]. Without `rng` the same each time."""
        rng = np.random.default_rng(0) if rng is None else rng
        order_P = rng.permutation(count)
        return np.resize(order_P, self.points)

    def __call__(self, cloud_PF: npt.NDArray[Any], *, rng: np.random.Generator | None = None) -> npt.NDArray[np.float32]:
        """float32 [P, 6] of the points as they come: x and y around the middle of the room, z above its lowest point, colours of 0..1.
        With `rng` turned by an angle. Raises DecodeError for clouds that are empty, without colours, or not finite."""
        if cloud_PF.ndim != 2 or cloud_PF.shape[1] < 6 or not len(cloud_PF) or not np.isfinite(cloud_PF[:, :6]).all():
            raise DecodeError(
                f"a cloud of {list(cloud_PF.shape)}",
                medium="cloud",
                expected="finite [points, 6 or more], x y z and colours, not empty",
            )
        xyz_P3 = cloud_PF[:, :3].astype(np.float64)
        low_3, high_3 = xyz_P3.min(0), xyz_P3.max(0)
        xyz_P3 = xyz_P3 - [(low_3[0] + high_3[0]) / 2, (low_3[1] + high_3[1]) / 2, low_3[2]]
        if rng is not None and self.turn:
            angle = rng.uniform(0, 2 * np.pi)
            sine, cosine = np.sin(angle), np.cos(angle)
            xyz_P3 = xyz_P3 @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        colour_P3 = cloud_PF[:, 3:6].astype(np.float64)
        in_bytes = float(colour_P3.max()) > 1
        return np.concatenate([xyz_P3, colour_P3 / 255 if in_bytes else colour_P3], 1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


def point_labels(sample: Sample, points: int, classes: int) -> npt.NDArray[np.int64]:
    """Class of every point [P], 255 where none counts, from the first band of the raster `point_labels` [P, bands].

    Raises DataError for a sample without them, with another number of them, and for classes that do not exist.
    """
    if POINT_LABELS not in sample.media:
        raise DataError(
            f"sample '{sample.uid}' has no class per point",
            field=POINT_LABELS,
            expected="KEY.raster-point_labels.npy [points, 1 or more]",
        )
    label_P: npt.NDArray[np.int64] = sample.media[POINT_LABELS].decode()[..., 0]
    label_P = np.asarray(label_P[:, 0] if label_P.ndim == 2 else label_P, np.int64)
    if len(label_P) != points:
        raise DataError(
            f"sample '{sample.uid}' has {len(label_P)} classes for {points} points", field=POINT_LABELS, expected="one per point"
        )
    wrong_P = (label_P != IGNORED) & ((label_P < 0) | (label_P >= classes))
    if wrong_P.any():
        raise DataError(
            f"sample '{sample.uid}' has class {label_P[wrong_P][0]}", field=POINT_LABELS, expected=f"0..{classes - 1} or 255"
        )
    return label_P
