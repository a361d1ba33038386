"""A point cloud as a model reads it: sampled, centred on the unit sphere, with or without colours; and the published augmentations.

Everything here is NumPy and runs in loader workers. Letters: P points, F values of a point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DecodeError

Points = npt.NDArray[np.float32]
Up = Literal["x", "y", "z"]
PointSampling = Literal["furthest", "random"]
ColourRange = Literal["auto", "bytes", "unit"]


def unit_sphere(xyz_P3: npt.NDArray[Any]) -> Points:
    """The points around their mean, the furthest of them at distance 1. Points that are all equal become zeros."""
    centred_P3 = xyz_P3 - xyz_P3.mean(0)
    radius = float(np.sqrt((centred_P3**2).sum(1)).max())
    unit_P3: Points = (centred_P3 / (radius or 1.0)).astype(np.float32)
    return unit_P3


def furthest_rows(xyz_P3: npt.NDArray[Any], count: int, start: int = 0) -> npt.NDArray[np.int64]:
    """Furthest-point sampling: int64 [count], from `start`; of equally far points the lowest index. As `models.points.sampling`."""
    axes = [
        np.ascontiguousarray(axis_P) for axis_P in xyz_P3[:, :3].T
    ]  # one array a coordinate, and no new one a step: for speed
    near_P = np.full(len(xyz_P3), np.inf, np.result_type(xyz_P3, np.float32))
    distance_P, square_P = np.empty_like(near_P), np.empty_like(near_P)
    index_N = np.empty(count, np.int64)
    chosen = index_N[0] = start
    for step in range(1, count):
        distance_P.fill(0)
        for axis_P in axes:
            np.subtract(axis_P, axis_P[chosen], out=square_P)
            np.multiply(square_P, square_P, out=square_P)
            np.add(distance_P, square_P, out=distance_P)
        np.minimum(near_P, distance_P, out=near_P)
        index_N[step] = chosen = int(near_P.argmax())
    return index_N


def y_up(xyz_P3: npt.NDArray[Any], up: Up) -> npt.NDArray[Any]:
    """The points turned so that y is up. `up` is the axis of the data.

    >>> y_up(np.array([[0.0, 0.0, 2.0]]), "z").tolist()
    [[0.0, 2.0, -0.0]]
    """
    x_P, y_P, z_P = xyz_P3.T
    turned = {"x": (-y_P, x_P, z_P), "y": (x_P, y_P, z_P), "z": (x_P, z_P, -y_P)}
    if up not in turned:
        raise ConfigError(f"up is {up!r} (expected x | y | z, the axis of the data that points up)")
    return np.stack(turned[up], 1)


@dataclass(frozen=True)
class CloudPreprocess:
    """Sampling, centring and colours of a cloud before a model reads it.

    points    of a cloud; of more some are sampled
    too_few   a cloud with fewer points: "repeat" takes some of them again, evenly; "refuse" is an error
    sampling  "furthest", as published, or "random", which is much faster
    channels  3: xyz; 6: xyz and red, green, blue in 0..1
    missing   colour of clouds that have none
    colours   of the data: "bytes" 0..255, "unit" 0..1, or "auto": bytes where a value is above 1
    up        the axis of the data that points up; models read y
    """

    points: int = 8192
    sampling: PointSampling = "furthest"
    channels: int = 3
    missing: float = 0.4
    colours: ColourRange = "auto"
    up: Up = "y"
    too_few: Literal["repeat", "refuse"] = "repeat"

    def __post_init__(self) -> None:
        if self.points < 1 or self.channels not in (3, 6) or not 0 <= self.missing <= 1:
            raise ConfigError(
                f"{self.points} points of {self.channels} channels, missing colour {self.missing} "
                "(expected 1 point or more, 3 or 6 channels, and a colour of 0..1)"
            )
        if self.sampling not in get_args(PointSampling) or self.colours not in get_args(ColourRange):
            raise ConfigError(
                f"sampling {self.sampling!r}, colours {self.colours!r} (expected furthest | random, and auto | bytes | unit)"
            )
        if self.too_few not in ("repeat", "refuse"):
            raise ConfigError(f"too_few is {self.too_few!r} (expected repeat | refuse)")
        y_up(np.zeros((1, 3)), self.up)

    def __call__(self, cloud_PF: npt.NDArray[Any], *, name: str = "", rng: np.random.Generator | None = None) -> Points:
        """float32 [points, channels]. `rng` draws where sampling starts, or the order of points that are all taken, as in training; without
        it sampling starts at the first point. Raises DecodeError for an empty cloud, for values that are not finite, and for fewer points
        than asked where `too_few` refuses them."""
        if cloud_PF.ndim != 2 or cloud_PF.shape[1] < 3 or not len(cloud_PF):
            raise DecodeError(
                f"a cloud of {list(cloud_PF.shape)}", file=name, medium="cloud", expected="[points, 3 or more], not empty"
            )
        if not np.isfinite(cloud_PF[:, : self.channels]).all():
            raise DecodeError("a point is not finite", file=name, medium="cloud", expected="finite numbers")
        if len(cloud_PF) < self.points and self.too_few == "refuse":
            expected = f"{self.points:,} or more, or too_few=repeat"
            raise DecodeError(f"{len(cloud_PF):,} points", file=name, medium="cloud", expected=expected)
        sampled_PF = cloud_PF[self._rows(cloud_PF[:, :3], rng)]
        xyz_P3 = unit_sphere(y_up(sampled_PF[:, :3].astype(np.float64), self.up))
        if self.channels == 3:
            return xyz_P3
        coloured_P6: Points = np.concatenate([xyz_P3, self._colours(sampled_PF)], 1)
        return coloured_P6

    def _rows(self, xyz_P3: npt.NDArray[Any], rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
        count = len(xyz_P3)
        if count <= self.points:
            order_P = np.arange(count) if rng is None else rng.permutation(count)
            return np.resize(order_P, self.points)
        if self.sampling == "random":
            return (rng or np.random.default_rng(0)).choice(count, self.points, replace=False)
        return furthest_rows(xyz_P3, self.points, 0 if rng is None else int(rng.integers(count)))

    def _colours(self, cloud_PF: npt.NDArray[Any]) -> Points:
        if cloud_PF.shape[1] < 6:
            return np.full((len(cloud_PF), 3), self.missing, np.float32)
        colour_P3 = cloud_PF[:, 3:6].astype(np.float32)
        in_bytes = self.colours == "bytes" or (self.colours == "auto" and float(colour_P3.max()) > 1)
        unit_P3: Points = (colour_P3 / 255 if in_bytes else colour_P3).astype(np.float32)
        return unit_P3

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


@dataclass(frozen=True)
class CloudAugment:
    """Augmentations of ULIP (2212.05171), which are PointNet++'s (1706.02413), in their order. 0, or an empty range, leaves one out.

    dropout   up to this share of points is replaced by the first point
    factor    range of the factor of all coordinates
    shift     most that a cloud is moved along each axis
    tilt, tilt_most  standard deviation and bound, in radians, of a small rotation about each axis
    turn      any rotation about y, the axis that points up
    """

    dropout: float = 0.875
    factor: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    tilt: float = 0.06
    tilt_most: float = 0.18
    turn: bool = True

    def __post_init__(self) -> None:
        if (
            not 0 <= self.dropout <= 1
            or not 0 < self.factor[0] <= self.factor[1]
            or min(self.shift, self.tilt, self.tilt_most) < 0
        ):
            raise ConfigError(
                f"dropout {self.dropout}, factor {self.factor}, shift {self.shift}, tilt {self.tilt} "
                "(expected a share, a rising range above 0, and 0 or more)"
            )

    def __call__(self, cloud_PF: Points, rng: np.random.Generator) -> Points:
        """A changed copy; colours stay, but those of points that are dropped become the first point's."""
        cloud_PF = cloud_PF.copy()
        if self.dropout:
            share = rng.random() * self.dropout
            cloud_PF[rng.random(len(cloud_PF)) <= share] = cloud_PF[0]
        xyz_P3 = cloud_PF[:, :3].astype(np.float64)
        if self.factor[0] < self.factor[1]:
            xyz_P3 *= rng.uniform(*self.factor)
        if self.shift:
            xyz_P3 += rng.uniform(-self.shift, self.shift, 3)
        if self.tilt:
            angle_3 = np.clip(self.tilt * rng.standard_normal(3), -self.tilt_most, self.tilt_most)
            about_x, about_y, about_z = (rotation(axis, float(angle)) for axis, angle in enumerate(angle_3))
            xyz_P3 = xyz_P3 @ (about_z @ about_y @ about_x)
        if self.turn:
            xyz_P3 = xyz_P3 @ rotation(1, rng.uniform() * 2 * np.pi)
        cloud_PF[:, :3] = xyz_P3
        return cloud_PF


def rotation(axis: int, angle: float) -> npt.NDArray[np.float64]:
    """[3, 3] rotation of column vectors about axis 0, 1 or 2 by an angle in radians."""
    matrix_33 = np.eye(3)
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    matrix_33[first, first] = matrix_33[second, second] = np.cos(angle)
    matrix_33[first, second], matrix_33[second, first] = -np.sin(angle), np.sin(angle)
    return matrix_33
