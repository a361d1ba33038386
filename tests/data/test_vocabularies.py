"""Class names of benchmarks: counts, order and ids against what else is known about them."""

from __future__ import annotations

import numpy as np
import pytest
from torchvision.models._meta import _COCO_CATEGORIES

from diptych.core.errors import UnknownName
from diptych.data.vocabularies import MISSING, NAMES, action_roles, vocabulary


def test_coco_is_what_torchvision_has() -> None:
    known = vocabulary("coco")
    assert len(known.objects) == 80
    assert [_COCO_CATEGORIES[number] for number in known.object_ids] == list(known.objects)


def test_hico_det() -> None:
    known = vocabulary("hico-det")
    assert (len(known.objects), len(known.predicates), len(known.triplets), len(known.rare)) == (80, 117, 600, 138)
    assert list(known.predicates) == sorted(known.predicates)
    assert known.objects == vocabulary("coco").objects
    assert len(set(known.triplets)) == 600
    assert {verb for _, verb, _ in known.triplets} == set(known.predicates)
    assert {thing for _, _, thing in known.triplets} == set(known.objects)
    # ids that are quoted about the data set, counted from 1: airplane 1-10, bicycle 11-24, bird 25-31, bench 244-247, zebra 596-600
    by_object = [thing for _, _, thing in known.triplets]
    for thing, first, last in (
        ("airplane", 1, 10),
        ("bicycle", 11, 24),
        ("bird", 25, 31),
        ("bench", 244, 247),
        ("zebra", 596, 600),
    ):
        assert [n for n, name in enumerate(by_object, 1) if name == thing] == list(range(first, last + 1))
    # every object has "no interaction"
    assert sum(verb == "no interaction" for _, verb, _ in known.triplets) == 80


def test_allowed_is_the_table_of_triplets() -> None:
    known = vocabulary("hico-det")
    table_PO = known.allowed()
    assert table_PO.shape == (117, 80)
    found = {(known.predicates[p], known.objects[o]) for p, o in np.argwhere(table_PO)}
    assert found == {(verb, thing) for _, verb, thing in known.triplets}


def test_v_coco_has_26_actions_and_29_action_roles() -> None:
    known = vocabulary("v-coco")
    assert (len(known.roles), len(known.predicates)) == (26, 29)
    assert [action for action, roles in known.roles.items() if not roles] == ["stand", "walk", "run", "smile"]
    assert {action: roles for action, roles in known.roles.items() if len(roles) == 2} == {
        "hit": ("instr", "obj"),
        "eat": ("obj", "instr"),
        "cut": ("instr", "obj"),
    }
    assert known.predicates == action_roles(known.roles)
    assert known.predicates[6:10] == ("hit instr", "hit obj", "eat obj", "eat instr")


def test_v_coco_is_asked_in_published_words_and_for_what_is_missing() -> None:
    known = vocabulary("v-coco")
    said = dict(zip(known.predicates, known.predicate_texts, strict=True))
    assert len(set(said.values())) == 29
    assert (said["sit instr"], said["hit instr"], said["hit obj"], said["drink instr"]) == (
        "sit on/at",
        "hit with",
        "hit",
        "drink from",
    )
    assert said["point instr"] == "point"
    assert known.object_texts == (*vocabulary("coco").objects, MISSING)
    assert vocabulary("hico-det").predicate_texts == vocabulary("hico-det").predicates
    assert vocabulary("hico-det").object_texts == vocabulary("hico-det").objects


def test_vg150_and_open_images() -> None:
    known = vocabulary("vg150")
    assert (len(known.objects), len(known.predicates)) == (150, 50)
    assert list(known.objects) == sorted(set(known.objects))
    assert list(known.predicates) == sorted(set(known.predicates))
    assert len(set(vocabulary("open-images").predicates)) == 30


@pytest.mark.parametrize("name", NAMES)
def test_names_are_words(name: str) -> None:
    known = vocabulary(name)
    assert vocabulary(name) is known
    for word in (*known.objects, *known.predicates):
        assert word == word.strip().lower()
        assert "_" not in word


def test_an_unknown_name_has_near_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean 'hico-det'"):
        vocabulary("hico_det")
