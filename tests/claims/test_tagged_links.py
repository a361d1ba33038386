"""What the pre-training is told about relations: counted against the truth that nobody tells it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.claims.cell import Cell
from diptych.claims.cells.relations import tagged_links
from diptych.claims.cells.relations.changed_links import MISSING, WRONG, captioned_in_haste
from diptych.claims.cells.relations.tagged_links import as_captioned, elsewhere, every_pair, named, rightness, scenes
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.graphs.label_lists import NO_OBJECTS
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.worlds.links.world import PREDICATES, SHAPES, links

BOXES = [(0.0, 0.0, 4.0, 4.0), (10.0, 0.0, 14.0, 4.0), (0.0, 10.0, 4.0, 14.0)]


def scene(caption: str, *relations: Relation) -> Sample:
    """A red circle, a blue circle and a green star."""
    regions = tuple(
        Region(box, shape, (colour,))
        for box, shape, colour in zip(BOXES, ("circle", "circle", "star"), ("red", "blue", "green"), strict=True)
    )
    return Sample("scene", None, (Text(caption, "en", "synthetic"),), regions=regions, relations=relations)


def of(sample: Sample) -> set[tuple[int, str, int]]:
    return {(r.subject, r.predicate, r.object) for r in sample.relations}


def test_a_caption_at_its_word_means_every_pair_with_its_shapes() -> None:
    told = as_captioned(scene("a red circle near above a green star and a blue circle far left of a red circle"))
    assert of(told) == {(0, "near above", 2), (1, "near above", 2), (0, "far left of", 1), (1, "far left of", 0)}
    assert of(as_captioned(scene("a picture of shapes"))) == set()


def test_by_chance_the_predicates_stay_and_pairs_do_not_repeat() -> None:
    before = scene("", Relation(0, "near above", 2), Relation(1, "near above", 2), Relation(0, "far left of", 1))
    moved = [elsewhere(replace(before, uid=str(n))) for n in range(30)]
    for after in moved:
        assert Counter(r.predicate for r in after.relations) == Counter(r.predicate for r in before.relations)
        assert len({(r.subject, r.object) for r in after.relations}) == 3
    pairs = Counter((r.subject, r.object) for after in moved for r in after.relations)
    assert len(pairs) == 6, "every ordered pair comes up"
    assert elsewhere(before) == elsewhere(before)


def test_boxes_alone_are_all_targets() -> None:
    assert {(r.subject, r.object) for r in every_pair(scene("")).relations} == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


def test_rightness_counts_relations_and_not_scenes() -> None:
    true = Pool.from_samples([scene("", Relation(0, "near above", 2), Relation(1, "far below", 2))], name="true")
    read = Pool.from_samples(
        [scene("", Relation(0, "near above", 2), Relation(1, "near below", 2), Relation(0, "far below", 1))], name="read"
    )
    assert rightness(read, true) == pytest.approx({"relations_right": 1 / 3, "relations_found": 1 / 2})


def test_hasty_captions_are_wrong_and_silent_as_often_as_declared() -> None:
    pool = links(800, seed=3, size=32, hold_out=()).to_pool()
    right = wrong = 0
    for row in range(len(pool)):
        sample = pool[row]
        text = captioned_in_haste(sample).texts[0].string
        assert text == captioned_in_haste(sample).texts[0].string
        true = set(sample.texts[0].string.split(" and "))
        said = [] if text == "a picture of shapes" else text.split(" and ")
        right += sum(link in true for link in said)
        wrong += sum(link not in true for link in said)
    links_of_all = 2 * len(pool)
    assert wrong / (right + wrong) == pytest.approx(WRONG, abs=0.03)
    assert 1 - (right + wrong) / links_of_all == pytest.approx(MISSING, abs=0.02)


def test_every_stage_has_the_same_names_and_so_the_same_tensors() -> None:
    cell = Cell("x", 0, Path("unused"), size="smoke")
    few, many = scenes("val", cell), scenes("train", cell)
    assert set(few.uids).isdisjoint(many.uids)
    one, other = (named(RLIPv2.tiny()).prepare(rows) for rows in (few, many))
    assert one == other
    assert set(one.all_names()) == {*SHAPES, *PREDICATES, NO_OBJECTS}
    assert one.image_size == tagged_links.SIDE
