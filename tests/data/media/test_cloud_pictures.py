"""Pictures of clouds: what is near hides what is far, colours and axes are those of the data, a turntable goes all around."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from diptych.data.media.cloud_pictures import draw_cloud, point_colours, sampled_view, turntable

RED, BLUE = (200, 0, 0), (0, 0, 200)


def sheets(near: float, far: float) -> np.ndarray:
    """A red square before a blue one, seen along y, which points away: [2 * 400, 6]."""
    side = np.linspace(-1, 1, 20)
    x_P, z_P = (axis.ravel() for axis in np.meshgrid(side, side))
    squares = [
        np.stack([x_P, np.full(400, y), z_P, *np.outer(colour, np.ones(400))], 1) for y, colour in ((near, RED), (far, BLUE))
    ]
    return np.concatenate(squares).astype(np.float32)


def test_the_nearest_is_seen() -> None:
    """From the front the middle of the picture is red, from behind it is blue; the order of points means nothing."""
    for cloud_P6 in (sheets(-0.5, 0.5), sheets(-0.5, 0.5)[::-1]):
        front, behind = (draw_cloud(cloud_P6, 96, turn=turn, tilt=0)[40:56, 40:56].reshape(-1, 3).mean(0) for turn in (0, 180))
        assert front[0] > 100 > 5 > front[2]
        assert behind[2] > 100 > 5 > behind[0]


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2)])
def test_the_axis_that_points_up_does(up: Literal["x", "y", "z"], axis: int) -> None:
    """The upper half of a pole is red and comes above the lower one."""
    pole_P6 = np.zeros((100, 6), np.float32)
    pole_P6[:, axis] = np.linspace(0, 1, 100)
    pole_P6[:50, 3:], pole_P6[50:, 3:] = BLUE, RED
    shown = draw_cloud(pole_P6, 64, up=up).astype(int)
    red, blue = (np.argwhere(shown[..., one] - shown[..., other] > 60)[:, 0] for one, other in ((0, 2), (2, 0)))
    assert red.max() < blue.min()
    view_P3, _ = sampled_view(pole_P6, 100, up=up)
    np.testing.assert_allclose(view_P3[:, 2], np.linspace(-1, 1, 100), atol=1e-6)


def test_axes_are_turned_and_not_mirrored() -> None:
    for up in ("x", "y", "z"):
        view_33, _ = sampled_view(np.concatenate([np.eye(3), -np.eye(3)]), 6, up=up)
        assert np.linalg.det(view_33[:3]) == pytest.approx(1)


def test_a_surface_has_few_holes_at_any_size() -> None:
    rng = np.random.default_rng(0)
    ball_P3 = rng.standard_normal((2000, 3))
    ball_P3 /= np.linalg.norm(ball_P3, axis=1, keepdims=True)
    for side in (64, 256, 800):
        shown = draw_cloud(ball_P3, side)[..., 0] < 255
        from_middle = np.hypot(*(np.indices((side, side)) - side / 2))
        assert shown[from_middle < 0.45 * side].mean() > 0.7
        assert shown[from_middle > 0.53 * side].mean() < 0.02


def test_colours_are_bytes_or_shares_and_normals_are_none() -> None:
    value_26 = np.array([[0, 0, 0, 0, 128, 255], [0, 0, 0, 1, 2, 3]], np.float32)
    np.testing.assert_array_equal(point_colours(value_26), value_26[:, 3:])
    np.testing.assert_array_equal(point_colours(np.array([[0, 0, 0, 0, 0.5, 1]])), [[0, 128, 255]])
    assert point_colours(np.array([[0, 0, 0, 0.6, -0.8, 0]])) is None
    assert point_colours(np.zeros((2, 4))) is None


def test_a_turntable_shows_every_side() -> None:
    shown_VSS3 = turntable(sheets(-0.5, 0.5), 48, views=4, tilt=0)
    assert shown_VSS3.shape == (4, 48, 48, 3)
    middle = shown_VSS3[:, 20:28, 20:28].reshape(4, -1, 3).mean(1)
    assert middle[0][0] > 100 > middle[0][2]
    assert middle[2][2] > 100 > middle[2][0]


def test_one_point_is_a_picture() -> None:
    assert draw_cloud(np.ones((1, 3)), 16).shape == (16, 16, 3)
