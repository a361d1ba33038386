"""Batches of graphs: padding, pairs, what is on the lists, determinism, and data that are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.graphs.batch import GraphBatch, graph_batch
from diptych.data.graphs.label_lists import CorpusNames, LabelLists, ListSampler
from diptych.data.graphs.region_noise import RegionNoise
from diptych.data.graphs.transforms import DetrTransform, SquareResize
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from diptych.data.text.tokenize import Tokenizer
from diptych.worlds import links


class AsIs:
    """Pictures as they are."""

    def draw(self, picture, rng):
        return picture

    def whole(self, picture):
        return picture


def draws_of(*samples: Sample, sizes: list[tuple[int, int]] | None = None, step: int = 0, epoch: int = 0) -> Draws:
    sizes = sizes or [(40, 60)] * len(samples)
    items = tuple(
        Draw(sample, keyed_rng(0, epoch, sample.uid), np.full((*size, 3), 7 + row, np.uint8))
        for row, (sample, size) in enumerate(zip(samples, sizes, strict=True))
    )
    return Draws(items, keyed_rng(0, step), step)


PAIR = Sample(
    "pair",
    regions=(Region((0, 0, 30, 20), "man"), Region((30, 20, 60, 40), "horse"), Region((10, 10, 20, 30), "hat")),
    relations=(
        Relation(0, "riding", 1),
        Relation(0, "on", 1, 0.5),
        Relation(0, "riding", 1),
        Relation(0, "wearing", 2, 0.1),
        Relation(1, "walking", 1),
    ),
)
EMPTY = Sample("empty")
LISTS = LabelLists(("man", "hat", "horse", "dog"), ("on", "riding", "walking", "wearing", "eating"))


def test_boxes_pairs_and_padding() -> None:
    batch = graph_batch(draws_of(PAIR, EMPTY, sizes=[(40, 60), (50, 30)]), views=AsIs(), labels=LISTS, multiple=16)
    assert batch.image_BCHW.shape == (2, 3, 64, 64)
    assert batch.size_B2.tolist() == [[40, 60], [50, 30]]
    assert batch.pixel_BHW.sum((1, 2)).tolist() == [2400, 1500]
    assert batch.pixel_BHW[0, :40, :60].all()
    assert batch.image_BCHW[~batch.pixel_BHW[:, None].expand(-1, 3, -1, -1)].abs().sum() == 0
    expected = (7 / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(batch.image_BCHW[0, :, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        batch.box_BK4[0], [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.25, 0.5, 1 / 6, 0.5]], rtol=1e-6
    )
    assert batch.label_BK.tolist() == [[0, 2, 1], [4, 4, 4]]
    assert batch.region_mask_BK.tolist() == [[True] * 3, [False] * 3]
    assert batch.pair_BG2.tolist() == [[[0, 1], [0, 2], [1, 1]], [[0, 0]] * 3]
    assert batch.relation_BGR.tolist()[0] == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert batch.confidence_BG[0].tolist() == pytest.approx([1, 0.1, 1])
    assert batch.pair_mask_BG.tolist() == [[True] * 3, [False] * 3]
    assert batch.text_TL is None


def test_true_pairs_are_the_regions_at_both_ends() -> None:
    batch = graph_batch(draws_of(EMPTY, PAIR), views=AsIs(), labels=LISTS)
    true = batch.true_pairs()
    assert true.subject_label_BG[1].tolist() == [0, 0, 2]
    assert true.object_label_BG[1].tolist() == [2, 1, 4]  # "walking" has no object
    torch.testing.assert_close(true.subject_box_BG4[1], batch.box_BK4[1, [0, 0, 1]])
    torch.testing.assert_close(true.object_box_BG4[1, :2], batch.box_BK4[1, [1, 2]])
    assert true.object_box_BG4[1, 2].tolist() == [0, 0, 0, 0]
    assert true.has_object_BG.tolist() == [[True] * 3, [True, True, False]]
    assert true.valid_BG.tolist() == [[False] * 3, [True] * 3]


def test_an_object_that_is_not_in_the_picture_has_its_own_name_where_that_is_asked_for() -> None:
    lists = LabelLists((*LISTS.objects, "missing objects"), LISTS.relations)
    true = graph_batch(draws_of(EMPTY, PAIR), views=AsIs(), labels=lists).true_pairs()
    assert true.object_label_BG[1].tolist() == [2, 1, 4]
    assert lists.background == 5  # behind it
    assert true.has_object_BG[1].tolist() == [True, True, False]


def test_boxes_are_shares_of_their_own_picture_whatever_it_is_padded_to() -> None:
    alone = graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS)
    beside = graph_batch(draws_of(PAIR, EMPTY, sizes=[(40, 60), (90, 200)]), views=AsIs(), labels=LISTS)
    torch.testing.assert_close(alone.box_BK4[0], beside.box_BK4[0])
    torch.testing.assert_close(alone.image_BCHW[0], beside.image_BCHW[0, :, :40, :60])


def test_names_that_are_not_on_a_closed_list_are_refused_or_dropped() -> None:
    closed = LabelLists(("man", "horse"), ("riding", "wearing"))
    with pytest.raises(DataError, match=r"field 'objects': sample 'pair' has 'hat' \(expected one of the 2 names"):
        graph_batch(draws_of(PAIR), views=AsIs(), labels=closed)
    with pytest.raises(DataError, match="field 'relations': sample 'pair' has 'on'"):
        graph_batch(draws_of(PAIR), views=AsIs(), labels=LabelLists(("man", "horse", "hat"), ("riding",)))
    batch = graph_batch(draws_of(PAIR), views=AsIs(), labels=closed, outside="drop")
    assert batch.label_BK.tolist() == [[0, 1]]
    assert batch.pair_BG2.tolist() == [[[0, 1]]]
    assert batch.relation_BGR.tolist() == [[[1, 0]]]
    headless = graph_batch(draws_of(PAIR), views=AsIs(), labels=LabelLists(("hat", "horse"), ("walking",)), outside="drop")
    assert headless.label_BK.tolist() == [[1, 0]]
    assert headless.pair_BG2.tolist() == [[[0, 0]]]  # the horse, which was the second region, is now the first


def test_only_triplets_on_a_sampled_list_are_targets() -> None:
    world = links(8, seed=0)
    items = tuple(Draw(world[n], keyed_rng(0, n), world[n].image.pixels_HWC) for n in range(8))
    names = CorpusNames.of(world)
    whole = graph_batch(
        Draws(items, keyed_rng(0, 0)), views=SquareResize(size=32), labels=ListSampler(names=names, length=0), augment=False
    )
    assert int(whole.pair_mask_BG.sum()) == 16
    some = graph_batch(
        Draws(items, keyed_rng(0, 0)), views=SquareResize(size=32), labels=ListSampler(names=names, length=0, triplet_share=0.2)
    )
    assert 0 < int(some.pair_mask_BG.sum()) < 16
    listed = set(some.lists.objects), set(some.lists.relations)
    for row in range(8):
        graph = world[row].graph
        wanted = sum(
            graph.regions[r.subject].label in listed[0]
            and r.predicate in listed[1]
            and graph.regions[r.object].label in listed[0]
            for r in graph.relations
        )
        assert int(some.pair_mask_BG[row].sum()) == wanted
        assert int(some.region_mask_BK[row].sum()) == sum(region.label in listed[0] for region in graph.regions)


def test_lists_depend_on_the_step_and_pictures_on_the_epoch() -> None:
    names = CorpusNames.counted({f"o{n}": n + 1 for n in range(30)}, {f"r{n}": n + 1 for n in range(30)})

    def made(step: int, epoch: int) -> GraphBatch:
        views = DetrTransform(shorts=(32, 48), longest=96, before_crop=(40,), crop=(20, 40))
        return graph_batch(draws_of(PAIR, EMPTY, step=step, epoch=epoch), views=views, labels=ListSampler(names=names, length=20))

    assert made(3, 0).lists == made(3, 0).lists
    torch.testing.assert_close(made(3, 0).image_BCHW, made(3, 0).image_BCHW)
    extra = [set(made(step, 1).lists.relations) - {r.predicate for r in PAIR.relations} for step in (3, 4)]
    assert extra[0] != extra[1]
    shapes = {tuple(made(0, epoch).size_B2.flatten().tolist()) for epoch in range(6)}
    assert len(shapes) > 1


def test_pairs_beyond_the_budget_are_drawn_and_not_cut_by_order() -> None:
    many = Sample(
        "many",
        regions=tuple(Region((n, 0, n + 5, 5), "man") for n in range(10)),
        relations=tuple(Relation(n, "on", (n + 1) % 10) for n in range(10)),
    )
    seen = set()
    for epoch in range(20):
        batch = graph_batch(draws_of(many, epoch=epoch), views=AsIs(), labels=LISTS, max_pairs=3)
        assert batch.pair_BG2.shape == (1, 3, 2)
        seen |= {tuple(pair) for pair in batch.pair_BG2[0].tolist()}
    assert len(seen) == 10


def test_unrelated_pairs_fill_up_without_a_relation() -> None:
    batch = graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS, fill_pairs=100)
    pairs = [tuple(pair) for pair in batch.pair_BG2[0].tolist()]
    assert sorted(pairs) == sorted([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (1, 1)])
    assert batch.relation_BGR[0, 3:].sum() == batch.confidence_BG[0, 3:].sum() == 0
    assert graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS, fill_pairs=5).pair_BG2.shape == (1, 5, 2)


def test_uncertain_relations_are_left_out() -> None:
    batch = graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS, min_confidence=0.2)
    assert batch.pair_BG2[0].tolist() == [[0, 1], [1, 1]]
    assert batch.relation_BGR[0, 0].tolist() == [1, 1, 0, 0, 0]
    assert graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS, min_confidence=0.6).relation_BGR[0, 0].tolist() == [
        0,
        1,
        0,
        0,
        0,
    ]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_any_mixture_of_graphs_makes_a_batch(counts: list[int], key: int) -> None:
    rng = np.random.default_rng(key)
    samples = []
    for row, count in enumerate(counts):
        low = rng.uniform(0, 20, (count, 2))
        boxes = np.concatenate([low, low + rng.uniform(1, 20, (count, 2))], 1)
        regions = tuple(Region(tuple(map(float, box)), "man") for box in boxes)
        relations = tuple(Relation(int(i), "on", int(j)) for i, j in rng.integers(0, max(1, count), (count, 2)))
        samples.append(Sample(f"s{row}", regions=regions, relations=relations))
    batch = graph_batch(draws_of(*samples), views=SquareResize(size=16), labels=LISTS)
    assert batch.region_mask_BK.sum(1).tolist() == counts
    assert len({batch.image_BCHW.shape[0], len(batch), len(counts)}) == 1
    assert ((batch.box_BK4 >= 0) & (batch.box_BK4 <= 1)).all()
    assert all(len(value) == len(counts) for value in dataclasses.asdict(batch.true_pairs()).values())
    part = batch.rows(0, 1)
    assert len(part) == 1
    assert part.lists is batch.lists


def test_label_texts_go_through_whatever_the_encoder_takes() -> None:
    tokenizer = Tokenizer.train(list(LISTS.texts) * 4, 300)

    def tokens(texts):
        encoded = tokenizer.encode(list(texts), 6)
        return torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)

    batch = graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS, texts=tokens)
    assert batch.text_TL.shape == batch.text_mask_TL.shape == (len(LISTS.texts), 6)
    assert tokenizer.decode(batch.text_TL[LISTS.background].tolist()) == "no objects"
    assert batch.rows(0, 0).text_TL is batch.text_TL
    lengths = graph_batch(draws_of(PAIR), views=AsIs(), labels=LISTS, texts=lambda t: (torch.tensor([len(x) for x in t]), None))
    assert lengths.text_TL.tolist() == [len(text) for text in LISTS.texts]
    assert lengths.text_mask_TL is None


def test_box_outside_the_image_and_missing_pixels_name_the_sample() -> None:
    with pytest.raises(DataError, match=r"sample 'pair' has a box .* outside its image of 50 x 40 pixels"):
        graph_batch(draws_of(PAIR, sizes=[(40, 50)]), views=AsIs(), labels=LISTS)
    with pytest.raises(DataError, match="sample 'pair' has no image"):
        graph_batch(Draws((Draw(PAIR, keyed_rng(0)),), keyed_rng(0)), views=AsIs(), labels=LISTS)


def test_an_image_of_one_pixel() -> None:
    dot = Sample("dot", regions=(Region((0, 0, 1, 1), "man"),), relations=())
    batch = graph_batch(draws_of(dot, sizes=[(1, 1)]), views=SquareResize(size=8), labels=LISTS)
    assert batch.box_BK4.tolist() == [[[0.5, 0.5, 1, 1]]]
    assert batch.pair_BG2.shape == (1, 0, 2)


def test_given_pairs_share_the_noise_of_a_region() -> None:
    plain = graph_batch(draws_of(EMPTY, PAIR), views=AsIs(), labels=LISTS)
    true, asked = plain.true_pairs(), plain.given_pairs()
    torch.testing.assert_close(asked.subject_box_BG4, true.subject_box_BG4)
    torch.testing.assert_close(asked.subject_label_BG, true.subject_label_BG)
    noisy = graph_batch(draws_of(EMPTY, PAIR), views=AsIs(), labels=LISTS, noise=RegionNoise(box=0.3, label=0.0))
    torch.testing.assert_close(noisy.true_pairs().subject_box_BG4, true.subject_box_BG4)
    given = noisy.given_pairs()
    assert (given.subject_box_BG4[1] != true.subject_box_BG4[1]).any()
    torch.testing.assert_close(given.subject_box_BG4[1, 0], given.subject_box_BG4[1, 1])  # both are the man
    torch.testing.assert_close(given.object_label_BG[1, :2], true.object_label_BG[1, :2])


def test_a_batch_without_a_single_region() -> None:
    batch = graph_batch(draws_of(EMPTY, EMPTY), views=AsIs(), labels=LISTS, noise=RegionNoise())
    assert batch.box_BK4.shape == (2, 0, 4)
    assert batch.true_pairs().subject_box_BG4.shape == (2, 0, 4)
    assert batch.given_pairs().object_label_BG.shape == (2, 0)
