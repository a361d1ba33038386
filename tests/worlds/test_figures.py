"""Stick figures: drawings are their own best match, planted mistakes are seen, key points and boxes fit the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diptych.core.errors import ConfigError, UnknownName
from diptych.tasks.generation.figure_generation import FigureGeneration, wanted_figures
from diptych.worlds.figures.checker import check_figures
from diptych.worlds.figures.poses import KEY_POINTS, RELATIONS, Pose, key_points
from diptych.worlds.figures.world import figures, render_figures


def test_drawings_pass_and_mistakes_do_not() -> None:
    data = figures(60, seed=3)
    for row in range(60):
        sample = data[row]
        wanted, relation = wanted_figures(sample), sample.extras["predicate"]
        pixels_HWC = sample.image.pixels_HWC  # type: ignore[union-attr]
        right = check_figures(pixels_HWC, wanted, relation)
        assert right.key_point_error < 0.02
        assert right.relation
        assert right.identities
        swapped, _ = render_figures([replace(wanted[0], colour=wanted[1].colour), replace(wanted[1], colour=wanted[0].colour)])
        assert not check_figures(swapped, wanted, relation).identities
        blank = check_figures(np.full((32, 32, 3), 40, np.uint8), wanted, relation)
        assert (blank.key_point_error, blank.identities) == (0.25, False)
        other = next(name for name in RELATIONS if name != relation)
        assert not check_figures(pixels_HWC, wanted, other).relation


def test_key_points_boxes_and_references_fit_the_pixels() -> None:
    data = figures(40, seed=5, apart=0.3)
    assert {" and " in data[row].texts[0].string for row in range(40)} == {True, False}
    for row in range(40):
        sample = data[row]
        pixels_HWC = sample.image.pixels_HWC  # type: ignore[union-attr]
        first, second = sample.extras["figures"]
        assert len(first["key_points"]) == len(KEY_POINTS) == 17
        x0, y0, x1, y1 = first["box"]
        shown = [x0 - 0.05 <= x <= x1 + 0.05 and y0 - 0.05 <= y <= y1 + 0.05 for x, y in first["key_points"]]
        assert np.mean(shown) > 0.8, "the figure behind may be hidden in part"
        for one, image in zip((first, second), sample.media["references"].parts, strict=True):
            points = np.clip((np.array(one["reference_key_points"]) * 32).astype(int), 0, 31)
            alone_HWC = image.pixels_HWC
            assert np.mean([alone_HWC[y, x].max() > 60 for x, y in points]) > 0.9
        assert pixels_HWC.shape == (32, 32, 3)


def test_arms_turn_towards_the_right_with_the_angle() -> None:
    hanging, raised = (key_points(Pose((angle, angle), (0, 0)), 0.0, 0.0, 1.0)[9] for angle in (0, 90))
    assert hanging[1] > raised[1]
    assert raised[0] - hanging[0] == pytest.approx(0.35)


def test_bad_options_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown relation 'fencing'"):
        figures(2, relations=("fencing",))
    with pytest.raises(ConfigError, match="two or more"):
        figures(2, colours=("red",))
    with pytest.raises(ConfigError, match="limit is 0"):
        FigureGeneration(limit=0)
