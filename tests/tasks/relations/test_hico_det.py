"""HICO-DET scoring against the published procedure in plain loops, against hand-made cases, and through planted detectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from interactions import Planted, changed, naive_ap, naive_iou, pool_of, riding

from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.core.triplet_rule import RawDetections, RawRegion
from diptych.data.dataset import Pool
from diptych.data.vocabularies import vocabulary
from diptych.tasks import find
from diptych.tasks.evaluate import evaluate, rescore
from diptych.tasks.relations.graph_records import records
from diptych.tasks.relations.hico_det import HicoDet

NAMES = ("person", "horse", "cup")
VERBS = ("ride", "hold")
Case = tuple[list[SceneGraph], list[SceneGraph]]


# ---------------------------------------------------------------- the published procedure, in loops


def naive_predictions(graph: SceneGraph, classes: Sequence[Any], top: int, nms: float, edge: float) -> list[Any]:
    """(score, class, subject box, object box) of one image, best first."""
    named = zip(graph.triplets(), graph.relations, strict=True)
    rows = [(r.confidence, t, graph.regions[r.subject].box, graph.regions[r.object].box) for t, r in named if t in classes]
    rows.sort(key=lambda row: -row[0])
    rows = rows[:top] if top else rows
    left: list[Any] = []
    for row in rows:
        rivals = [other for other in left if other[1] == row[1]]
        share = [naive_iou(row[2], o[2], edge) * math.sqrt(naive_iou(row[3], o[3], edge)) for o in rivals]
        if not nms or all(s <= nms for s in share):
            left.append(row)
    return left


def naive_scores(task: HicoDet, truths: Sequence[SceneGraph], found: Sequence[SceneGraph]) -> dict[str, Any]:
    edge = 1.0 if task.iou == "inclusive" else 0.0
    classes = sorted({triplet for graph in truths for triplet in graph.triplets()})
    if task.vocabulary == "hico-det":
        classes = list(vocabulary("hico-det").triplets)
    predictions = [naive_predictions(graph, classes, task.top, task.nms, edge) for graph in found]
    each: dict[str, dict[Any, float]] = {"": {}, "ko_": {}}
    for kind in classes:
        pairs = [
            [
                (g.regions[r.subject].box, g.regions[r.object].box)
                for t, r in zip(g.triplets(), g.relations, strict=True)
                if t == kind
            ]
            for g in truths
        ]
        positives = sum(map(len, pairs))
        if not positives:
            if task.compat == "matlab":
                each[""][kind] = each["ko_"][kind] = 0.0
            continue
        for prefix in ("", "ko_"):
            rows = []
            for image, graph in enumerate(truths):
                if task.compat == "qpic" and not graph.regions:
                    continue
                if prefix and all(t[2] != kind[2] for t in graph.triplets() if t in classes):
                    continue
                rows += [(row[0], image, row) for row in predictions[image] if row[1] == kind]
            rows.sort(key=lambda row: -row[0])
            taken, judged = set(), []
            for score, image, (_, _, subject, thing) in rows:
                shares = [min(naive_iou(subject, s, edge), naive_iou(thing, o, edge)) for s, o in pairs[image]]
                place = int(np.argmax(shares)) if shares else -1
                enough = place >= 0 and (shares[place] > 0.5 if task.compat == "strict" else shares[place] >= 0.5)
                judged.append((score, enough and (image, place) not in taken))
                if enough:
                    taken.add((image, place))
            each[prefix][kind] = naive_ap(judged, positives, task.ap, task.ties, task.compat in ("matlab", "qpic"))
    result: dict[str, Any] = {}
    for prefix, ap in each.items():
        result[f"{prefix}full"] = sum(ap.values()) / len(ap) if ap else math.nan
        rare = set(vocabulary("hico-det").rare)
        if task.vocabulary == "hico-det":
            for name, wanted in (("rare", True), ("non_rare", False)):
                part = [value for kind, value in ap.items() if (classes.index(kind) in rare) == wanted]
                result[prefix + name] = sum(part) / len(part) if part else math.nan
    return result


# ---------------------------------------------------------------- random cases


def random_case(rng: np.random.Generator, names: Sequence[str] = NAMES, verbs: Sequence[str] = VERBS) -> Case:
    """Up to four images on a coarse grid: overlaps of exactly one half, equal scores and empty sides all occur."""
    truths, found = [], []
    for _ in range(int(rng.integers(1, 5))):
        truth = random_graph(rng, names, verbs, [])
        truths.append(SceneGraph() if rng.random() < 0.15 else SceneGraph(truth.regions) if rng.random() < 0.1 else truth)
        found.append(SceneGraph() if rng.random() < 0.15 else random_graph(rng, names, verbs, list(truth.regions)))
    return truths, found


def random_graph(rng: np.random.Generator, names: Sequence[str], verbs: Sequence[str], near: list[Region]) -> SceneGraph:
    corner, size = rng.integers(0, 6, (4, 2)), rng.integers(1, 6, (4, 2))
    low = [(float(x), float(y), float(x + w), float(y + h)) for (x, y), (w, h) in zip(corner, size, strict=True)]
    labels = [NAMES[0] if rng.random() < 0.5 else str(rng.choice(names)) for _ in low]
    regions = [Region(box, label) for box, label in zip(low, labels, strict=True)] + near
    ends, verb = rng.integers(0, len(regions), (12 if near else 5, 2)), rng.integers(0, len(verbs), 12)
    score = rng.integers(1, 5, 12) / 4 if near else np.ones(12)
    relations = [
        Relation(int(s), verbs[v], int(o), float(c))
        for (s, o), v, c in zip(ends, verb[: len(ends)], score[: len(ends)], strict=True)
    ]
    return SceneGraph(tuple(regions), tuple(relations))


def table_of(case: Case) -> Any:
    return records([f"u{n}" for n in range(len(case[0]))], *case)


TASKS = (
    HicoDet(vocabulary="data", draws=0),
    HicoDet(vocabulary="data", draws=0, ties="index", iou="half_open"),
    HicoDet(vocabulary="data", draws=0, top=4, ap="area", compat="strict"),
    HicoDet(vocabulary="data", draws=0, nms=0.3, ties="index", compat="qpic"),
    HicoDet(vocabulary="data", draws=0, nms=0.7, top=6, compat="matlab"),
)


def agree(cases: int, seed: int) -> None:
    rng, seen = np.random.default_rng(seed), Counter[str]()
    for n in range(cases):
        case, task = random_case(rng), TASKS[n % len(TASKS)]
        scored = task.score(table_of(case))
        for name, value in naive_scores(task, *case).items():
            assert scored.metrics[name].value == pytest.approx(value, abs=1e-12, nan_ok=True), (n, name, task)
        seen["between"] += 0 < scored.metrics["full"].value < 1
        for truth, found in zip(*case, strict=True):
            seen["no objects"] += not truth.regions
            seen["objects, no relations"] += bool(truth.regions) and not truth.relations
            seen["no detections"] += not found.regions
            seen["nothing at all"] += not truth.regions and not found.regions
    assert all(seen[kind] > cases / 100 for kind in ("no objects", "objects, no relations", "no detections", "nothing at all")), (
        seen
    )
    assert seen["between"] > cases / 3, seen


def test_agrees_with_the_published_procedure_on_random_cases() -> None:
    agree(150, seed=0)


@pytest.mark.slow
def test_agrees_with_the_published_procedure_on_many_more_random_cases() -> None:
    agree(12000, seed=1)


def test_agrees_with_the_published_procedure_on_the_600_classes() -> None:
    rng = np.random.default_rng(2)
    names, verbs = ("person", "horse", "dog", "kite"), ("ride", "hold", "feed", "no interaction", "assemble", "hunt")
    for n in range(20):
        case, task = random_case(rng, names, verbs), replace(TASKS[n % len(TASKS)], vocabulary="hico-det")
        scored = task.score(table_of(case))
        for name, value in naive_scores(task, *case).items():
            assert scored.metrics[name].value == pytest.approx(value, abs=1e-12, nan_ok=True), (n, name, task)


# ---------------------------------------------------------------- hand-made cases


def value(truths: Sequence[SceneGraph], found: Sequence[SceneGraph], name: str = "full", **options: Any) -> float:
    task = HicoDet(draws=0, **{"vocabulary": "data", **options})
    return task.score(records([f"u{n}" for n in range(len(truths))], truths, found)).metrics[name].value


def test_a_perfect_answer_is_worth_one_and_a_second_one_costs_nothing_behind_it() -> None:
    assert value([riding()], [riding(0.9)]) == 1.0
    assert value([riding()], [riding(0.9, 0.5)]) == 1.0  # precision at full recall is reached before the duplicate


def test_a_hit_behind_a_miss_is_worth_one_half() -> None:
    wrong = SceneGraph((Region((50, 50, 60, 60), "person"), Region((70, 70, 80, 80), "horse")), (Relation(0, "ride", 1, 0.9),))
    assert value([riding(), SceneGraph()], [riding(0.5), wrong]) == pytest.approx(0.5)


def test_one_of_two_found_is_worth_six_of_eleven_recalls() -> None:
    assert value([riding(), riding()], [riding(0.5), SceneGraph()]) == pytest.approx(6 / 11)
    assert value([riding(), riding()], [riding(0.5), SceneGraph()], ap="area") == pytest.approx(0.5)


def test_overlap_of_exactly_one_half_counts_unless_a_rewrite_is_asked_for() -> None:
    double = riding(0.9, shift=10.0)  # 20 x 10 pixels against 10 x 10, both edges counted
    assert value([riding()], [double]) == 1.0
    assert value([riding()], [double], compat="strict") == 0.0
    assert value([riding()], [double], iou="half_open") == 0.0  # 9 of 19


def test_a_second_hit_on_a_taken_pair_is_wrong_even_where_another_would_fit() -> None:
    pair = (Region((0, 0, 9, 9), "person"), Region((0, 0, 9, 19), "horse"), Region((2, 0, 11, 9), "person"))
    truth = SceneGraph(pair, (Relation(0, "ride", 1), Relation(2, "ride", 1)))
    twice = SceneGraph(pair, (Relation(0, "ride", 1, 0.9), Relation(0, "ride", 1, 0.8)))
    assert value([truth], [twice]) == pytest.approx(6 / 11)


def test_known_object_forgives_false_alarms_where_the_object_is_not() -> None:
    truths, found = [riding(), SceneGraph()], [riding(0.5), riding(0.9)]
    assert value(truths, found) == pytest.approx(0.5)
    assert value(truths, found, "ko_full") == 1.0


def test_known_object_goes_by_image_level_labels_where_there_are_any() -> None:
    """The second image shows a horse that nobody drew a box around, the third shows none; the fourth was not labelled."""
    truths = [riding(), SceneGraph(), SceneGraph(), SceneGraph()]
    shown: list[Any] = [["horse"], ["horse"], [], None]
    samples = [
        replace(sample, extras={} if names is None else {"labelled_objects": names})
        for sample, names in zip((pool_of(truths)[n] for n in range(4)), shown, strict=True)
    ]
    model = Planted([riding(0.5), riding(0.9), riding(0.8), riding(0.7)])
    result = evaluate(HicoDet(draws=0), model, Pool.from_samples(samples))
    assert result.metrics["full"].value == pytest.approx(1 / 4)
    assert result.metrics["ko_full"].value == pytest.approx(1 / 2)
    assert (
        result.notes["known_object"] == "images with an image-level label of the object; 1 without labels: an annotated relation"
    )
    assert evaluate(HicoDet(draws=0), model, pool_of(truths)).metrics["ko_full"].value == 1.0
    samples[0] = replace(samples[0], extras={"labelled_objects": ["unicorn"]})
    with pytest.raises(DataError, match="'unicorn' is not an object of the classes"):
        evaluate(HicoDet(draws=0), model, Pool.from_samples(samples))


def test_the_fault_of_python_scorers_forgets_false_positives_of_images_without_boxes() -> None:
    truths, found = [riding(), SceneGraph()], [riding(0.5), riding(0.9)]
    assert value(truths, found, compat="qpic") == 1.0


def test_a_predicted_box_without_area_is_a_pixel_wide_except_to_the_scorers_that_look_for_area_first() -> None:
    """Both edges counted, it is 1 of the 2 pixels of the true box."""
    truth = SceneGraph((Region((10, 0, 11, 9), "person"), Region((0, 0, 9, 19), "horse")), (Relation(0, "ride", 1),))
    flat = RawDetections((RawRegion((10, 0, 10, 9), "person"), RawRegion((0, 0, 9, 19), "horse")), (Relation(0, "ride", 1, 0.9),))
    table = records(["u0"], [truth], [flat])
    for compat, iou, expected in (
        ("", "inclusive", 1.0),
        ("", "half_open", 0.0),
        ("matlab", "inclusive", 1.0),
        ("qpic", "inclusive", 0.0),
    ):
        task = HicoDet(vocabulary="data", draws=0, compat=compat, iou=iou)  # type: ignore[arg-type]
        assert task.score(table).value == expected, (compat, iou)


def test_exact_recall_of_three_in_ten_reaches_its_threshold() -> None:
    truths = [riding()] * 10
    found = [riding(0.5)] * 3 + [SceneGraph()] * 7
    assert value(truths, found) == pytest.approx(4 / 11)
    assert value(truths, found, compat="matlab") == pytest.approx(3 / 11)


def test_equal_scores_are_worth_the_same_in_any_order_of_images() -> None:
    truths, found = [riding(), SceneGraph()], [riding(0.5), riding(0.5)]
    assert value(truths, found) == value(truths[::-1], found[::-1]) == pytest.approx(0.5)
    assert (value(truths, found, ties="index"), value(truths[::-1], found[::-1], ties="index")) == (1.0, 0.5)


def test_only_the_best_hundred_count_and_nms_removes_doubles_in_the_same_class_only() -> None:
    noise = (Region((0, 0, 9, 9), "person"), Region((0, 0, 9, 19), "horse"), Region((60, 60, 61, 61), "horse"))
    crowded = SceneGraph(noise, (*(Relation(0, "ride", 2, 0.9),) * 100, Relation(0, "ride", 1, 0.1)))
    assert value([riding()], [crowded]) == 0.0
    assert value([riding()], [crowded], top=0) == pytest.approx(1 / 101)
    assert value([riding()], [crowded], top=0, nms=0.7) == pytest.approx(1 / 2)


# ---------------------------------------------------------------- whole evaluations


def many(count: int, seed: int) -> list[SceneGraph]:
    """People with things of HICO-DET, two relations each."""
    rng, known = np.random.default_rng(seed), vocabulary("hico-det").triplets
    graphs = []
    for _ in range(count):
        regions, relations = [], []
        for k in rng.integers(0, 60, 2):
            x, y = rng.integers(0, 200, 2).astype(float)
            regions += [Region((x, y, x + 30, y + 60), "person"), Region((x + 20, y + 20, x + 70, y + 60), known[k][2])]
            relations.append(Relation(len(regions) - 2, known[k][1], len(regions) - 1))
        graphs.append(SceneGraph(tuple(regions), tuple(relations)))
    return graphs


def test_planted_detectors_come_out_in_order() -> None:
    truth = many(120, seed=3)
    data = pool_of(truth)
    detectors = {share: Planted(changed(truth, share, seed=4)) for share in (0.0, 0.3, 1.0)}
    results = {share: evaluate(HicoDet(), detector, data) for share, detector in detectors.items()}
    full = [results[share].value for share in (0.0, 0.3, 1.0)]
    assert full[0] == 1.0
    assert results[0.0].metrics["ko_full"].value == 1.0
    assert full[0] > full[1] > full[2]
    assert full[2] < 0.25
    span = results[0.3].metrics["full"]
    assert span.low < span.value < span.high
    assert span.high - span.low > 0.02
    known = vocabulary("hico-det")
    assert detectors[0.3].asked[0] == (known.objects, known.predicates)


def test_result_names_what_its_number_depends_on_and_records_can_be_scored_again(tmp_path: Any) -> None:
    truth = many(6, seed=5)
    result = evaluate(HicoDet(), Planted(changed(truth, 0.5, seed=6)), pool_of(truth), out=tmp_path)
    notes = result.notes
    assert (notes["scorer"], notes["ap_rule"], notes["relation_nms"]) == ("hico/official", "11-point", "none")
    assert notes["iou"].startswith("inclusive")
    assert notes["ties"] == "together"
    assert notes["protocol"] == "hico_det v2"
    assert rescore(HicoDet(), tmp_path / "hico_det-graphs.parquet").to_json() == result.to_json()
    other = rescore(HicoDet(nms=0.7, compat="matlab"), tmp_path / "hico_det-graphs.parquet")
    assert other.notes["scorer"] == "hico/matlab"
    assert "0.7" in other.notes["relation_nms"]


def test_interval_resamples_groups_not_images() -> None:
    truth = many(40, seed=7)
    found = changed(truth, 0.5, seed=8)
    uids = [f"u{n}" for n in range(40)]
    alone = HicoDet().score(records(uids, truth, found)).metrics["full"]
    one = HicoDet().score(records(uids, truth, found, groups=["g"] * 40)).metrics["full"]
    assert alone.value == one.value
    assert alone.low < alone.high
    assert math.isnan(one.low)


def test_draws_are_what_scoring_the_drawn_images_would_give() -> None:
    from diptych.tasks._scoring.intervals import group_weights, percentiles

    truth = many(8, seed=9)
    found = changed(truth, 0.5, seed=10)
    uids = [f"{n:02d}" for n in range(8)]
    task = HicoDet(draws=20)
    expected = []
    for weight_C in np.concatenate(list(group_weights(8, 20, 0, 8))):
        rows = np.repeat(np.arange(8), weight_C.astype(int))
        drawn = records([f"{n}" for n in range(len(rows))], [truth[r] for r in rows], [found[r] for r in rows])
        expected.append(replace(task, draws=0).score(drawn).value)
    span = task.score(records(uids, truth, found)).metrics["full"]
    assert (span.low, span.high) == pytest.approx(percentiles(np.array(expected)))


# ---------------------------------------------------------------- what is refused


def test_refuses_what_cannot_be_scored() -> None:
    strange = SceneGraph((Region((0, 0, 1, 1), "unicorn"),))
    with pytest.raises(DataError, match=r"row 0, field 'relations': 'unicorn' is not a name of HICO-DET"):
        evaluate(HicoDet(), Planted([strange]), pool_of([strange]))
    with pytest.raises(DataError, match="unknown name 'unicorn' in u0"):
        evaluate(HicoDet(), Planted([strange]), pool_of([riding()]))
    detector = Planted([riding(0.5)])
    detector.detect = lambda images, objects, relations=(): [riding(0.5)]  # type: ignore[method-assign, misc]
    with pytest.raises(ShapeError, match="1 graphs for 2 images"):
        evaluate(HicoDet(), detector, pool_of([riding(), riding()]))
    with pytest.raises(DataError, match="no relation to score"):
        evaluate(HicoDet(vocabulary="data"), Planted([riding()]), pool_of([SceneGraph()]))
    with pytest.raises(DataError, match="row 0, field 'confidence': a prediction for u0 is not finite"):
        value([riding()], [riding(math.nan)])
    with pytest.raises(ConfigError, match="unseen names class 7"):
        value([riding()], [riding(0.5)], unseen=(7,))
    with pytest.raises(ConfigError, match="ties is 'first'"):
        HicoDet(ties="first")  # type: ignore[arg-type]


def test_an_image_that_cannot_be_decoded_costs_itself_and_is_named() -> None:
    truth = [riding(), riding(), riding()]
    samples = [
        Sample(f"u{n}", BytesImage(b"", "broken" if n == 1 else str(n)), regions=g.regions, relations=g.relations)
        for n, g in enumerate(truth)
    ]
    detector = Planted([riding(0.5)] * 3)
    assert isinstance(detector, Detector)
    result = evaluate(find("hico-det", vocabulary="data"), detector, Pool.from_samples(samples, name="graphs"))
    assert result.n_items == 2
    assert result.value == 1.0
    assert [bad["uid"] for bad in result.notes["unreadable"]] == ["u1"]


def test_images_without_anything_are_scored_without_a_crash() -> None:
    nothing = HicoDet().score(records(["a", "b"], [SceneGraph()] * 2, [SceneGraph()] * 2))
    assert math.isnan(nothing.value)
    missed = HicoDet().score(records(["a", "b"], [riding(), SceneGraph()], [SceneGraph()] * 2))
    assert missed.value == 0.0
    assert missed.metrics["full"].high == 0.0
