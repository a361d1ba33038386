"""Poses of stick figures: 17 key points in COCO's order, from the angles of limbs. Lengths are shares of the figure's height."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KEY_POINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
BONES = ((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
"""Pairs of key points that limbs connect: upper and lower arms, upper and lower legs."""
HEAD, SHOULDERS, HIPS = 0.12, 0.26, 0.56
"""Height of the middle of the head, of the shoulders and of the hips, from the top."""
HALF_SHOULDERS, HALF_HIPS, EYE, EAR = 0.1, 0.06, 0.035, 0.07
UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = 0.18, 0.17, 0.2, 0.2


@dataclass(frozen=True, slots=True)
class Pose:
    """Angles of limbs in degrees from hanging down, positive towards the right of the picture.

    left, right    (upper, lower) of the arms at the left and the right of the picture
    legs           of both legs, apart from the middle
    """

    left: tuple[float, float]
    right: tuple[float, float]
    legs: float = 8.0


NEUTRAL = (
    Pose((-10, -10), (10, 10)),
    Pose((-70, -120), (10, 10)),
    Pose((-10, -10), (70, 120)),
    Pose((-50, -20), (50, 20), 14.0),
)
"""Poses of one figure alone, as reference pictures have them."""
RELATIONS = {
    "shaking hands with": (Pose((-12, -12), (75, 95)), Pose((-75, -95), (12, 12)), 0.62),
    "hugging": (Pose((60, 85), (80, 95)), Pose((-80, -95), (-60, -85)), 0.3),
    "waving to": (Pose((-12, -12), (130, 160)), Pose((-130, -160), (12, 12)), 0.78),
    "dancing with": (Pose((-110, -140), (100, 80)), Pose((-100, -80), (110, 140)), 0.66),
}
"""Relation -> pose of the figure at the left, pose of that at the right, and the distance of both as a share of their height."""


def key_points(pose: Pose, x: float, top: float, height: float) -> npt.NDArray[np.float64]:
    """[17, 2] x and y of the key points; `x` is the middle of the figure, `top` its upper end, in any unit."""
    points = np.zeros((17, 2))
    points[0] = (0.0, HEAD)
    for at, (side, reach) in enumerate(((-1, EYE), (1, EYE), (-1, EAR), (1, EAR)), 1):
        points[at] = (side * reach, HEAD - (0.01 if at < 3 else 0.0))
    for at, side, arm in ((5, -1, pose.left), (6, 1, pose.right)):
        shoulder = np.array([side * HALF_SHOULDERS, SHOULDERS])
        elbow = shoulder + _limb(arm[0], UPPER_ARM)
        points[at], points[at + 2], points[at + 4] = shoulder, elbow, elbow + _limb(arm[1], LOWER_ARM)
    for at, side in ((11, -1), (12, 1)):
        hip = np.array([side * HALF_HIPS, HIPS])
        knee = hip + _limb(side * pose.legs, UPPER_LEG)
        points[at], points[at + 2], points[at + 4] = hip, knee, knee + _limb(side * pose.legs / 2, LOWER_LEG)
    placed: npt.NDArray[np.float64] = points * height + np.array([x, top])
    return placed


def _limb(degrees: float, length: float) -> npt.NDArray[np.float64]:
    return length * np.array([math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])
