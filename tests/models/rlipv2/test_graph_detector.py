"""From logits to scene graphs, and the detector as a folder."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.contracts import Detector, Relater
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.scene_graph import Region
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.text.tokenize import Tokenizer
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.rlipv2.graph_detector import GraphDetector
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.models.rlipv2.triplet_selection import TripletDetections, best_triplets, scene_graph, triplet_nms
from diptych.models.towers.label_encoder import label_encoder
from diptych.models.towers.label_texts import IndexTexts, TokenTexts

OBJECTS, RELATIONS = ("dog", "red ball", "tree"), ("chasing", "left of")
SHAPE = RelationDetectorConfig(
    pairs=4, width=32, heads=4, mlp_width=32, encoder_layers=1, decoder_layers=1, levels=2, branches=4, fusion_before=(0,),
    fusion_width=32, language_heads=2, language_mlp=32, in_padded=False, relation_boxes=False,
)  # fmt: skip


def words() -> Tokenizer:
    return Tokenizer.train([*OBJECTS, *RELATIONS, "no objects"] * 2, 300)


def detector(seed: int = 0, **changes: Any) -> GraphDetector:
    torch.manual_seed(seed)
    tokenizer = words()
    labels = label_encoder("text_tiny", vocab_size=tokenizer.vocab_size, length=12, width=16, layers=1, heads=2)
    model = RelationDetector(detection_backbone("conv_tiny", widths=(8, 16, 16)), labels, replace(SHAPE, **changes))
    return GraphDetector(
        model,
        TokenTexts(tokenizer, 12),
        DetectionPreprocess(48, longest=64, stride=16),
        "small",
        lists=LabelLists(OBJECTS, RELATIONS),
    )


def images(*sizes: tuple[int, int]) -> list[ArrayImage]:
    generator = np.random.default_rng(0)
    return [ArrayImage(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def said() -> PairSet:
    """Two queries: dog chasing ball, surely; tree left of dog, less so. Background is the fourth entity."""
    box = torch.tensor([[0.25, 0.5, 0.2, 0.4], [0.75, 0.5, 0.2, 0.4]])
    subject = torch.tensor([[4.0, 0, 0, 0], [0, 0, 3.0, 0]])
    object_ = torch.tensor([[0, 4.0, 0, 0], [3.0, 0, 0, 5.0]])
    relation = torch.tensor([[2.0, -2.0], [-3.0, 1.0]])
    return PairSet(
        box[None, None],
        box.flip(0)[None, None],
        subject[None, None],
        object_[None, None],
        relation[None, None],
        torch.zeros(2, 1),
    )


def test_scores_are_products_and_the_best_come_first() -> None:
    (found,) = best_triplets(said(), top=3)
    names = list(zip(found.subject_T.tolist(), found.relation_T.tolist(), found.object_T.tolist(), strict=True))
    assert names == [(0, 0, 1), (0, 1, 1), (2, 1, 0)]
    p = 4.0 - torch.tensor([4.0, 0, 0, 0]).logsumexp(0)
    assert found.score_T[0].item() == pytest.approx((torch.tensor(2.0).sigmoid() * (2 * p).exp()).item())
    p_subject = torch.tensor([0, 0, 3.0, 0]).softmax(0)[2]
    p_object = torch.tensor([3.0, 0, 0, 5.0]).softmax(0)[0]  # the background is left out of the choice, not of the softmax
    assert found.score_T[2].item() == pytest.approx((torch.tensor(1.0).sigmoid() * p_subject * p_object).item())
    torch.testing.assert_close(found.subject_box_T4[0], torch.tensor([0.15, 0.3, 0.35, 0.7]))
    (hoi,) = best_triplets(said(), rule="hoi")
    assert hoi.score_T[0].item() == pytest.approx((torch.tensor(2.0).sigmoid() * p.exp()).item())
    (possible,) = best_triplets(said(), possible_CR=torch.tensor([[True, True], [False, True], [True, True]]))
    assert (1, 0) not in set(zip(possible.object_T.tolist(), possible.relation_T.tolist(), strict=True))
    with pytest.raises(ConfigError, match="unknown score rule 'sum'"):
        best_triplets(said(), rule="sum")  # type: ignore[arg-type]


def test_repeats_of_the_same_names_go_and_others_stay() -> None:
    (found,) = best_triplets(said())
    twice = found.rows(torch.tensor([0, 0, 1, 2]))
    kept = triplet_nms(twice)
    assert len(kept) == 3
    torch.testing.assert_close(kept.score_T, found.score_T[:3])
    assert len(triplet_nms(found.rows(torch.tensor([], dtype=torch.int64)))) == 0


@pytest.mark.parametrize(("halved", "left"), [("subject", 2), ("object", 1)])
def test_the_subjects_overlap_counts_whole_and_the_objects_by_its_root(halved: str, left: int) -> None:
    """CDN's exponents, 1 and .5: an overlap of 1/2 is .5 for subjects, and .71, above the .7 of the rule, for objects."""
    whole, half = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 0.5])
    box_T4, same_T4 = torch.stack([whole, half]), torch.stack([whole, whole])
    sides = (box_T4, same_T4) if halved == "subject" else (same_T4, box_T4)
    name_T, score_T = torch.zeros(2, dtype=torch.int64), torch.tensor([0.9, 0.8])
    assert len(triplet_nms(TripletDetections(*sides, name_T, name_T, name_T, score_T, score_T, score_T))) == left


