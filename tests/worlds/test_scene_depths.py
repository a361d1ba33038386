"""Depth maps of scenes: larger is nearer, by who hides whom; scenes without them are what they were."""

from __future__ import annotations

import numpy as np

from diptych.data.masks import pixels_of
from diptych.worlds.address import open_data
from diptych.worlds.scenes.world import scenes


def test_what_hides_another_thing_is_nearer() -> None:
    data = scenes(120, seed=3, max_objects=4, depth=True)
    compared = 0
    for row in range(len(data)):
        sample = data[row]
        depth_HW = sample.media["depth"].decode()[..., 0]
        masks = [pixels_of(region.mask, *depth_HW.shape) for region in sample.regions]
        values = [np.unique(depth_HW[mask]).tolist() for mask in masks]
        assert all(len(one) == 1 for one in values), "a thing has one depth"
        assert len({one[0] for one in values}) == len(masks)
        assert max(values) == [255]
        assert not depth_HW[~np.any(masks, 0)].any(), "the background is farthest"
        for relation in sample.relations:
            if relation.predicate == "in front of":
                assert values[relation.subject] > values[relation.object]
                compared += 1
    assert compared >= 3


def test_depth_is_asked_for_by_address_and_changes_nothing_else() -> None:
    plain, deep = open_data("world:scenes?n=4&seed=2"), open_data("world:scenes?n=4&seed=2&depth=true")
    assert plain.fingerprint != deep.fingerprint
    assert "depth" not in plain.world.identity
    for row in range(len(plain)):
        one, other = plain[row], deep[row]
        assert not one.media
        assert (one.texts, one.regions, one.relations) == (other.texts, other.regions, other.relations)
        assert np.array_equal(one.image.pixels_HWC, other.image.pixels_HWC)
