"""NIfTI volumes in one orientation (extra `medical`).

Axes are turned to the nearest canonical ones first ("RAS+"): indices grow toward the patient's right, front and head.
Left and right errors are silent, so slices are asked for by anatomical plane.

Letters: X Y Z axes to the right, to the front, upwards; T times; H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DecodeError, MissingExtra, TooLarge

Plane = Literal["axial", "coronal", "sagittal"]
Times = Literal["one", "first", "middle", "mean"]
LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class NiftiVolume:
    """voxel_XYZ  float32, scaled as the file says
    affine_44    voxel index to millimetres, of the turned axes
    """

    voxel_XYZ: npt.NDArray[np.float32]
    affine_44: npt.NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along X, Y and Z."""
        x, y, z = np.sqrt((self.affine_44[:3, :3] ** 2).sum(0)).tolist()
        return x, y, z

    def slice(self, plane: Plane, position: float = 0.5) -> npt.NDArray[np.float32]:
        """[H, W], as radiologists look at it: the patient's right is on the left, the front (axial) or the head is on top.

        position  of the plane along its axis, 0 to 1: from the feet, from the back, from the left
        """
        if plane not in get_args(Plane) or not 0 <= position <= 1:
            raise ConfigError(f"plane {plane!r} at {position} (expected {' | '.join(get_args(Plane))}, 0..1)")
        axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
        voxel_XYZ = self.voxel_XYZ[::-1]  # now the first index grows to the patient's left
        count = voxel_XYZ.shape[axis]
        share = 1 - position if plane == "sagittal" else position
        index = min(count - 1, int(share * count))
        return np.ascontiguousarray(np.take(voxel_XYZ, index, axis).T[::-1])


def read_nifti(path: Path, *, times: Times = "one", limit: int = LIMIT) -> NiftiVolume:
    """The volume of a .nii or .nii.gz.

    times  of a file with a fourth axis: "one" refuses several, "first" and "middle" take one, "mean" their mean
    limit  voxels of all times together
    Raises DecodeError for a broken file, TooLarge, ConfigError for a bad option.
    """
    if times not in get_args(Times):
        raise ConfigError(f"times is {times!r} (expected {' | '.join(get_args(Times))})")
    try:
        import nibabel
    except ImportError as error:
        raise DecodeError(str(MissingExtra("nibabel", "medical", needed_for="a NIfTI file")), file=path) from error
    try:
        image: Any = nibabel.as_closest_canonical(nibabel.load(path))
        shape = image.shape
        if int(np.prod(shape)) > limit:
            raise TooLarge(f"{' x '.join(map(str, shape))} voxels are more than the limit of {limit:,}", file=path)
        voxel = np.asarray(image.dataobj, dtype=np.float32)
    except DecodeError:
        raise
    except Exception as error:  # parsers raise anything on hostile bytes
        raise DecodeError(
            f"cannot be decoded: {' '.join(str(error).split())[:300]}", file=path, expected="a NIfTI volume"
        ) from error
    if voxel.ndim not in (3, 4) or not voxel.size:
        raise DecodeError(f"it has the shape {list(voxel.shape)}", file=path, expected="three axes, or four with times")
    if voxel.ndim == 4:
        if voxel.shape[3] > 1 and times == "one":
            raise DecodeError(f"it has {voxel.shape[3]} times", file=path, expected="one, or a choice: first | middle | mean")
        voxel = voxel.mean(3) if times == "mean" else voxel[..., voxel.shape[3] // 2 if times == "middle" else 0]
    return NiftiVolume(np.ascontiguousarray(voxel), np.asarray(image.affine, np.float64))
