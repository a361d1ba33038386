"""Key points of the bodies in a picture, one row for each region (COCO's key points)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.media.square_frame import SquareFrame


def body_points(sample: Sample, region: int, count: int, frame: SquareFrame) -> npt.NDArray[np.float32] | None:
    """Key points of a region, [count, 3]: x and y as shares of the square, and COCO's visibility; None where there are none.

    They come from `extras["key_points"]`: for each region None, or `count` rows of x and y in pixels and the visibility (0 not labelled,
    1 hidden, 2 visible). Raises DataError for another number of regions or points.
    """
    bodies = sample.extras.get("key_points") if count else None
    if bodies is None:
        return None
    if len(bodies) != len(sample.regions) or any(one is not None and np.shape(one) != (count, 3) for one in bodies):
        raise DataError(
            f"sample '{sample.uid}' has key points of {len(bodies)} bodies for {len(sample.regions)} regions",
            field="key_points",
            expected=f"for each region None or {count} rows of x, y and visibility",
        )
    if bodies[region] is None:
        return None
    point_K3 = np.asarray(bodies[region], np.float32)
    return np.concatenate([frame.to_square(point_K3[:, [0, 1, 0, 1]])[:, :2], point_K3[:, 2:]], 1)
