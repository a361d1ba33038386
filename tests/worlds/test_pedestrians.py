"""Rendered persons: one tuple of attributes an identity, truth in captions and masks, nothing shared between splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.masks import decode
from diptych.worlds.people.captions import COMMON, UNKNOWN
from diptych.worlds.people.looks import COLOURS, choices, identities, person
from diptych.worlds.people.world import SPLITS, PedestrianWorld, pedestrians
from diptych.worlds.resolve import resolve


def pixels(sample: Any) -> Any:
    return sample.image.pixels_HWC


def test_an_identity_is_a_tuple_that_no_other_has_in_any_split() -> None:
    world = PedestrianWorld(seed=3)
    seen = [world.person(split, number) for split in SPLITS for number in range(400)]
    assert len(set(seen)) == len(seen)
    assert identities("all") == len({person(0, "summer", n) for n in range(0)}) + int(
        np.prod([*map(len, choices("all").values())])
    )
    with pytest.raises(ConfigError, match="people, number"):
        person(0, "summer", identities("summer"))


def test_pictures_of_a_person_differ_and_come_again_the_same() -> None:
    rows, again = pedestrians(16, seed=1), pedestrians(16, seed=1)
    assert all((pixels(rows[n]) == pixels(again[n])).all() for n in range(16))
    assert rows.groups == tuple(sample.group for sample in (rows[n] for n in range(16)))
    assert len({*rows.groups[:8]}) == 1
    assert rows.groups[0] != rows.groups[8]
    assert not (pixels(rows[0]) == pixels(rows[1])).all()
    assert {rows[n].extras["camera"] for n in range(16)} > {rows[0].extras["camera"]}
    assert all(rows[n].extras["consent"] == "rendered" and rows[n].licence == "CC0-1.0" for n in range(16))


def test_captions_say_what_is_seen_and_nothing_that_is_hidden() -> None:
    rows = pedestrians(200, seed=2, occluded=1.0)
    hidden = 0
    for sample in (rows[n] for n in range(200)):
        _, head, upper, lower, shoes, bag = sample.extras["attributes"]
        plain, witness, tags = (text.string for text in sample.texts)
        for name, phrase in (("upper", upper), ("lower", lower)):
            if phrase != UNKNOWN:
                colour, garment = phrase.split(" ", 1)
                assert phrase in plain, name
                assert f"{colour} {COMMON.get(garment, garment)}" in witness
                assert garment in tags
        hidden += shoes == UNKNOWN
        assert (shoes == UNKNOWN) == ("shoes" not in plain) == ("footwear" not in witness)
        assert (bag == UNKNOWN) == ("bag" not in plain and "backpack" not in plain)
        assert (head == UNKNOWN) == ("hair" not in plain)
    assert 60 < hidden < 140, "half of the occluders hide the feet"


def test_masks_have_the_colours_that_they_say() -> None:
    rows = pedestrians(40, seed=0, regions=True, occluded=0.0)
    for sample in (rows[n] for n in range(40)):
        for region in sample.regions:
            if region.label not in ("lower", "shoes"):
                continue
            assert region.mask is not None
            mask = decode(region.mask)
            shown = np.median(pixels(sample)[mask].astype(float), axis=0)
            want = np.asarray(COLOURS[region.attributes[0]], float)
            # light and camera multiply channels by .55 to 1.32
            assert (shown <= np.minimum(255, want * 1.35 + 6)).all(), (region, shown, want)
            assert (shown >= want * 0.5 - 6).all(), (region, shown, want)


def test_noisy_labels_are_a_neighbours_and_truth_is_kept() -> None:
    whole = resolve("world:pedestrians?n=400&test=80&noisy=0.3&seed=5")
    train, test = whole.split("train"), whole.split("test")
    wrong = [(s.extras["identity"], s.extras["true_identity"]) for s in (train[n] for n in range(400))]
    moved = [a - b for a, b in wrong if a != b]
    assert 80 < len(moved) < 160
    assert {*moved} <= {-1, 1}
    assert all(test[n].extras["identity"] == test[n].extras["true_identity"] for n in range(80))
    assert train.groups == tuple(train[n].group for n in range(400))


def test_seasons_share_no_upper_clothes_and_styles_are_chosen() -> None:
    assert not {*choices("summer")["upper"]} & {*choices("winter")["upper"]}
    rows = pedestrians(16, styles=("tags",), wardrobe="winter")
    assert all(len(rows[n].texts) == 1 and rows[n].texts[0].string.startswith(("male", "female")) for n in range(16))
    assert not pedestrians(4, captioned=False)[0].texts
    with pytest.raises(UnknownName, match="style"):
        pedestrians(4, styles=("poem",))
    with pytest.raises(ConfigError, match="wardrobe is 'autumn'"):
        pedestrians(4, wardrobe="autumn")
