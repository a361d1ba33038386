"""Related shapes: every relation is drawn and checked right, held-out ones are never named, planted mistakes are seen."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.worlds.related.checker import check_pair, shown_shapes
from diptych.worlds.related.world import RELATIONS, PlacedShape, RelatedPair, exemplars, related, render_pair


def test_the_checker_agrees_with_what_was_drawn() -> None:
    checks = []
    for row in range(200):
        sample = (data := related(200, seed=1, plain=0.0))[row]
        asked = sample.extras["relation"]
        assert sample.texts[0].string == f"{asked['subject']} {asked['predicate']} {asked['object']}"
        checks.append(check_pair(sample.image.pixels_HWC, asked["subject"], asked["predicate"], asked["object"], leaks=("red",)))  # type: ignore[union-attr]
    assert {data[row].extras["relation"]["predicate"] for row in range(200)} == set(RELATIONS)
    assert np.mean([check.relation for check in checks]) == 1.0
    assert np.mean([check.entities for check in checks]) > 0.96, "crosses of seven pixels look like squares now and then"
    assert not any(check.leaked for check in checks)


def test_planted_mistakes_are_seen() -> None:
    pair = RelatedPair(PlacedShape("red circle", 0.25, 0.5, 0.14), PlacedShape("blue square", 0.7, 0.5, 0.14), "left of")
    pixels_HWC, _ = render_pair(pair)
    assert check_pair(pixels_HWC, "red circle", "left of", "blue square").relation
    mirrored = check_pair(pixels_HWC[:, ::-1], "red circle", "left of", "blue square", ("red", "green"))
    assert (mirrored.relation, mirrored.entities, mirrored.leaked) == (False, True, False)
    other = check_pair(pixels_HWC, "red square", "left of", "blue square")
    assert (other.relation, other.entities) == (True, False)
    assert check_pair(pixels_HWC, "green circle", "left of", "blue square", ("red",)).leaked
    assert shown_shapes(np.full((32, 32, 3), 40, np.uint8)) == {}
    with pytest.raises(DataError, match="no relation 'beside'"):
        check_pair(pixels_HWC, "red circle", "beside", "blue square")


def test_held_out_relations_have_no_name_and_exemplars_a_place_for_it() -> None:
    data = related(120, seed=2, hold_out=("inside",), plain=0.0)
    for row in range(120):
        sample = data[row]
        inside = sample.extras["relation"]["predicate"] == "inside"
        assert (" and " in sample.texts[0].string) == inside
    shown = exemplars(6, relation="above", colours=("green", "white"))
    for row in range(6):
        words = shown[row].texts[0].string
        assert " {} " in words
        assert {word for word in words.split() if word in ("green", "white")} == {"green", "white"}
    with pytest.raises(UnknownName, match="unknown relation 'beside'"):
        exemplars(2, relation="beside")
    with pytest.raises(ConfigError, match="two colours or more"):
        exemplars(2, colours=("red",))