def test_boxes_of_one_thing_become_one_region() -> None:
    (found,) = best_triplets(said())
    graph = scene_graph(found, (100, 200), OBJECTS, RELATIONS)
    assert graph.triplets()[0] == ("dog", "chasing", "red ball")
    # The dog of the first query (left) and that of the second (also left) are one region; ball and tree share the right box.
    assert sorted(region.label for region in graph.regions) == ["dog", "red ball", "tree"]
    dog = next(region for region in graph.regions if region.label == "dog")
    assert dog.box == pytest.approx((30, 30, 70, 70), abs=1e-3)
    assert len({(r.subject, r.predicate, r.object) for r in graph.relations}) == len(graph.relations) == 4


def test_is_a_detector_whose_boxes_lie_in_the_images() -> None:
    model = detector()
    assert isinstance(model, Detector)
    pictures = images((30, 50), (80, 20), (1, 1))
    graphs = model.detect(pictures, objects=OBJECTS, relations=RELATIONS)
    assert len(graphs) == 3
    for graph, (height, width) in zip(graphs, ((30, 50), (80, 20), (1, 1)), strict=True):
        assert graph.regions
        for region in graph.regions:
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
        scores = [relation.confidence for relation in graph.relations]
        assert scores == sorted(scores, reverse=True)
    alone = model.detect(pictures, objects=OBJECTS)
    assert all(graph.regions and not graph.relations for graph in alone)
    assert model.detect([], objects=OBJECTS, relations=RELATIONS) == []
    assert not any(graph.relations for graph in model.detect(pictures, objects=OBJECTS, relations=RELATIONS, threshold=1.0))


@pytest.mark.parametrize("fusion", ["alif", "none"])
def test_comes_back_from_its_folder(tmp_path: Path, fusion: str) -> None:
    model = detector(fusion=fusion)
    model.save(tmp_path / "model")
    state = torch.get_rng_state()
    again = GraphDetector.load(tmp_path / "model")
    assert torch.equal(state, torch.get_rng_state())
    assert again.fingerprint == model.fingerprint
    assert (again.objects, again.relations) == (OBJECTS, RELATIONS)
    pictures = images((30, 50))
    assert again.detect(pictures, objects=OBJECTS, relations=RELATIONS) == model.detect(
        pictures, objects=OBJECTS, relations=RELATIONS
    )
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no config\.json"):
        GraphDetector.load(tmp_path / "empty")


def test_given_regions_come_back_with_relations() -> None:
    tagger = detector(variant="parsed", given=True)
    pictures = images((30, 50), (40, 40), (20, 20))
    regions = [
        [Region((0, 0, 10, 10), "dog"), Region((5, 5, 40, 20), "tree"), Region((5, 5, 30, 25), "dog")],
        [Region((0, 0, 10, 10), "red ball")],
        [],
    ]
    graphs = tagger.relate(pictures, regions, relations=RELATIONS, objects=(*OBJECTS, "cup"), labels_known=True)
    assert [graph.regions for graph in graphs] == [tuple(row) for row in regions]
    assert [len(graph.relations) for graph in graphs] == [3 * 2 * len(RELATIONS), 0, 0]
    assert isinstance(tagger, Relater)
    few = tagger.relate(pictures, regions, relations=RELATIONS, objects=(*OBJECTS, "cup"), top=4)
    assert [graph.relations for graph in few] == [graph.relations[:4] for graph in graphs]
    confidences = [relation.confidence for relation in graphs[0].relations]
    assert confidences == sorted(confidences, reverse=True)
    assert tagger.relate(pictures[:1], [[]], relations=RELATIONS)[0].relations == ()
    with pytest.raises(ConfigError, match="does not classify regions"):
        tagger.relate(pictures, regions, relations=RELATIONS, labels_known=False)
    with pytest.raises(ConfigError, match="call relate"):
        tagger.detect(pictures, objects=OBJECTS, relations=RELATIONS)
    with pytest.raises(ConfigError, match="detects its own regions"):
        detector().relate(pictures, regions, relations=RELATIONS)
    with pytest.raises(DataError, match="3 images but regions for 1"):
        tagger.relate(pictures, regions[:1], relations=RELATIONS)


