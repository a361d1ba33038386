"""Rendered tissue: captions name what is shown, at the level that they should; slides hold the share of tumour that they say."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.media.decode import decode
from diptych.worlds.resolve import resolve
from diptych.worlds.tissue.slides import GLASS, TUMOUR, drawn, layout, slides
from diptych.worlds.tissue.tiles import SIDE, tile
from diptych.worlds.tissue.tree import FAMILIES, LEAVES, NORMAL, UNKNOWN, family_id, leaf_id, tissue_ontology
from diptych.worlds.tissue.world import NORMAL_NAMES, NOTHING, tissue


def test_the_tree_has_three_levels() -> None:
    tree = tissue_ontology()
    assert len(tree) == 1 + 4 + 16
    assert len(LEAVES) == 16
    assert {len(tree.ancestors(leaf_id(leaf))) for leaf in LEAVES} == {2}
    assert tree[family_id("myoma")].name == "spindle tumour"
    names = [name for concept in tree.values() for name in concept.names]
    assert len({*names}) == len(names), "a name belongs to one concept"


def test_captions_name_the_kind_the_family_or_nothing_as_the_concept_says() -> None:
    world = tissue(4000, seed=2).world
    shares = Counter[str]()
    for index in range(0, 4000, 4):
        concept, captions = world.concept("train", index), world.captions("train", index)  # type: ignore[attr-defined]
        assert len({world.group("train", index + k) for k in range(4)}) == 1
        if concept == UNKNOWN:
            assert {*captions} <= {*NOTHING}
            shares["unnamed"] += 1
            continue
        names = NORMAL_NAMES if concept == NORMAL else tissue_ontology()[concept].names
        assert all(any(name in caption for name in names) for caption in captions)
        leaf = world.leaf("train", index)  # type: ignore[attr-defined]
        if leaf:
            shares["family" if concept == family_id(leaf) else "kind"] += 1
            assert concept in (family_id(leaf), leaf_id(leaf))
    assert abs(shares["unnamed"] / 1000 - 0.1) < 0.03
    assert abs(shares["family"] / (shares["family"] + shares["kind"]) - 1 / 3) < 0.05


def test_other_splits_show_every_kind_alike_and_name_it() -> None:
    whole = resolve("world:tissue?n=40&test=34&val=17")
    test = whole.split("test")
    assert set(Counter(test.column("label")).values()) == {2}
    assert all(sample.extras["label"] in sample.texts[0].string for sample in (test[row] for row in range(34)))
    assert len({*test.groups}) == 34
    assert test[3].image.pixels_HWC.shape == (SIDE, SIDE, 3)  # type: ignore[union-attr]


def test_a_longer_data_set_begins_with_the_shorter_one() -> None:
    short, long = tissue(3, seed=5), tissue(9, seed=5)
    for row in range(3):
        assert np.array_equal(short[row].image.pixels_HWC, long[row].image.pixels_HWC)  # type: ignore[union-attr]
        assert short[row].texts == long[row].texts


def test_kinds_look_different_and_within_a_family_alike() -> None:
    """Means over many tiles: red nuclei are redder, large ones cover more, glands have white lumens."""
    rng = np.random.default_rng(0)
    mean = {leaf: np.mean([tile(rng, leaf, stain_3=np.ones(3)) for _ in range(40)], axis=(0, 1, 2)) for leaf in ("", *LEAVES)}
    for family in FAMILIES.values():
        blue, _, red, _ = family[1]
        assert mean[red][0] - mean[red][2] > mean[blue][0] - mean[blue][2] + 1
    white = {leaf: np.mean([(tile(rng, leaf) > 225).all(2).mean() for _ in range(30)]) for leaf in ("tubuloma", "centroma")}
    assert white["tubuloma"] > 3 * white["centroma"]
    with pytest.raises(UnknownName, match="fibroma"):
        tile(rng, "fibrom")


def test_slides_hold_their_share_of_tumour_where_the_mask_says() -> None:
    pool = slides(6, seed=1, split="test", tiles=8, kinds=("fibroma", "centroma"))
    assert [pool[n].extras["label"] for n in range(6)] == ["normal", "fibroma", "normal", "centroma", "normal", "fibroma"]
    assert pool.groups[:4] == ("test-patient-0", "test-patient-0", "test-patient-1", "test-patient-1")
    for n in range(6):
        sample = pool[n]
        mask = decode(sample.media["mask"].parts[0])[..., 0] > 0
        assert mask.shape == (8, 8)
        assert bool(sample.extras["tumour"]) == mask.any()
        assert 0.05 <= sample.extras["share"] <= 0.25 or not mask.any()
    with pytest.raises(ConfigError, match="fibrom"):
        slides(2, kinds=("fibrom",))


def test_the_layout_has_the_asked_share_in_one_piece() -> None:
    rng = np.random.default_rng(3)
    truth = layout(rng, 20, 0.2)
    assert abs((truth == TUMOUR).sum() / (truth != GLASS).sum() - 0.2) < 0.01
    assert not (layout(rng, 20, 0.0) == TUMOUR).any()
    pixels = drawn(rng, truth, "myoma")
    assert pixels.shape == (20 * SIDE, 20 * SIDE, 3)
    y, x = np.argwhere(truth == GLASS)[0]
    assert pixels[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE].min() > 225
    assert Image.open(io.BytesIO(slides(2, tiles=8)[0].media["mask"].parts[0].read())).mode == "L"
