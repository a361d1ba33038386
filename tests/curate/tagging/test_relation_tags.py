"""Tagging with taggers whose scores are known: all-knowing, constant, noisy; and what is dropped, with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DecodeError, ShapeError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.curate.engine.pool import curate
from diptych.curate.tagging.caption_triplets import LabelLinker, TemplateGrammar
from diptych.curate.tagging.relation_tags import RelationTags, tagged
from diptych.data.columns import read_table
from diptych.data.dataset import Pool
from diptych.worlds import links
from diptych.worlds.links.world import PREDICATES

GRAMMAR = TemplateGrammar(PREDICATES)


@dataclass(frozen=True)
class Knowing:
    """Confidence 0.9 for what is true of an image, 0.1 for everything else that is asked; or `flat` for all."""

    truth: dict[str, tuple[Relation, ...]]
    flat: float = 0.0
    name: str = "knowing"
    fingerprint: str = "1"

    def relate(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
        labels_known: bool,
    ) -> list[SceneGraph]:
        assert labels_known
        graphs = []
        for image, given_regions in zip(images, regions, strict=True):
            true = {(r.subject, r.predicate, r.object) for r in self.truth.get(image.name, ())}
            found = [
                Relation(i, name, j, self.flat or (0.9 if (i, name, j) in true else 0.1))
                for i in range(len(given_regions))
                for j in range(len(given_regions))
                for name in relations
                if i != j
            ]
            graphs.append(SceneGraph(tuple(given_regions), tuple(found)))
        return graphs


def world() -> Pool:
    return links(20, seed=0).to_pool()


def knowing(data: Pool, **options: float) -> Knowing:
    return Knowing({sample.image.name: sample.relations for sample in data}, **options)


def candidates(sample: Sample) -> set[tuple[int, int]]:
    """Ordered pairs of regions with the labels of a true triplet: more than the true ones when two shapes are alike."""
    said = {(s, o) for s, _, o in sample.graph.triplets()}
    labels = [region.label for region in sample.regions]
    return {(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j and (labels[i], labels[j]) in said}


def test_a_tagger_that_knows_finds_exactly_what_is_true_and_said() -> None:
    data = world()
    result = RelationTags(knowing(data), GRAMMAR)(data)
    assert result.kept == tuple(data.uids)
    again = tagged(data, result.columns["tagged_relations"])
    for row in range(len(data)):
        assert sorted(again[row].graph.triplets()) == sorted(data[row].graph.triplets())
        assert all(relation.confidence == 0.9 for relation in again[row].relations)
        expected = {"captions": 1, "parsed": 2, "linked": len(set(data[row].graph.triplets())), "relations": 2}
        names = len({relation.predicate for relation in data[row].relations})
        pairs = len(candidates(data[row]))
        assert result.columns["tagging"][data.uids[row]] == expected | {"pairs": pairs, "proposed": pairs * names}
    assert again.fingerprint != data.fingerprint


def test_only_candidate_pairs_count_and_the_best_of_each_is_kept() -> None:
    data = world()
    for per_pair, expected in ((1, 1), (2, 2), (0, 9)):
        result = RelationTags(knowing(data, flat=0.5), GRAMMAR, per_pair=per_pair)(data)
        for uid, sample in zip(data.uids, data, strict=True):
            found = result.columns["tagged_relations"][uid]
            assert {(r["subject"], r["object"]) for r in found} == candidates(sample)
            predicates = len({relation.predicate for relation in sample.relations})
            assert len(found) == len(candidates(sample)) * min(expected, predicates)

    few = RelationTags(knowing(data, flat=0.5), GRAMMAR, per_image=1)(data)
    assert all(len(found) == 1 for found in few.columns["tagged_relations"].values())


@dataclass
class Written:
    """Writes down what it is asked about pairs, and says nothing."""

    asked: list[tuple[list[str], list[tuple[int, int]], list[str]]]
    name: str = "written"
    fingerprint: str = "1"

    def relate(self, images, regions, *, objects, relations, labels_known):
        raise AssertionError("all pairs were asked about")

    def relate_pairs(self, images, regions, pairs, *, objects, relations):
        self.asked.append((objects, pairs[0], relations))
        return [SceneGraph(tuple(regions[0]), ())]


def test_a_tagger_can_be_asked_about_what_was_said_alone_once_a_triplet_as_released() -> None:
    boxes = [("dog", 0), ("person", 1), ("", 2), ("person", 3), ("car", 4)]
    regions = tuple(Region((x, 0, x + 3, 5), label) for label, x in boxes)
    captions = ("a woman near a dog", "a man riding a horse, a carpet near a man", "the man riding a dog", "a dog near a cat")
    sample = Sample("uid", pixels(1), tuple(map(Text, captions)), regions)
    tagger = Written([])
    link = LabelLinker((("person", ("man",)),), "substring")
    RelationTags(tagger, RIDING, link, asked="said", names=("horse", "car"))(Pool.from_samples([sample], name="one"))

    # RLIPv2, rlipv2_helper/BLIP_coco_caption_helper.py: for each ordered pair, each triplet of names that the pair fits. A box without
    # a label is none there: places are among the others.
    names = [label for label, _ in boxes if label]
    said = [("person", "near", "dog"), ("car", "near", "person"), ("person", "riding", "dog")]
    expected = [(pair, p) for pair in permutations(range(4), 2) for s, p, o in said if (s, o) == tuple(names[n] for n in pair)]
    assert tagger.asked == [
        (["horse", "car", "dog", "person"], [pair for pair, _ in expected], list(dict.fromkeys(p for _, p in expected)))
    ]
    assert len(expected) == 6
    assert len({pair for pair, _ in expected}) == 4


def test_a_tagger_of_all_pairs_cannot_be_asked_about_some() -> None:
    with pytest.raises(ConfigError, match="scores all pairs"):
        RelationTags(knowing(world()), GRAMMAR, asked="said")
    with pytest.raises(ConfigError, match=r"all \| said"):
        RelationTags(knowing(world()), GRAMMAR, asked="some")  # type: ignore[arg-type]


def pixels(shade: int) -> ArrayImage:
    return ArrayImage(np.full((10, 20, 3), shade, np.uint8), f"shade {shade}")


MAN, HORSE = Region((0, 0, 6, 10), "person"), Region((4, 0, 20, 10), "horse")
RIDING = TemplateGrammar(("riding", "near"))
PEOPLE = LabelLinker((("person", ("man",)),))


def planted() -> Pool:
    def text(string: str) -> tuple[Text, ...]:
        return (Text(string),)

    return Pool.from_samples(
        [
            Sample("good", pixels(1), text("a man riding a horse"), (MAN, HORSE)),
            Sample("silent", pixels(2), (), (MAN, HORSE)),
            Sample("vague", pixels(3), text("what a day"), (MAN, HORSE)),
            Sample("other", pixels(4), text("a cat near a dog"), (MAN, HORSE)),
            Sample("alone", pixels(5), text("a man near a man"), (MAN, HORSE)),
            Sample("unsure", pixels(6), text("a man riding a horse"), (MAN, HORSE)),
            Sample("unseen", None, text("a man riding a horse"), (MAN, HORSE)),
            Sample("denied", pixels(8), (Text("a man riding a horse", origin="negative"),), (MAN, HORSE)),
        ],
        name="planted",
    )


def test_every_image_without_a_relation_is_dropped_at_its_stage() -> None:
    tagger = Knowing({"shade 1": (Relation(0, "riding", 1),)})
    result = RelationTags(tagger, RIDING, PEOPLE)(planted())
    assert result.kept == ("good",)
    assert {drop.uid: drop.reason for drop in result.dropped} == {
        "silent": "has no caption",
        "vague": "no triplet in its captions",
        "other": "its captions are about other things than its regions",
        "alone": "no pair of regions has the labels of a triplet",
        "unsure": "no relation is confident enough",
        "unseen": "has no image",
        "denied": "has no caption",
    }
    assert result.columns["tagged_relations"] == {"good": [{"subject": 0, "predicate": "riding", "object": 1, "confidence": 0.9}]}
    assert len(RelationTags(tagger, RIDING, PEOPLE, threshold=0.05)(planted()).kept) == 2


def test_boxes_without_labels_take_no_part() -> None:
    """Some: relations point at the others by their places. All, or no box: the image leaves, and says why."""
    bare = Region((1, 1, 5, 5), " ")
    data = Pool.from_samples(
        [
            Sample("some", pixels(1), (Text("a man riding a horse"),), (bare, MAN, bare, HORSE)),
            Sample("none", pixels(2), (Text("a man riding a horse"),), (bare, bare)),
            Sample("empty", pixels(3), (Text("a man riding a horse"),), ()),
        ]
    )
    result = RelationTags(Knowing({}, flat=0.6), RIDING, PEOPLE)(data)
    assert result.columns["tagged_relations"] == {"some": [{"subject": 1, "predicate": "riding", "object": 3, "confidence": 0.6}]}
    assert {drop.uid: drop.reason for drop in result.dropped} == {"none": "its boxes have no labels", "empty": "has no box"}


def test_a_trace_says_why_each_proposal_went() -> None:
    text = (Text("a man riding a horse, a man near a horse, a cat near a horse"),)
    sample = Sample("a", pixels(1), text, (MAN, HORSE))
    tagger = Knowing({"shade 1": (Relation(0, "riding", 1),)})
    step = RelationTags(tagger, RIDING, PEOPLE, threshold=0.05, per_pair=1)
    assert sample.image is not None
    found, counts, trace = step.traced(sample, sample.image)
    assert [relation.predicate for relation in found] == ["riding"]
    assert trace.parsed[2] == (("cat", "near", "horse"), ("cat",))
    assert [nameless for _, nameless in trace.parsed[:2]] == [(), ()]
    assert {(r.subject, r.predicate): why for r, why in trace.proposed} == {
        (0, "riding"): "",
        (0, "near"): "the pair has surer ones",
        (1, "riding"): "no caption names this pair",
        (1, "near"): "no caption names this pair",
    }
    assert (counts.pairs, counts.proposed, trace.scored) == (1, 2, 2)
    strict = RelationTags(tagger, RIDING, PEOPLE, threshold=0.95).traced(sample, sample.image)[2]
    assert [why for r, why in strict.proposed if r.subject == 0] == ["below the threshold"] * 2


def test_pairs_whose_boxes_do_not_meet_can_be_left_out() -> None:
    apart = Region((15, 0, 20, 10), "horse")
    data = Pool.from_samples([Sample("a", pixels(1), (Text("a man riding a horse"),), (MAN, HORSE, apart))])
    tagger = Knowing({}, flat=0.6)
    both = RelationTags(tagger, RIDING, PEOPLE)(data).columns["tagged_relations"]["a"]
    meeting = RelationTags(tagger, RIDING, PEOPLE, overlap=True)(data).columns["tagged_relations"]["a"]
    assert [relation["object"] for relation in both] == [1, 2]
    assert [relation["object"] for relation in meeting] == [1]


def test_unreadable_images_and_taggers_that_answer_something_else() -> None:
    @dataclass(frozen=True)
    class Failing(Knowing):
        error: type[Exception] | None = None

        def relate(self, images, regions, **options):
            if self.error:
                raise self.error("truncated")
            return []

    data = planted().select([0])
    result = RelationTags(Failing({}, error=DecodeError), RIDING, PEOPLE)(data)
    assert [drop.reason for drop in result.dropped] == ["unreadable: truncated"]
    with pytest.raises(ShapeError, match="sample 'good': the tagger must answer with the 2 regions"):
        RelationTags(Failing({}), RIDING, PEOPLE)(data)
    broken = Pool.from_samples([Sample("a", BytesImage(b"no image"), (Text("a man riding a horse"),), (MAN, HORSE))])
    assert RelationTags(Failing({}, error=DecodeError), RIDING, PEOPLE).plan(broken)["items"] == 1


@given(st.permutations(range(8)))
@settings(max_examples=10, deadline=None)
def test_order_of_rows_and_a_second_run_change_nothing(order: list[int]) -> None:
    tagger = Knowing({"shade 1": (Relation(0, "riding", 1),)})
    step = RelationTags(tagger, RIDING, PEOPLE)
    one, two = step(planted()), step(planted().select(order))
    assert set(one.kept) == set(two.kept)
    assert set(one.dropped) == set(two.dropped)
    assert one.columns == two.columns
    assert step(planted().select([0])).dropped == ()


def test_results_are_written_read_and_resumed(tmp_path) -> None:
    data, tagger = planted(), Knowing({"shade 1": (Relation(0, "riding", 1),)})
    first = curate(data, [RelationTags(tagger, RIDING, PEOPLE)], tmp_path)
    second = curate(data, [RelationTags(tagger, RIDING, PEOPLE)], tmp_path)
    assert second.steps[0].resumed
    assert second.columns["tagged_relations"] == first.columns["tagged_relations"]
    rows = read_table(tmp_path, "tagged_relations").table.to_pylist()
    assert rows == [{"uid": "good", "tagged_relations": [{"subject": 0, "predicate": "riding", "object": 1, "confidence": 0.9}]}]
    stored = tagged(first.kept, {row["uid"]: row["tagged_relations"] for row in rows})
    assert stored[0].graph.triplets() == [("person", "riding", "horse")]


def test_noisy_captions_cost_recall_and_not_precision() -> None:
    """A tenth of the captions say something wrong; the tagger knows better."""
    data = world()
    rng = keyed_rng("noise")
    swapped = [
        Sample(s.uid, s.image, (Text(s.texts[0].string.replace("near", "far") if rng.random() < 0.3 else s.texts[0].string),), s.regions)
        for s in data
    ]  # fmt: skip
    result = RelationTags(knowing(data), GRAMMAR)(Pool.from_samples(swapped))
    truth = {uid: sample.relations for uid, sample in zip(data.uids, data, strict=True)}
    found = [
        (uid, r["subject"], r["predicate"], r["object"]) for uid, each in result.columns["tagged_relations"].items() for r in each
    ]
    right = [(uid, r.subject, r.predicate, r.object) for uid, each in truth.items() for r in each]
    assert set(found) <= set(right)
    assert 0 < len(found) < len(right)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="threshold 2"):
        RelationTags(Knowing({}), GRAMMAR, threshold=2)
