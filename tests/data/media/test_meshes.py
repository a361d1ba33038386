"""Clouds of XYZ, OFF and OBJ files: all points of a list, an even sample of a surface, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem

pytest.importorskip("trimesh")
OFF = b"OFF\n4 2 0\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"
OBJ = b"mtllib secret.mtl\nv 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nf 1 2 3\nf 1 3 4\n"


def cloud(data: bytes, name: str) -> MediaItem:
    return MediaItem("cloud", (BytesImage(data, name),))


@pytest.mark.parametrize(("data", "name"), [(OFF, "a.off"), (OBJ, "a.OBJ")])
def test_surfaces_are_sampled_evenly_and_the_same_each_time(data: bytes, name: str) -> None:
    point_P3 = cloud(data, name).decode()
    assert point_P3.shape == (10_000, 3)
    np.testing.assert_allclose(point_P3.mean(0), [1, 0.5, 0], atol=0.02)
    np.testing.assert_allclose(point_P3[:, 0].std(), 2 / 12**0.5, rtol=0.02)
    np.testing.assert_array_equal(point_P3, cloud(data, name).decode())


def test_points_of_a_list_are_kept_in_order() -> None:
    np.testing.assert_allclose(cloud(b"0 1 2\n3 4 5\n", "a.xyz").decode(), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("data", "name", "problem"),
    [
        (b"OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "a.off", "."),
        (b"v 0 0 0\nv 1 0 0\n", "a.obj", "."),
        (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "a.obj", "area is 0"),
        (b"nothing", "a.off", "not read as .off"),
        (b"0 nan 1\n", "a.xyz", "not read as .xyz"),
        (b"", "a.xyz", "empty"),
    ],
)
def test_files_without_a_surface_are_refused(data: bytes, name: str, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        cloud(data, name).decode()
