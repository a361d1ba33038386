"""Boxes follow the pixels: a coloured patch stays under its box through every move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.graphs.transforms import (
    DetrTransform,
    RandomHorizontalFlip,
    ResizeShortSide,
    SquareResize,
    cropped,
    fitting,
    jittered,
    mentions_side,
    mirrored,
    resized,
)

Picture = tuple[np.ndarray, SceneGraph]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}


def picture(height: int, width: int, boxes: dict[str, tuple[int, int, int, int]], *relations: Relation) -> Picture:
    image = np.zeros((height, width, 3), np.uint8)
    for name, (x0, y0, x1, y1) in boxes.items():
        image[y0:y1, x0:x1] = COLOURS[name]
    return image, SceneGraph(tuple(Region(box, name) for name, box in boxes.items()), tuple(relations))


TWO = {"red": (10, 20, 60, 70), "green": (80, 30, 140, 90)}


def found(image: np.ndarray, name: str) -> tuple[int, int, int, int]:
    """The box of the pixels that are mostly of that colour."""
    channel = COLOURS[name].index(255)
    y, x = np.nonzero(image[..., channel].astype(int) - image.sum(-1) / 2 > 60)
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def check(moved: Picture, tolerance: float = 1.5) -> None:
    image, graph = moved
    for region in graph.regions:
        np.testing.assert_allclose(region.box, found(image, region.label), atol=tolerance)


@given(st.integers(20, 300), st.integers(20, 300))
@settings(max_examples=25, deadline=None)
def test_resized(height: int, width: int) -> None:
    moved = resized(picture(100, 160, TWO), height, width)
    assert moved[0].shape == (height, width, 3)
    check(moved)


def test_mirrored_swaps_words_and_twice_is_nothing() -> None:
    image, graph = picture(100, 160, TWO, Relation(0, "left of", 1), Relation(1, "near", 0))
    graph = SceneGraph((Region(TWO["red"], "red", ("left-hand",)), graph.regions[1]), graph.relations)
    turned = mirrored((image, graph))
    check(turned)
    assert [r.predicate for r in turned[1].relations] == ["right of", "near"]
    assert turned[1].regions[0].attributes == ("right-hand",)
    again = mirrored(turned)
    np.testing.assert_array_equal(again[0], image)
    assert again[1] == graph
    assert mirrored((image, graph), swap=False)[1].relations == graph.relations


def test_sided_words_are_words() -> None:
    for name, sided in (
        ("left of", True),
        ("Right", True),
        ("rightmost", True),
        ("bright", False),
        ("leftover", False),
        ("on", False),
    ):
        assert mentions_side(SceneGraph((Region((0, 0, 1, 1), name),))) is sided


def test_mirror_leaves_sided_pictures_alone_or_renames_them() -> None:
    sided, plain = picture(100, 160, TWO, Relation(0, "far left of", 1)), picture(100, 160, TWO, Relation(0, "near", 1))
    rng = keyed_rng(0)
    for _ in range(10):
        assert RandomHorizontalFlip(share=1.0)(sided, rng) is sided
        assert RandomHorizontalFlip(share=1.0)(plain, rng)[1] != plain[1]
    assert RandomHorizontalFlip(share=1.0, sides="swap")(sided, rng)[1].relations[0].predicate == "far right of"
    assert RandomHorizontalFlip(share=1.0, sides="keep")(sided, rng)[1].relations[0].predicate == "far left of"
    turned = sum(RandomHorizontalFlip()(plain, rng)[1] != plain[1] for _ in range(400))
    assert 150 < turned < 250


def test_cropped_cuts_boxes_and_drops_what_is_gone_with_its_relations() -> None:
    shown = picture(100, 160, TWO, Relation(0, "near", 1), Relation(1, "on", 1))
    half = cropped(shown, 25, 30, 50, 70)
    check(half)
    assert half[1].regions[0].box == (0, 0, 30, 45)
    assert len(half[1].relations) == 2
    right = cropped(shown, 0, 60, 100, 100)  # red ends where the window begins
    assert [region.label for region in right[1].regions] == ["green"]
    assert right[1].relations == (Relation(0, "on", 0),)
    assert [r.label for r in cropped(shown, 0, 50, 100, 110, visible=0.5)[1].regions] == ["green"]
    assert len(cropped(shown, 0, 50, 100, 110)[1].regions) == 2


@given(st.integers(40, 2000), st.integers(40, 2000), st.sampled_from(range(480, 801, 32)))
@example(40, 1317, 480)
@settings(max_examples=100, deadline=None)
def test_sizes_are_those_of_transformers_detr(height: int, width: int, short: int) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    assume(
        max(height, width) / min(height, width) * short <= 1333
    )  # beyond it they give the long side more exactly than the release
    ours = fitting((np.broadcast_to(np.uint8(0), (height, width, 3)), SceneGraph()), short, 1333)
    assert ours == get_size_with_aspect_ratio((height, width), short, 1333)


def test_sizes_are_the_released_ones() -> None:
    """Heights and widths, the short side and limit that were asked for, and what datasets/transforms.py of JacobYuan7/RLIPv2 answers."""
    for height, width, short, longest, expected in (
        (480, 640, 800, 1333, (800, 1066)), (640, 1200, 600, 1000, (533, 999)), (1200, 640, 600, 1000, (999, 533)),
        (301, 999, 800, 1333, (402, 1334)), (427, 640, 800, 1333, (800, 1199)), (333, 500, 600, 1000, (600, 900)),
        (40, 1317, 480, 1333, (40, 1317)), (800, 800, 800, 1333, (800, 800)), (375, 1242, 800, 1333, (402, 1331)),
    ):  # fmt: skip
        assert fitting((np.zeros((height, width, 3), np.uint8), SceneGraph()), short, longest) == expected


def test_the_longest_side_holds_for_any_shape() -> None:
    for height, width in ((1, 5000), (5000, 1), (1, 1), (2, 3)):
        tall, wide = fitting((np.zeros((height, width, 3), np.uint8), SceneGraph()), 800, 1333)
        assert 1 <= min(tall, wide) <= max(tall, wide) <= 1.02 * 1333


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_detector_views_keep_boxes_on_their_things(key: int) -> None:
    views = DetrTransform(shorts=(96, 128), longest=220, before_crop=(100, 120), crop=(60, 110), jitter=0.0)
    shown = picture(100, 160, TWO, Relation(0, "near", 1))
    moved = views.draw(shown, keyed_rng(key))
    short, long = sorted(moved[0].shape[:2])
    assert long <= 220
    assert short in (96, 128) or long >= 219, "a short side that was drawn, unless the long one meets its limit first"
    whole = [r for r in moved[1].regions if min(r.box[2] - r.box[0], r.box[3] - r.box[1]) > 4]
    check((moved[0], SceneGraph(tuple(whole))), tolerance=2.5)
    again = views.draw(shown, keyed_rng(key))
    np.testing.assert_array_equal(moved[0], again[0])
    assert moved[1] == again[1]


def test_published_views_have_published_sizes() -> None:
    shown = picture(480, 640, TWO)
    sizes = {min(DetrTransform(jitter=0.0).draw(shown, keyed_rng(key))[0].shape[:2]) for key in range(12)}
    assert sizes <= set(range(480, 801, 32)) | set(range(300, 480))  # the long side's limit makes the short one shorter
    assert DetrTransform().whole(shown)[0].shape == (800, 1066, 3)
    assert ResizeShortSide().whole(shown)[0].shape == ResizeShortSide().draw(shown, keyed_rng(0))[0].shape == (800, 1066, 3)
    assert SquareResize(size=64).draw(shown, keyed_rng(0))[0].shape == (64, 64, 3)


def test_jitter_changes_colours_within_bounds_and_nothing_else() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    values = [int(jittered(grey, 0.4, keyed_rng(key))[0, 0, 0]) for key in range(200)]
    assert min(values) >= 59
    assert max(values) <= 141
    assert max(values) - min(values) > 60
    assert jittered(grey, 0.0, keyed_rng(0)) is grey


def test_one_pixel_is_an_image() -> None:
    dot = np.zeros((1, 1, 3), np.uint8), SceneGraph((Region((0, 0, 1, 1), "red"),))
    assert SquareResize(size=32).whole(dot)[1].regions[0].box == (0, 0, 32, 32)
    assert DetrTransform().draw(dot, keyed_rng(3))[0].shape[0] >= 1


def test_wrong_options_are_named() -> None:
    for wrong in ({"share": 2.0}, {"sides": "flip"}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            RandomHorizontalFlip(**wrong)
    for wrong in ({"shorts": ()}, {"crop": (5, 2)}, {"jitter": 1.5}):
        with pytest.raises(ConfigError):
            DetrTransform(**wrong)