def test_some_pairs_are_asked_about_alone_and_see_no_others() -> None:
    tagger, (picture,) = detector(variant="parsed", given=True), images((30, 50))
    regions = [Region((0, 0, 10, 10), "dog"), Region((5, 5, 40, 20), "tree"), Region((5, 5, 30, 25), "dog")]
    every = list(permutations(range(3), 2))

    def of(pairs: list[tuple[int, int]]) -> dict[tuple[int, str, int], float]:
        (graph,) = tagger.relate_pairs([picture], [regions], [pairs], relations=RELATIONS, objects=OBJECTS)
        assert graph.regions == tuple(regions)
        return {(r.subject, r.predicate, r.object): r.confidence for r in graph.relations}

    (whole,) = tagger.relate([picture], [regions], relations=RELATIONS, objects=OBJECTS)
    assert of(every) == {(r.subject, r.predicate, r.object): r.confidence for r in whole.relations}
    alone = of([(1, 2)])
    assert alone.keys() == {(1, name, 2) for name in RELATIONS}
    assert any(abs(of(every)[key] - confidence) > 1e-6 for key, confidence in alone.items())
    twice = of([(1, 2), (0, 1), (1, 2)])
    assert twice.keys() == {(s, name, o) for name in RELATIONS for s, o in ((1, 2), (0, 1))}
    assert of([]) == {}


def test_wrong_lists_of_labels_are_named() -> None:
    model, pictures = detector(), images((20, 20))
    for objects, message in (
        ((), "field 'objects': the list is empty"),
        (("dog", "dog"), "'dog' is 2 times in the list"),
        (("dog", " "), "name 1 of the list is ''"),
        (("no objects",), "is the background"),
    ):
        for relations in (RELATIONS, ()):
            with pytest.raises(DataError, match=message):
                model.detect(pictures, objects=objects, relations=relations)
    with pytest.raises(DataError, match="field 'relations': 'on' is 2 times in the list"):
        model.detect(pictures, objects=OBJECTS, relations=("on", "on"))
    with pytest.raises(DataError, match="field 'relations': the list is empty"):
        model.triplets(pictures, objects=OBJECTS, relations=())


def test_free_vectors_know_their_names_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = IndexTexts([*OBJECTS, *RELATIONS])
    model = RelationDetector(
        detection_backbone("conv_tiny", widths=(8, 16, 16)), label_encoder("table", labels=6, width=16), SHAPE
    )
    GraphDetector(model, names, DetectionPreprocess(32, square=True), "table").save(tmp_path / "model")
    again = GraphDetector.load(tmp_path / "model")
    assert len(again.detect(images((20, 30)), objects=OBJECTS[:2], relations=RELATIONS)) == 1
    with pytest.raises(UnknownName, match="unknown label 'dogs'; did you mean 'dog'"):
        again.detect(images((20, 30)), objects=["dogs"], relations=RELATIONS)


def test_images_keep_their_shape_inside_padding() -> None:
    prepare = DetectionPreprocess(48, longest=64, stride=16)
    image_BCHW, pixel_BHW = prepare([np.full((10, 20, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)])
    assert image_BCHW.shape == (2, 3, 48, 64)
    assert pixel_BHW[0].nonzero().max(0).values.tolist() == [31, 63]
    assert pixel_BHW[1].nonzero().max(0).values.tolist() == [47, 47]
    assert not image_BCHW[0, :, 32:].any()
    assert prepare([np.zeros((48, 64, 3), np.uint8)])[1] is None
    square, none = DetectionPreprocess(40, square=True)([np.zeros((7, 90, 3), np.uint8)] * 2)
    assert (square.shape, none) == ((2, 3, 40, 40), None)
    with pytest.raises(ConfigError, match="longest = 0 or at least size"):
        DetectionPreprocess(100, longest=50)
