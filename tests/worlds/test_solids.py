"""Solids: what is drawn agrees with what is said; held-out combinations; the z-buffer."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.data.media.decode import decode
from diptych.worlds.resolve import resolve
from diptych.worlds.solids.categories import CATEGORIES, parts_of
from diptych.worlds.solids.primitives import Part, surface, unit_surface
from diptych.worlds.solids.rendering import camera, render
from diptych.worlds.solids.world import COLOURS, SolidWorld, held_out, solids


def test_cloud_colours_are_those_of_the_caption() -> None:
    for sample in solids(12, points=200):
        cloud_PF = sample.media["cloud"].decode()
        assert cloud_PF.shape == (200, 6)
        assert np.linalg.norm(cloud_PF[:, :3], axis=1).max() == pytest.approx(1, abs=1e-5)
        named = {tuple(map(float, COLOURS[sample.extras[key]])) for key in ("colour", "second") if sample.extras[key]}
        assert {tuple(row) for row in cloud_PF[:, 3:].tolist()} == named
        assert sample.extras["colour"] in sample.texts[0].string
        assert sample.extras["label"] in sample.texts[1].string


def test_held_out_combinations_are_in_one_split() -> None:
    world = SolidWorld()
    for split in ("train", "test", "unseen"):
        for index in range(60):
            solid = world.solid(split, index)
            assert held_out(solid.category, solid.colour) == (split == "unseen")
            assert world.group(split, index) == solid.description
    assert all(sum(held_out(category, colour) for colour in COLOURS) == 1 for category in CATEGORIES)


def test_samples_do_not_depend_on_what_was_read_before() -> None:
    first, again = solids(3)[2], resolve("world:solids?n=3")[2]
    np.testing.assert_array_equal(first.media["cloud"].decode(), again.media["cloud"].decode())
    np.testing.assert_array_equal(first.media["views"].decode()[5], again.media["views"].decode()[5])
    assert first.image is not None
    assert again.image is not None
    np.testing.assert_array_equal(decode(first.image), first.media["views"].decode()[2])
    with pytest.raises(ConfigError, match="32 points or more"):
        solids(3, points=4)


def test_turned_solids_are_the_same_about_y() -> None:
    plain, turned = SolidWorld().surface("train", 3, 500), SolidWorld(turned=True).surface("train", 3, 500)
    np.testing.assert_allclose(turned[0][:, 1], plain[0][:, 1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(turned[0], axis=1), np.linalg.norm(plain[0], axis=1), atol=1e-12)
    assert np.abs(turned[0] - plain[0]).max() > 0.05


def test_every_category_has_its_parts() -> None:
    for category, (_, word) in CATEGORIES.items():
        parts = parts_of(category, 1.0, np.random.default_rng(0))
        assert bool(word) == any(part.role == 1 for part in parts), category
        assert np.isfinite(surface(parts, 64, np.random.default_rng(0))[0]).all()


@pytest.mark.parametrize("kind", ["box", "ball", "cylinder", "cone", "ring"])
def test_points_lie_on_their_primitive(kind: str) -> None:
    point_N3, normal_N3 = unit_surface(kind, (1.0, 1.0, 1.0), 500, np.random.default_rng(0))  # type: ignore[arg-type]
    x, y, z = point_N3.T
    radius = np.hypot(x, z)
    on = {
        "box": np.abs(point_N3).max(1) - 1,
        "ball": np.linalg.norm(point_N3, axis=1) - 1,
        "cylinder": np.maximum(radius, np.abs(y)) - 1,
        "cone": np.minimum(np.abs(radius - (1 - y) / 2), np.abs(y + 1)),
        "ring": ((radius - 0.7) / 0.3) ** 2 + y**2 - 1,
    }[kind]
    np.testing.assert_allclose(on, 0, atol=1e-9)
    assert (np.linalg.norm(normal_N3, axis=1) > 0).all()


def test_the_nearest_point_of_a_pixel_is_seen() -> None:
    """Against a loop over points, and a red ball before a blue one from one side only."""
    view_33 = camera(0.0)
    np.testing.assert_allclose(view_33 @ view_33.T, np.eye(3), atol=1e-12)
    near_3 = view_33[2] * 0.5
    point_N3, normal_N3 = np.stack([-near_3, near_3, -near_3]), np.tile(view_33[2], (3, 1))
    colour_N3 = np.array([[0, 0, 250], [250, 0, 0], [0, 0, 250]], float)
    front, depth = render(point_N3, normal_N3, colour_N3, azimuth=0.0, size=17, splat=1)
    assert front[8, 8, 0] > front[8, 8, 2]
    assert depth[8, 8, 0] == int(55 + 200 * 0.75)
    assert (front[0, 0] == 235).all()
    assert depth[0, 0, 0] == 0
    parts = [Part("ball", (0.3,) * 3, (0, 0, 0.5)), Part("ball", (0.3,) * 3, (0, 0, -0.5), role=1)]
    point_N3, normal_N3, role_N = surface(parts, 2000, np.random.default_rng(0))
    colour_N3 = np.array([[250, 0, 0], [0, 0, 250]], float)[role_N]
    for azimuth, channel in ((0.0, 0), (np.pi, 2)):
        picture, _ = render(point_N3, normal_N3, colour_N3, azimuth=azimuth, size=33)
        seen = (picture != 235).any(-1)
        assert (picture[seen][:, channel] > 0).mean() > 0.5
