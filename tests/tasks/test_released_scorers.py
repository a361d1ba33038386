"""A detector's logits to the number of a benchmark, against the post-processing and the scorers that RLIPv2 released (Yuan et al., 2023).

The case is made up and drawn from a seed (`logits.planted`); the numbers are what the released code printed for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interactions import pool_of
from logits import LogitDetector, planted, true_graphs

from diptych.core.errors import DataError
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.core.triplet_rule import RuledDetector, TripletRule
from diptych.data.vocabularies import MISSING, vocabulary
from diptych.tasks.evaluate import evaluate
from diptych.tasks.relations.graph_arrays import names_in
from diptych.tasks.relations.hico_det import HicoDet
from diptych.tasks.relations.open_images_triplets import OpenImagesTriplets
from diptych.tasks.relations.v_coco import VCoco
from diptych.tasks.relations.v_coco_triplets import VCocoTriplets

HICO = vocabulary("hico-det")
CHOSEN = (7, 45, 110, 155, 213, 300, 463, 517, 555, 596)
AS_RELEASED: dict[str, Any] = {"ties": "index", "compat": "qpic", "draws": 0}


def hico_case() -> tuple[Any, LogitDetector]:
    classes = [(0, HICO.predicates.index(HICO.triplets[k][1]), HICO.objects.index(HICO.triplets[k][2])) for k in CHOSEN]
    named, truth, answers = planted(classes, 80, 117, seed=1)
    return pool_of(true_graphs(named, truth, answers.size_N2, HICO.objects, HICO.predicates)), LogitDetector(answers)


@pytest.mark.parametrize(
    ("zero_shot", "nms", "expected"),
    [
        ("", 0.0, (0.5623937790604457, 0.511598124098124, 0.6030303030303031)),
        ("", 0.7, (0.5706108706108706, 0.5300865800865802, 0.6030303030303031)),
        ("nf", 0.0, (0.512842712842713, 0.3493506493506494, 0.6436363636363637)),
        ("nf", 0.7, (0.5175084175084176, 0.35984848484848486, 0.6436363636363637)),
    ],
)
def test_hico_det_from_logits_equals_the_release(zero_shot: Any, nms: float, expected: tuple[float, ...], parity: Any) -> None:
    data, model = hico_case()
    result = evaluate(HicoDet(zero_shot=zero_shot, nms=nms, **AS_RELEASED), model, data)
    found = [result.metrics[name].value for name in ("full", "rare", "non_rare")]
    parity(
        "rlipv2",
        "HICO-DET from logits, four protocols",
        "the released post-processing and scorer",
        [(found, expected)],
        tolerance=1e-12,
    )
    assert result.notes["triplet_score"] == "relation x object"
    assert result.notes["impossible_pairs"] == "masked before the cut"
    assert result.notes["subjects"].startswith("pairs whose likeliest" if zero_shot else "all called person")
    assert result.notes["relation_nms"] == ("IoU_s x IoU_o ** .5 above 0.7" if nms else "none")


def test_the_rule_of_detect_gives_another_number_and_names_its_own_nms() -> None:
    data, model = hico_case()
    result = evaluate(HicoDet(triplets="detector", **AS_RELEASED), model, data)
    assert abs(result.value - 0.5623937790604457) > 0.05
    assert result.notes["relation_nms"].startswith("by the detector: triplets of equal names with IoU_s x IoU_o ** .5 above .7")
    assert result.notes["triplet_score"] == "relation x subject x object"


def test_each_part_of_the_rule_matters() -> None:
    """Each of the three alone changes which hundred triplets an image keeps."""
    data, model = hico_case()
    images = [data[row].image for row in range(len(data))]
    possible = frozenset((verb, thing) for _, verb, thing in HICO.triplets)

    def kept(rule: TripletRule) -> list[list[tuple[float, str]]]:
        graphs = model.detect_by(images, objects=HICO.objects, relations=HICO.predicates, rule=rule)
        return [[(edge.confidence, edge.predicate) for edge in graph.relations] for graph in graphs]

    rules = [TripletRule("given", possible=possible), TripletRule("given"), TripletRule("scored", possible=possible)]
    rules.append(TripletRule("cut", possible=possible))
    answers = [kept(rule) for rule in rules]
    assert isinstance(model, RuledDetector)
    for place, answer in enumerate(answers):
        assert all(0 < len(image) <= 100 for image in answer)
        assert all(answer != other for other in answers[:place])


def test_boxes_without_area_are_scored_as_any_others() -> None:
    """Every seventh object of the case has no width: `detect` leaves it out, the protocol counts it against the model."""
    data, model = hico_case()
    rule = HicoDet().rule(HICO.triplets)
    images = [data[row].image for row in range(len(data))]
    graphs = model.detect_by(images, objects=HICO.objects, relations=HICO.predicates, rule=rule)
    flat = sum(
        graph.regions[edge.object].box[0] == graph.regions[edge.object].box[2] for graph in graphs for edge in graph.relations
    )
    assert flat > 20
    plain = model.detect(images, objects=HICO.objects, relations=HICO.predicates)
    assert all(region.box[0] < region.box[2] for graph in plain for region in graph.regions)


# ---------------------------------------------------------------- Open Images

THINGS, LINKS = tuple("abcde"), tuple("pqrs")
KINDS = [(0, 1, 2), (1, 0, 3), (2, 2, 0), (3, 1, 4), (4, 0, 1), (0, 3, 4)]


@pytest.mark.parametrize(
    ("seed", "nms", "expected"),
    [
        (1, False, (0.9583333333333334, 0.5928832152299134, 0.7800509675509676, 0.6011436763795255, 0.8040552040552041)),
        (1, True, (0.9583333333333334, 0.6609940239870052, 0.5609848484848485, 0.6446686594748091, 0.4924242424242425)),
        (2, True, (0.9583333333333334, 0.6309300713905978, 0.509297520661157, 0.6696279841016683, 0.501147842056933)),
        (3, True, (0.9583333333333334, 0.7088744588744589, 0.5031565656565657, 0.7228234728234728, 0.49410774410774416)),
        (4, True, (0.9583333333333334, 0.4736814111814112, 0.6792929292929293, 0.552871202871203, 0.5836940836940837)),
    ],
)
def test_open_images_triplets_from_logits_equal_the_release(seed: int, nms: bool, expected: tuple[float, ...]) -> None:
    named, truth, answers = planted(KINDS, 5, 4, seed=seed, queries=40)
    data = pool_of(true_graphs(named, truth, answers.size_N2, THINGS, LINKS))
    result = evaluate(OpenImagesTriplets(nms=nms, compat="published", draws=0), LogitDetector(answers), data)
    names = ("r@50", "wmap_rel", "wmap_phr", "map_rel", "map_phr")
    assert tuple(result.metrics[name].value for name in names) == pytest.approx(expected, abs=1e-12)
    assert result.notes["triplet_score"] == "relation x subject x object"
    assert result.notes["relation_nms"] == ("triplets 0.7, then phrases 0.5" if nms else "none")


# ---------------------------------------------------------------- V-COCO

V_COCO = vocabulary("v-coco")
ACTIONS = [
    (0, 2, 13),
    (0, 2, 80),
    (0, 6, 38),
    (0, 6, 80),
    (0, 7, 32),
    (0, 1, 80),
    (0, 8, 53),
    (0, 3, 17),
]  # object 80: not in the picture


def v_coco_case(seed: int) -> tuple[Any, LogitDetector]:
    named, truth, answers = planted(ACTIONS, 81, 29, seed=seed)
    return pool_of(true_graphs(named, truth, answers.size_N2, V_COCO.objects, V_COCO.predicates)), LogitDetector(answers)


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (1, (0.04852572721890903, 0.2904232551959824)),
        (2, (0.05958248277766995, 0.3671178098985586)),
        (3, (0.07314951149983394, 0.4100222884235782)),
    ],
)
def test_v_coco_triplets_from_logits_equal_the_release(seed: int, expected: tuple[float, float]) -> None:
    data, model = v_coco_case(seed)
    result = evaluate(VCocoTriplets(compat="published", draws=0), model, data)
    # The release takes the mean over the classes that the truth has, and "all" leaves the others out too.
    assert (result.metrics["thesis"].value, result.metrics["all"].value) == pytest.approx(expected, abs=1e-12)
    assert model.asked[0].objects[-1] == "missing objects"
    assert (len(model.asked[0].objects), model.asked[0].relations[2]) == (81, "sit on/at")


@pytest.mark.parametrize(
    ("seed", "scenarios", "roles"),
    [
        (1, (0.20436625, 0.24375129), {"sit instr": (0.52042198, 0.55581670), "hit instr": (0.02222222, 0.05336484)}),
        (2, (0.22274333, 0.29261672), {"sit instr": (0.17301588, 0.19719170), "hit instr": (0.55691367, 0.67946517)}),
    ],
)
def test_v_coco_from_logits_equals_the_official_scorer(seed: int, scenarios: tuple[float, float], roles: dict[str, Any]) -> None:
    """The release's generator of detections into the scorer that came with V-COCO, which adds up in single precision."""
    data, model = v_coco_case(seed)
    result = evaluate(VCoco(draws=0), model, data)
    assert (result.metrics["scenario_1"].value, result.metrics["scenario_2"].value) == pytest.approx(scenarios, abs=1e-7)
    for role, expected in roles.items():
        said = tuple(result.notes["role_ap"][scenario][role] for scenario in ("scenario_1", "scenario_2"))
        assert said == pytest.approx(expected, abs=1e-7)


