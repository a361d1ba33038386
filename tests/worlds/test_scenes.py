"""Scenes: the truth is compared with a second computation from the pixels of the masks, texts with the graph."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError, DiptychError, UnknownName
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.masks import decode
from diptych.data.media.decode import encode_png
from diptych.data.read import read
from diptych.data.shards.build import build, open_built
from diptych.worlds import resolve, scenes
from diptych.worlds.contact_sheet import contact_sheet
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.scenes.captions import KINDS
from diptych.worlds.scenes.cutouts import cutout, pool_cutouts
from diptych.worlds.scenes.layout import COLOURS, PREDICATES, SHAPES
from diptych.worlds.scenes.rendering import RGB


def digest(sample: Sample) -> str:
    plain = (sample.uid, sample.texts, sample.regions, sample.relations, sample.group, sample.extras)
    return hashlib.sha256(sample.image.pixels_HWC.tobytes() + repr(plain).encode()).hexdigest()


def digests(data: RenderedDataset) -> list[str]:
    return [digest(data[row]) for row in range(len(data))]


def test_same_seed_same_bytes_in_any_process_and_order() -> None:
    data = scenes(12, seed=5, hold_out=["red circle"])
    here = digests(data)
    with multiprocessing.get_context("fork").Pool(2) as workers:
        halves = workers.map(digests, [data.select(range(6)), data.select(range(6, 12))])
    assert halves[0] + halves[1] == here
    assert [digest(data[row]) for row in (7, 3)] == [here[7], here[3]]
    assert digests(pickle.loads(pickle.dumps(data))) == here
    assert digests(scenes(12, seed=6)) != here


def test_a_longer_world_begins_with_the_shorter_one() -> None:
    assert digests(scenes(3, seed=1)) == digests(scenes(9, seed=1))[:3]


def test_splits_never_share_a_scene() -> None:
    data = resolve("world:scenes?n=200&val=200&test=200&seed=3")
    images = defaultdict(set)
    for split in data.split_names:
        part = data.split(split)
        images[split] = {part[row].image.pixels_HWC.tobytes() for row in range(len(part))}
    assert not images["train"] & images["val"]
    assert not images["train"] & images["test"]
    assert len(set(data.uids)) == 600
    assert not any(set(uid) & set("./") for uid in data.uids)


def test_groups_without_rendering_are_the_groups_of_the_samples() -> None:
    data = scenes(50, seed=2)
    assert list(data.groups) == [data[row].group for row in range(50)]


def test_equal_captions_are_in_one_group_and_each_caption_contains_the_statement() -> None:
    data = scenes(1500, seed=0)
    group_of = {}
    for row in range(len(data)):
        sample = data[row]
        for text in sample.positives():
            assert group_of.setdefault(text.string.lower().rstrip("."), sample.group) == sample.group


@pytest.mark.parametrize("size", [32, 64, 96])
def test_the_planned_relation_is_found_in_the_masks(size: int) -> None:
    data = scenes(400, seed=9, size=size)
    seen = set()
    for row in range(len(data)):
        sample = data[row]
        planned = (0, sample.extras["predicate"], 1)
        assert planned in {(r.subject, r.predicate, r.object) for r in sample.relations}, (row, planned)
        seen.add(planned[1])
    assert seen >= set(PREDICATES) - {"behind"}


def naive_relations(sample: Sample) -> set[tuple[int, str, int]]:
    """A second opinion, pair by pair and pixel by pixel, for scenes in which nothing overlaps or is close."""
    points = [{(int(x), int(y)) for y, x in zip(*np.nonzero(decode(r.mask)), strict=True)} for r in sample.regions]
    found = set()
    for i, one in enumerate(points):
        for j, two in enumerate(points):
            if i == j:
                continue
            (x1, y1), (x2, y2) = (([p[0] for p in s], [p[1] for p in s]) for s in (one, two))
            for name, true in (
                ("left of", max(x1) <= min(x2)),
                ("right of", min(x1) >= max(x2)),
                ("above", max(y1) <= min(y2)),
                ("below", min(y1) >= max(y2)),
                ("bigger than", len(one) >= 1.25 * len(two)),
                ("same colour as", sample.regions[i].attributes[0] == sample.regions[j].attributes[0]),
            ):
                if true:
                    found.add((i, name, j))
            near = any((x + dx, y + dy) in two for x, y in one for dx in (-1, 0, 1) for dy in (-1, 0, 1))
            if near:
                found.add((i, "touching", j))
    return found


def test_relations_equal_a_naive_count_of_pixels() -> None:
    data = scenes(250, seed=4)
    checked = 0
    for row in range(len(data)):
        sample = data[row]
        if sample.extras["predicate"] in ("inside", "in front of", "on", "touching"):
            continue  # what is hidden does not show in the masks
        found = {(r.subject, r.predicate, r.object) for r in sample.relations}
        assert found == naive_relations(sample), row
        checked += 1
    assert checked > 150


def test_things_that_should_touch_do_and_their_neighbours_do_not() -> None:
    data = scenes(300, seed=6)
    for row in range(len(data)):
        sample = data[row]
        close = {
            frozenset((r.subject, r.object))
            for r in sample.relations
            if r.predicate in ("touching", "inside", "in front of", "on")
        }
        planned = sample.extras["predicate"] in ("on", "touching", "inside", "in front of")
        assert close == ({frozenset((0, 1))} if planned else set())
        points = [np.argwhere(decode(region.mask)) for region in sample.regions]
        gap = np.abs(points[0][:, None] - points[1][None]).max(-1).min()
        assert (gap <= 1) == planned
        shown = [len(p) for p in points]
        assert min(shown) >= 12, shown


def test_boxes_are_tight_around_visible_pixels_and_show_the_colour_they_say() -> None:
    data = scenes(60, seed=8)
    for row in range(len(data)):
        sample = data[row]
        for region in sample.regions:
            mask = decode(region.mask)
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            assert region.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            colour = np.array(RGB[region.attributes[0]], float)
            core = sample.image.pixels_HWC[mask].astype(float)
            distance = np.minimum(np.abs(core - colour).max(1), np.abs(core - colour / 2).max(1))
            assert (distance < 2).sum() >= 3, (row, region)
        masks = np.stack([decode(region.mask) for region in sample.regions])
        assert masks.sum(0).max() <= 1  # a pixel shows one thing


def test_counts_and_labels() -> None:
    sample = scenes(1, seed=3)[0]
    labels = [region.label for region in sample.regions]
    assert sample.extras["counts"] == {label: labels.count(label) for label in labels}
    assert set(labels) <= set(SHAPES)
    assert sample.extras["label"] == f"{sample.regions[0].attributes[0]} {labels[0]}"


def test_wrong_captions_are_typed_and_false() -> None:
    """Parse the wrong caption again and ask the graph, by another road than the grammar."""
    data = scenes(600, seed=11, max_objects=5)
    kinds: dict[str, int] = defaultdict(int)
    for row in range(len(data)):
        sample = data[row]
        nouns = [f"{r.attributes[0]} {r.label}" for r in sample.regions]
        facts = {(nouns[r.subject], r.predicate, nouns[r.object]) for r in sample.relations}
        wrong = sample.extras["negatives"]
        assert [t.string for t in sample.texts if t.origin == "negative"] == [w["false"] for w in wrong]
        assert not {t.string for t in sample.positives()} & {w["false"] for w in wrong}
        for entry in wrong:
            kinds[entry["kind"]] += 1
            assert entry["true"] != entry["false"]
            if entry["kind"] in ("swapped_roles", "replaced_relation"):
                words = entry["false"].replace("of the same colour as", "same colour as").split(" ")[1:]
                one, two, predicate = " ".join(words[:2]), " ".join(words[-2:]), " ".join(words[2:-3])
                assert predicate in PREDICATES
                assert (one, predicate, two) not in facts
            if entry["kind"] == "swapped_attribute":
                one, two = (sorted(words.replace("an ", "a ").split()) for words in (entry["true"], entry["false"]))
                assert one == two, "the same words in another order"
            if entry["kind"] == "wrong_count":
                assert entry["true"].split()[0] == "exactly"
    assert set(kinds) == set(KINDS)
    assert kinds["swapped_attribute"] > 400
    assert kinds["swapped_roles"] > 400


def test_lengths_grow_and_can_be_chosen() -> None:
    sample = scenes(1, seed=0)[0]
    short, tags, long, dense = sample.texts[:4]
    assert tags.origin == "tags"
    assert len(short.string) < len(long.string) < len(dense.string)
    only = scenes(5, seed=0, lengths=["short"], paraphrases=0, negatives=False)
    assert all(len(only[row].texts) == 1 for row in range(5))
    assert only[0].texts[0] == short
    many = scenes(1, seed=0, lengths=["short"], paraphrases=4)[0].positives()
    assert len({t.string for t in many}) == 5


def test_held_out_combinations_occur_in_unseen_and_nowhere_else() -> None:
    held = ("red circle", "blue star")
    data = resolve("world:scenes?n=400&hold_out=red circle,blue star&lengths=short")
    assert data.split_names == ("train", "val", "test", "unseen")
    for split in data.split_names:
        part = data.split(split)
        for row in range(len(part)):
            nouns = [f"{r.attributes[0]} {r.label}" for r in part[row].regions]
            if split == "unseen":
                assert set(nouns[:2]) & set(held)
            else:
                assert not set(nouns) & set(held)


def test_every_colour_and_shape_occurs_about_equally() -> None:
    data = scenes(800, seed=0)
    nouns = [(r.attributes[0], r.label) for row in range(800) for r in data[row].regions]
    for place, names in ((0, COLOURS), (1, SHAPES)):
        counts = [sum(noun[place] == name for noun in nouns) for name in names]
        assert min(counts) > 0.6 * len(nouns) / len(names), dict(zip(names, counts, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([32, 48, 64, 128]), st.integers(2, 6))
def test_any_seed_gives_a_whole_sample(seed: int, size: int, objects: int) -> None:
    sample = scenes(1, seed=seed, size=size, min_objects=2, max_objects=objects)[0]
    assert sample.image.pixels_HWC.shape == (size, size, 3)
    assert sample.image.pixels_HWC.dtype == np.uint8
    assert 2 <= len(sample.regions) <= objects
    assert sample.graph.triplets()
    for region in sample.regions:
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size


def stub_cutouts() -> list:
    disc = np.zeros((40, 40, 4), np.uint8)
    y, x = np.mgrid[:40, :40] - 19.5
    disc[(x * x + y * y) < 300] = (250, 200, 10, 255)
    tall = np.zeros((40, 40, 4), np.uint8)
    tall[4:36, 14:26] = (20, 180, 90, 255)
    third = np.zeros((40, 40, 4), np.uint8)
    third[10:30, 5:35] = (30, 60, 230, 255)
    return [cutout("sun", disc, "MIT"), cutout("tree", tall, "CC0-1.0"), cutout("envelope", third, "MIT")]


def test_cutouts_are_pasted_with_their_truth() -> None:
    data = scenes(40, seed=1, look="cutouts", cutouts=stub_cutouts())
    for row in range(40):
        sample = data[row]
        assert {r.label for r in sample.regions} <= {"sun", "tree", "envelope"}
        assert (0, sample.extras["predicate"], 1) in {(r.subject, r.predicate, r.object) for r in sample.relations}
        for region in sample.regions:
            colour = np.median(sample.image.pixels_HWC[decode(region.mask)], axis=0)
            want = {"sun": (250, 200, 10), "tree": (20, 180, 90), "envelope": (30, 60, 230)}[region.label]
            assert np.abs(colour - want).max() <= 2
    other = scenes(40, seed=1, look="cutouts", cutouts=stub_cutouts()[:2])
    assert other.fingerprint != data.fingerprint
    licence = {"sun": "MIT", "tree": "CC0-1.0", "envelope": "MIT"}
    assert [sample.licence for sample in data] == [", ".join(sorted({licence[r.label] for r in s.regions})) for s in data]


def test_cutouts_come_from_a_data_set_with_nouns_for_texts(tmp_path: Path) -> None:
    square = np.zeros((20, 20, 4), np.uint8)
    square[5:15, 4:12] = (200, 10, 10, 255)
    opaque = np.full((20, 20, 4), 255, np.uint8)
    texts = {
        "a": "A red box.",
        "b": "a frog",
        "c": "the whole picture",
        "d": "Jupiter is the largest planet of our solar system.",
    }
    samples = [
        Sample(uid=uid, image=BytesImage(encode_png(opaque if uid == "c" else square), uid), texts=(Text(text, "en"),))
        for uid, text in texts.items()
    ]
    build(Pool.from_samples(samples, name="mine"), tmp_path / "mine")
    world = resolve(f"world:scenes?n=3&look=cutouts&cutouts={tmp_path / 'mine'}")
    assert world.world.labels == ("frog", "red box")
    assert world.world.cutouts[0].pixels_HWC.shape == (10, 8, 4)
    assert {region.label for region in world[0].regions} <= {"frog", "red box"}
    with pytest.raises(DataError, match="no picture to cut out"):
        pool_cutouts(Pool.from_samples(samples[2:], name="mine"))


def test_fingerprint_follows_every_option() -> None:
    prints = [
        scenes(5).fingerprint,
        scenes(6).fingerprint,
        scenes(5, seed=1).fingerprint,
        scenes(5, split="val").fingerprint,
        scenes(5, size=48).fingerprint,
        scenes(5, negatives=False).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert scenes(5).fingerprint == prints[0]


def test_select_where_and_columns() -> None:
    data = resolve("world:scenes?n=20")
    assert len(data.where("split", "val")) == 5
    part = data.select([3, 1])
    assert part.uids == (data.uids[3], data.uids[1])
    assert part[0].uid == data.uids[3]
    assert data.column("uid") == list(data.uids)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("world:scene", "unknown world 'scene'; did you mean 'scenes'?"),
        ("world:scenes?sed=3", "did you mean 'seed'?"),
        ("world:scenes?seed=x", "seed is 'x' (expected a whole number)"),
        ("world:scenes?negatives=maybe", "expected true or false"),
        ("world:scenes?look=flatt", "did you mean 'flat'?"),
        ("world:scenes?hold_out=red circel", "did you mean 'red circle'?"),
        ("world:scenes?lengths=shrt", "did you mean 'short'?"),
        ("world:scenes?size=8", "expected 32..1024"),
        ("world:scenes?n=0", "n is 0"),
        ("world:links?hold_out=near abov", "did you mean 'near above'"),
    ],
)
def test_wrong_addresses_say_what_would_work(address: str, says: str) -> None:
    with pytest.raises(DiptychError) as caught:
        resolve(address)
    assert says in str(caught.value)


def test_unseen_needs_held_out_combinations() -> None:
    with pytest.raises(ConfigError, match="hold_out"):
        scenes(3, split="unseen")
    with pytest.raises(UnknownName, match="split"):
        scenes(3).split("test")


def test_contact_sheet_holds_the_images() -> None:
    data = scenes(5, seed=1)
    sheet = contact_sheet(data, columns=3, rows=2, scale=1, gap=1)
    assert sheet.shape == (129, 194, 3)
    assert (sheet[:64, 65:129] == data[1].image.pixels_HWC).all()


def test_a_world_can_be_written_and_read_again(tmp_path) -> None:
    data = resolve("world:scenes?n=12&val=2&test=2")
    build(data.to_pool(), tmp_path / "built", progress=False)
    again = open_built(tmp_path / "built")
    rows = {uid: row for row, uid in enumerate(again.uids)}
    assert set(again.split_names) == {"train", "val", "test"}
    for row, uid in enumerate(data.uids):
        want, got = data[row], again[rows[uid]]
        assert (got.texts, got.regions, got.relations, got.group) == (want.texts, want.regions, want.relations, want.group)
        assert got.extras["negatives"] == want.extras["negatives"]


def test_packaged_emoji_as_cutouts() -> None:
    try:
        read("emoji")
    except DataError as error:
        pytest.skip(str(error))
    data = scenes(20, seed=1, look="cutouts")
    for row in range(20):
        sample = data[row]
        assert sample.licence
        assert (0, sample.extras["predicate"], 1) in {(r.subject, r.predicate, r.object) for r in sample.relations}
    held = data.world.nouns[0]
    unseen = scenes(5, seed=1, look="cutouts", hold_out=[held], split="unseen")
    assert all(held in [r.label for r in unseen[row].regions[:2]] for row in range(5))
