"""Random scene graphs written in each form and read again: nothing changes but what the form cannot say."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ArrayImage, FileImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.graphs import FORMATS, write
from diptych.data.read import read
from diptych.data.vocabularies import vocabulary
from diptych.worlds.resolve import resolve

WIDTH, HEIGHT = 64, 48
TRIPLETS = vocabulary("hico-det").triplets
ACTIONS = vocabulary("v-coco").predicates
COCO = vocabulary("coco").objects
FREE = ("man", "hot dog", "ice-cream", "naïve 'thing', \"quoted\"", "дом", "a_b")
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WITH_MASKS = {"coco"}
WITH_ATTRIBUTES = {"visual-genome", "vg150", "open-images-csv"}
WITH_CONFIDENCE = {"rlipv2", "coco"}
BY_NUMBER = {"visual-genome", "rlipv2", "vg150"}
NO_SPLIT = {"visual-genome", "rlipv2"}


@st.composite
def box(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x0, y0 = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
    return x0, y0, draw(st.integers(x0 + 1, WIDTH)), draw(st.integers(y0 + 1, HEIGHT))


@st.composite
def people_graph(draw: st.DrawFn, triplets: tuple[tuple[str, str, str], ...]) -> tuple[list[Region], list[Relation]]:
    """Pairs of HICO-DET: each a person, an object, and a verb that goes with it."""
    regions, relations = [], []
    for subject, verb, thing in draw(st.lists(st.sampled_from(triplets), max_size=4)):
        relations.append(Relation(len(regions), verb, len(regions) + 1))
        regions += [Region(draw(box()), subject), Region(draw(box()), thing)]
    return regions, relations


@st.composite
def action_graph(draw: st.DrawFn) -> tuple[list[Region], list[Relation]]:
    """V-COCO: people first, then objects; each role of an action done is filled once, by an object or by nothing."""
    people = draw(st.integers(0, 3))
    things = draw(st.lists(st.sampled_from([name for name in COCO if name != "person"]), max_size=3))
    regions = [Region(draw(box()), label) for label in ["person"] * people + things]
    relations = []
    for person in range(people):
        for action in draw(st.sets(st.sampled_from(sorted(vocabulary("v-coco").roles)), max_size=3)):
            for role in vocabulary("v-coco").roles[action] or ("",):
                other = person if not role or not things else draw(st.integers(people, len(regions) - 1) | st.just(person))
                relations.append(Relation(person, f"{action} {role}".strip(), other))
    return regions, relations


@st.composite
def free_graph(draw: st.DrawFn, name: str) -> tuple[list[Region], list[Relation]]:
    """Any labels and predicates; attributes, confidences and masks where the form has them. No box comes twice."""
    words = st.sampled_from(FREE)
    count = draw(st.integers(0, 5))
    chosen = draw(st.lists(box(), min_size=count, max_size=count, unique=True))
    regions = []
    for place in chosen:
        own = tuple(draw(st.lists(words, unique=True, max_size=2))) if name in WITH_ATTRIBUTES else ()
        mask = (
            [[place[0], place[1], place[2], place[1], place[2], place[3]]] if name in WITH_MASKS and draw(st.booleans()) else None
        )
        regions.append(Region(place, draw(words), own, mask=mask))
    relations = []
    sure = st.sampled_from([1.0, 0.25, 0.3]) if name in WITH_CONFIDENCE else st.just(1.0)
    if count:
        ends = st.integers(0, count - 1)
        predicate = words.filter(lambda word: "_" not in word) if name.startswith("open-images") else words
        for subject, other in draw(st.lists(st.tuples(ends, ends), max_size=4)):
            relations.append(Relation(subject, draw(predicate), other, draw(sure)))
    return regions, relations


def graphs(name: str) -> st.SearchStrategy[Any]:
    if name.startswith("hico-det"):
        return people_graph(TRIPLETS)
    return action_graph() if name.startswith("v-coco") else free_graph(name)


@st.composite
def samples(draw: st.DrawFn, name: str) -> list[Sample]:
    found = []
    for n, (regions, relations) in enumerate(draw(st.lists(graphs(name), min_size=1, max_size=3))):
        if name == "open-images-csv" and not relations:
            regions = []  # an image without relations is not in the file; see the test of losses
        split = draw(st.sampled_from(["train", "test"]))
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        extras = {"split": split, "image_id": 100 + n}
        found.append(Sample(f"s{n}", ArrayImage(pixels), (), tuple(regions), tuple(relations), extras=extras))
    return found


def round_trip(pool: Any, name: str) -> Pool:
    folder = Path(tempfile.mkdtemp())
    write(pool, folder / "out", format=name)
    return read(folder / "out")


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("hico-det-pairs", "vg150", "open-images-csv")])
@QUICK
@given(data=st.data())
def test_what_is_written_is_read(name: str, data: st.DataObject) -> None:
    before = data.draw(samples(name))
    pool = round_trip(before, name)
    after = {sample.extras["image_id"] if name in BY_NUMBER else sample.uid: sample for sample in pool}
    assert pool.quarantine == []
    assert len(after) == len(before)
    for sample in before:
        again = after[sample.extras["image_id"] if name in BY_NUMBER else sample.uid]
        assert again.regions == sample.regions
        assert Counter(again.relations) == Counter(sample.relations)
        if not name.startswith("v-coco"):  # written action by action
            assert again.relations == sample.relations
        assert name in NO_SPLIT or again.extras["split"] == sample.extras["split"]


@QUICK
@given(data=st.data())
def test_pairs_keep_every_pair(data: st.DataObject) -> None:
    before = data.draw(samples("hico-det-pairs"))
    after = {sample.uid: sample for sample in round_trip(before, "hico-det-pairs")}

    def pairs(sample: Sample) -> list[Any]:
        return [(sample.regions[r.subject], r.predicate, sample.regions[r.object]) for r in sample.relations]

    for sample in before:
        assert pairs(after[sample.uid]) == pairs(sample)
        assert len(set(after[sample.uid].regions)) == len(after[sample.uid].regions)  # a box in two pairs is one region


@QUICK
@given(data=st.data())
def test_vg150_moves_boxes_by_a_step_at_most(data: st.DataObject, h5: None) -> None:
    before = data.draw(samples("vg150"))
    pool = round_trip(before, "vg150")
    assert pool.quarantine == []
    step = max(WIDTH, HEIGHT) / 1024
    for sample, again in zip(before, pool, strict=True):
        assert [(r.label, r.attributes) for r in again.regions] == [(r.label, r.attributes) for r in sample.regions]
        assert again.relations == sample.relations
        for old, new in zip(sample.regions, again.regions, strict=True):
            np.testing.assert_allclose(new.box, old.box, atol=step * 1.01)
        assert again.extras["split"] == sample.extras["split"]


@QUICK
@given(data=st.data())
def test_open_images_csv(data: st.DataObject) -> None:
    before = [sample for sample in data.draw(samples("open-images-csv")) if sample.relations]
    if not before:
        return
    after = {sample.uid: sample for sample in round_trip(before, "open-images-csv")}
    for sample in before:
        again = after[sample.uid]
        assert sorted(again.graph.triplets()) == sorted(sample.graph.triplets())
        old, new = (sorted((r.label, *r.box, *sorted(r.attributes)) for r in s.regions) for s in (sample, again))
        for left, right in zip(old, new, strict=True):
            assert (left[0], left[5:]) == (right[0], right[5:])
            np.testing.assert_allclose(left[1:5], right[1:5], atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_published_files_survive_a_second_writing(name: str, published: Any, h5: None, tmp_path: Path) -> None:
    """read -> write -> read: images byte for byte, the same boxes and triplets."""
    first = read(getattr(published, name.replace("-", "_"))())
    write(first, tmp_path / "out", format=name)
    second = read(tmp_path / "out")
    assert second.quarantine == []
    again = {sample.extras["image_id"]: sample for sample in second}
    for sample in first:
        if name == "open-images-csv" and not sample.relations:
            continue
        other = again[sample.extras["image_id"]]
        assert isinstance(sample.image, FileImage)
        assert other.image is not None
        assert other.image.read() == sample.image.read()
        assert sorted(other.graph.triplets()) == sorted(sample.graph.triplets())
        old, new = sorted(r.box for r in sample.regions), sorted(r.box for r in other.regions)
        np.testing.assert_allclose(new, old, atol=0.1 if name == "vg150" else 1e-4)
        for key in ("annotated", "segment_ids", "panoptic", "dataset"):
            assert other.extras.get(key) == sample.extras.get(key)


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith(("hico", "v-coco"))])
def test_a_rendered_world_travels_through_every_open_form(name: str, h5: None, tmp_path: Path) -> None:
    world = resolve("world:links?n=6&size=64")
    scenes = [world[row] for row in range(len(world))]
    write(scenes, tmp_path / "out", format=name)
    pool = read(tmp_path / "out")
    assert pool.quarantine == []
    want = sorted(triplet for sample in scenes for triplet in sample.graph.triplets())
    assert sorted(triplet for sample in pool for triplet in sample.graph.triplets()) == want


# ---------------------------------------------------------------- what a writer refuses


def one(label: str = "person", predicate: str = "ride", other: str = "horse", **extras: Any) -> Sample:
    image = ArrayImage(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    regions = (Region((1, 1, 9, 9), label), Region((2, 2, 8, 8), other))
    return Sample("a", image, (), regions, (Relation(0, predicate, 1),), extras=extras)


@pytest.mark.parametrize(
    ("name", "sample", "message"),
    [
        ("hico-det", one(other="unicorn"), "sample 'a': person ride unicorn is not one of the 600 triplets"),
        ("hico-det", one(other="cat"), "person ride cat is not one of the 600 triplets .*does not go with cat"),
        ("hico-det", one(predicate="rid"), r"unknown verb 'rid'; did you mean 'ride'\?"),
        ("hico-det", one(label="dog"), "the subject is not a person"),
        ("hico-det-pairs", one(other="cat"), "not one of the 600 triplets"),
        ("v-coco", one(), "unknown action and role 'ride'"),
        ("v-coco", one(label="dog", predicate="ride instr"), "a dog does something"),
        ("v-coco", one(predicate="ride instr", other="unicorn"), "unknown object 'unicorn'"),
        ("v-coco-hoia", one(), "unknown action and role 'ride'"),
        ("coco", Sample("a"), "sample 'a' has no image"),
    ],
)
def test_what_a_format_cannot_say_is_an_error(name: str, sample: Sample, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write([sample], tmp_path / "out", format=name)


def test_a_writer_takes_only_an_empty_folder_a_known_format_and_some_sample(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    with pytest.raises(DataError, match="is not empty"):
        write([one()], tmp_path, format="coco")
    with pytest.raises(UnknownName, match="did you mean 'hico-det'"):
        write([one()], tmp_path / "new", format="hico_det")
    with pytest.raises(DataError, match="no sample"):
        write([], tmp_path / "new", format="coco")


def test_annotations_without_images(tmp_path: Path) -> None:
    written = write([one(split="val")], tmp_path / "out", format="coco", images=False)
    assert [path.name for path in written.files] == ["val.json"]
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["val.json"]