def test_v_coco_says_that_an_object_is_missing_by_the_81st_object() -> None:
    """Half of the true objects are not in the picture; only who asks for the 81st can say so, and scenario 1 wants it said."""
    data, model = v_coco_case(1)
    asked = evaluate(VCoco(draws=0), model, data)
    planted_80 = LogitDetector(
        replace(
            model.planted,
            subject_NQC=np.delete(model.planted.subject_NQC, 80, 2),
            object_NQC=np.delete(model.planted.object_NQC, 80, 2),
        )
    )
    not_asked = evaluate(VCoco(draws=0, texts="roles"), planted_80, data)
    assert planted_80.asked[0].objects == V_COCO.objects
    assert planted_80.asked[0].relations == V_COCO.predicates
    assert asked.metrics["scenario_1"].value > not_asked.metrics["scenario_1"].value
    assert asked.notes["cut"] == "none"
    assert asked.notes["impossible_pairs"] == "none known"


def test_a_detector_with_its_own_rule_may_say_missing_objects_too() -> None:
    """It is asked for the 81st object and in phrases; what it answers is translated."""
    person, racket, nothing = (
        Region((n, 0, n + 9, 9), label) for n, label in ((0, "person"), (20, "tennis racket"), (40, MISSING))
    )

    class Foreign:
        def detect(self, images: Any, *, objects: Any, relations: Any = (), **options: Any) -> list[SceneGraph]:
            assert {MISSING} <= set(objects)
            edges = Relation(0, "hit with", 1, 0.9), Relation(0, "hit", 2, 0.8), Relation(0, "sit on/at", 2, 0.7)
            return [SceneGraph((person, racket, nothing), edges) for _ in images]

    truth = SceneGraph((person, racket), (Relation(0, "hit instr", 1), Relation(0, "hit obj", 0), Relation(0, "sit instr", 0)))
    result = evaluate(VCoco(draws=0), Foreign(), pool_of([truth]))
    assert result.value == 1.0
    assert result.notes["triplet_score"] == "the detector's own, not stated"


def test_v_coco_leaves_out_what_the_published_table_excludes_but_never_what_is_missing(tmp_path: Path) -> None:
    data, model = v_coco_case(2)
    np.save(tmp_path / "corre.npy", np.zeros((29, 80)))
    task = VCoco(draws=0, possible=str(tmp_path / "corre.npy"))
    predicted = task.predict(model, data)
    rows = zip(predicted["subject"].to_pylist(), predicted["object"].to_pylist(), strict=True)
    assert all(subject == thing for subject, thing in rows)
    assert set(names_in(predicted, "predicate")) == set(V_COCO.predicates)
    np.save(tmp_path / "small.npy", np.zeros((26, 80)))
    with pytest.raises(DataError, match=r"shape \(26, 80\)"):
        VCoco(possible=str(tmp_path / "small.npy")).predict(model, data)
