"""Pictures with depth and a camera: from pixels to points of space and back.

A camera looks along its z axis, x points right and y down; `pose` maps its coordinates to those of the room. Pixel centres have whole
coordinates: column u and row v of a point (x, y, z) are fx x / z + cx and fy y / z + cy. Letters: N points, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample

Floats = npt.NDArray[np.float64]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Camera:
    """intrinsics  fx, fy, cx, cy in pixels
    pose        the 16 numbers of the matrix from camera to room, row by row
    """

    intrinsics: tuple[float, float, float, float]
    pose: tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        numbers = np.array([*self.intrinsics, *self.pose])
        if len(self.intrinsics) != 4 or len(self.pose) != 16 or not np.isfinite(numbers).all() or min(self.intrinsics[:2]) <= 0:
            raise DataError(
                f"a camera of {len(self.intrinsics)} intrinsics and {len(self.pose)} numbers of a pose",
                field="intrinsics, pose",
                expected="fx, fy above 0, cx, cy, and 16 finite numbers of a matrix from camera to room",
            )

    @property
    def matrix(self) -> Floats:
        """[4, 4] from camera to room."""
        return np.array(self.pose, np.float64).reshape(4, 4)

    def to_json(self) -> dict[str, Any]:
        return {"intrinsics": list(self.intrinsics), "pose": list(self.pose)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        try:
            fx, fy, cx, cy = (float(value) for value in plain["intrinsics"])
            return cls((fx, fy, cx, cy), tuple(float(value) for value in plain.get("pose") or IDENTITY))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("has no camera", field="intrinsics", expected="fx, fy, cx, cy, and 'pose' with 16 numbers") from error


def back_project(depth_HW: npt.NDArray[Any], camera: Camera) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Points [N, 3] in the room of all pixels with a finite depth above 0, and their rows and columns [N, 2], row by row."""
    if depth_HW.ndim != 2:
        raise ShapeError(f"depth is {list(depth_HW.shape)} (expected [height, width])")
    row_N, column_N = np.nonzero(np.isfinite(depth_HW) & (depth_HW > 0))
    z_N = depth_HW[row_N, column_N].astype(np.float64)
    fx, fy, cx, cy = camera.intrinsics
    camera_N4 = np.stack([(column_N - cx) / fx * z_N, (row_N - cy) / fy * z_N, z_N, np.ones_like(z_N)], 1)
    return (camera_N4 @ camera.matrix.T)[:, :3], np.stack([row_N, column_N], 1)


def project(xyz_N3: npt.NDArray[Any], camera: Camera) -> tuple[Floats, Floats]:
    """Rows and columns [N, 2] of points of the room, not rounded, and their depths [N]; a depth of 0 or below lies behind the camera."""
    room_N4 = np.concatenate([np.asarray(xyz_N3, np.float64), np.ones((len(xyz_N3), 1))], 1)
    x_N, y_N, z_N, _ = (room_N4 @ np.linalg.inv(camera.matrix).T).T
    fx, fy, cx, cy = camera.intrinsics
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([y_N / z_N * fy + cy, x_N / z_N * fx + cx], 1), z_N


@dataclass(frozen=True, slots=True)
class RGBDFrame:
    """A picture, its depth [H, W] in metres (0: none), and the camera of both."""

    image: ImageSource
    depth_HW: npt.NDArray[np.float32]
    camera: Camera


def frame_count(sample: Sample) -> int:
    """Frames of a sample: pictures of its medium "frames", else its one picture."""
    return len(sample.media["frames"].parts) if "frames" in sample.media else int(sample.image is not None)


def read_frame(sample: Sample, index: int = 0, *, unit: float = 0.001) -> RGBDFrame:
    """One frame of a sample with several, or its picture.

    several  media "frames" (pictures) and "depths" (a raster with a band for each), extra "cameras": a list of {intrinsics, pose}
    one      the picture, medium "depth" (a raster of one band), extras "intrinsics" and, where it matters, "pose"
    unit     metres of a whole number in a raster of integers; floats are metres
    Raises DataError for a sample that lacks one of these, and where picture and depth differ in number.
    """
    several = "frames" in sample.media
    depth = sample.media.get("depths" if several else "depth")
    cameras: Any = sample.extras.get("cameras") if several else [sample.extras]
    image = sample.media["frames"].parts[index] if several else sample.image
    if depth is None or image is None or not isinstance(cameras, list | tuple) or len(cameras) <= index:
        raise DataError(
            f"sample '{sample.uid}' has no picture with depth and camera",
            field="depth, intrinsics",
            expected="KEY.jpg, KEY.raster-depth.png and 'intrinsics', or frames, depths and 'cameras'",
        )
    depth_HWV = depth.decode()
    if depth_HWV.shape[2] <= index:
        raise DataError(f"sample '{sample.uid}' has {depth_HWV.shape[2]} depths", field="depths", expected="one per frame")
    depth_HW = depth_HWV[..., index]
    metres_HW = depth_HW.astype(np.float32) * (unit if depth_HW.dtype.kind in "iu" else 1.0)
    return RGBDFrame(image, np.where(np.isfinite(metres_HW), metres_HW, 0).astype(np.float32), Camera.from_json(cameras[index]))
