"""Rendered chests: reports state what boxes and masks show, the hidden factors are in the pixels, held-out pairs stay out."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.masks import decode
from diptych.data.text.reports.findings import findings
from diptych.data.text.reports.sections import sections
from diptych.worlds.chests.drawing import PATHOLOGIES, ZONES
from diptych.worlds.chests.world import HELD_OUT, ChestWorld, chests, phrase
from diptych.worlds.resolve import resolve


def pixels(sample: Sample) -> np.ndarray:
    assert isinstance(sample.image, ArrayImage)
    return sample.image.pixels_HWC


def test_reports_state_what_is_there_and_what_is_not() -> None:
    for sample in (chests(40)[row] for row in range(40)):
        parts = sections(sample.texts[0].string)
        boxes = [phrase(region.label, region.attributes[0]) for region in sample.regions]
        assert boxes == sample.extras["present"]
        for name in boxes:
            assert name in parts["findings"].lower()
            assert name in parts["impression"].lower()
        for name in sample.extras["denied"]:
            assert name in parts["findings"]
            assert name not in parts["impression"].lower()
        assert not any(word in sample.texts[0].string.lower() for word in ("device", "rib", "pacemaker"))
        if "nodule" in sample.extras["findings"]:
            assert findings(sample.texts[0].string)["Lung Lesion"] == "present"


def test_left_is_the_patients_left_and_lesions_are_bright() -> None:
    for sample in (chests(60, most=1, denied=0)[row] for row in range(60)):
        for region in sample.regions:
            mask = decode(region.mask)
            x = (region.box[0] + region.box[2]) / 2
            assert (x > 32) == region.attributes[0].startswith("left")
            grey = pixels(sample)[..., 0].astype(float)
            around = np.roll(mask, 12, 0) | np.roll(mask, -12, 0)
            assert np.percentile(grey[mask], 95) > np.percentile(grey[around & ~mask], 40)


def test_the_factors_that_no_report_mentions() -> None:
    with_device = [sample for sample in (chests(40)[row] for row in range(40)) if sample.extras["device"]]
    without = [sample for sample in (chests(40)[row] for row in range(40)) if not sample.extras["device"]]
    place = (slice(5, 8), slice(53, 57), 0)
    assert min(pixels(sample)[place].mean() for sample in with_device) > max(pixels(sample)[place].mean() for sample in without)
    assert {sample.extras["ribs"] for sample in with_device} == {"wide", "narrow"}


def test_pairs_are_held_out_of_training_alone() -> None:
    world = ChestWorld(hold_out=True, most=3)
    held = {phrase(*pair) for pair in HELD_OUT}
    seen = {split: {phrase(*pair) for n in range(300) for pair in world.facts(split, n).present} for split in ("train", "test")}
    assert not held & seen["train"]
    assert held <= seen["test"]
    assert len(seen["train"]) == len(PATHOLOGIES) * len(ZONES) - len(held)


def test_addresses_and_limits() -> None:
    data = resolve("world:chests?n=8&size=48&pictured=impression")
    assert pixels(data[0]).shape == (48, 48, 3)
    np.testing.assert_array_equal(pixels(data[3]), pixels(resolve("world:chests?n=8&size=48")[3]))
    assert "FINDINGS" not in data[0].texts[0].string
    with pytest.raises(ConfigError, match="size 16"):
        ChestWorld(size=16)
