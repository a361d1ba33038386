"""VG150: against plain loops written from the published procedure, on planted detectors, and by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import DataError
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.graph_records import records
from diptych.tasks.relations.predicate_nms import predicate_nms
from diptych.tasks.relations.triplet_names import with_unseen
from diptych.tasks.relations.vg150 import VG150

OBJECTS, PREDICATES = ("cat", "dog", "cup"), ("on", "near", "has", "under")
KS = (1, 2, 5)

# ---------------------------------------------------------------- the published procedure, in plain loops


def iou(one: Sequence[float], other: Sequence[float], extra: float = 0.0) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0]) + extra
    height = min(one[3], other[3]) - max(one[1], other[1]) + extra
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (one, other)]
    return both / (sum(areas) - both)


def published(
    truths: Sequence[SceneGraph], found: Sequence[SceneGraph], ks: Sequence[int], *, graph_constraint: bool, compat: bool = False,
    unseen: Sequence[Sequence[bool]] = (), product: bool = False,
) -> dict[str, float]:  # fmt: skip
    recall, zero_shot = defaultdict(list), defaultdict(list)
    by_predicate: dict[tuple[int, str], list[float]] = defaultdict(list)
    for n, (truth, graph) in enumerate(zip(truths, found, strict=True)):
        if not truth.relations or (compat and not graph.relations):
            continue

        def worth(r: Relation, graph: SceneGraph = graph) -> float:
            return r.confidence * (graph.regions[r.subject].score * graph.regions[r.object].score if product else 1.0)

        ranked = sorted(graph.relations, key=worth, reverse=True)
        if graph_constraint:
            taken, kept = set(), []
            for r in ranked:
                if (r.subject, r.object) not in taken:
                    kept.append(r)
                taken.add((r.subject, r.object))
            ranked = kept
        answers = []
        for r in ranked:
            answers.append(set())
            for g, t in enumerate(truth.relations):
                names = all(
                    truth.regions[a].label == graph.regions[b].label for a, b in ((t.subject, r.subject), (t.object, r.object))
                )
                boxes = all(
                    iou(truth.regions[a].box, graph.regions[b].box, float(compat)) >= 0.5
                    for a, b in ((t.subject, r.subject), (t.object, r.object))
                )
                if names and boxes and t.predicate == r.predicate:
                    answers[-1].add(g)
        for k in ks:
            matched = set().union(*answers[:k])
            recall[k].append(len(matched) / len(truth.relations))
            for predicate in {t.predicate for t in truth.relations}:
                rows = [g for g, t in enumerate(truth.relations) if t.predicate == predicate]
                by_predicate[k, predicate].append(sum(g in matched for g in rows) / len(rows))
            if unseen and any(unseen[n]):
                rows = [g for g, new in enumerate(unseen[n]) if new]
                zero_shot[k].append(sum(g in matched for g in rows) / len(rows))
    scores = {}
    for k in ks:
        scores[f"r@{k}"] = r = float(np.mean(recall[k])) if recall[k] else math.nan
        means = [np.mean(values) for (depth, _), values in by_predicate.items() if depth == k]
        mr = float(sum(means) / (len(PREDICATES) if compat else len(means))) if means or compat else math.nan
        scores[f"mr@{k}"] = mr
        scores[f"f1@{k}"] = 2 * r * mr / (r + mr) if r + mr > 0 else (math.nan if math.isnan(r) else 0.0)
        if unseen:
            scores[f"zr@{k}"] = float(np.mean(zero_shot[k])) if zero_shot[k] else math.nan
    return scores


# ---------------------------------------------------------------- random cases


def random_graph(rng: np.random.Generator, *, tied: bool, like: SceneGraph | None = None) -> SceneGraph:
    """Up to five regions and eight relations; a prediction moves some boxes of the truth and renames some."""
    regions = []
    for n in range(rng.choice([0, 2, 3, 4, 4])):
        if like is not None and n < len(like.regions) and rng.random() < 0.9:
            box = np.array(like.regions[n].box) + rng.integers(-2, 3, 4) * (rng.random() < 0.5)
            label = like.regions[n].label if rng.random() < 0.9 else str(rng.choice(OBJECTS))
        else:
            x, y = rng.integers(0, 10, 2)
            box, label = np.array([x, y, x + rng.integers(3, 10), y + rng.integers(3, 10)]), str(rng.choice(OBJECTS))
        if box[2] > box[0] and box[3] > box[1]:
            regions.append(Region(tuple(map(float, box)), label, score=float(rng.random())))
    relations = []
    if len(regions) > 1:
        for _ in range(rng.integers(0, 9)):
            subject, other = rng.choice(len(regions), 2, replace=False)
            score = rng.integers(1, 4) / 4 if tied else rng.random()
            relations.append(Relation(int(subject), str(rng.choice(PREDICATES)), int(other), float(score)))
        if like is not None:
            kept = [r for r in like.relations if max(r.subject, r.object) < len(regions) and rng.random() < 0.8]
            for r in kept:
                score = rng.integers(1, 4) / 4 if tied else rng.random()
                relations.append(Relation(r.subject, r.predicate, r.object, float(score)))
    return SceneGraph(tuple(regions), tuple(relations))


def random_case(rng: np.random.Generator, images: int, *, tied: bool) -> tuple[list[SceneGraph], list[SceneGraph]]:
    truths = [random_graph(rng, tied=False) for _ in range(images)]
    return truths, [random_graph(rng, tied=tied, like=truth) for truth in truths]


def table(truths: list[SceneGraph], found: list[SceneGraph]) -> Any:
    made = records([str(n) for n in range(len(truths))], truths, found)
    return with_facts(made, objects_asked=list(OBJECTS), predicates_asked=list(PREDICATES))


def agree(sets: int, seed: int, compat: Any, tied: bool) -> None:
    """Sets of 1 to 8 images: without regions, relations or predictions; overlaps at .5; doubled relations; tied scores."""
    rng = np.random.default_rng([seed, tied, bool(compat)])
    task = VG150(ks=KS, compat=compat, ties="index" if tied else "expected", draws=0)
    several, nothing, met = 0, 0, Counter[str]()
    for _ in range(sets):
        truths, found = random_case(rng, int(rng.integers(1, 9)), tied=tied)
        if not any(truth.relations for truth in truths):
            nothing += 1
            with pytest.raises(DataError, match="no image has a true relation"):
                task.score(table(truths, found))
            continue
        seen = {t for t in itertools.product(OBJECTS, PREDICATES, OBJECTS) if rng.random() < 0.7}
        unseen = [[t not in seen for t in truth.triplets()] for truth in truths]
        metrics = task.score(with_unseen(table(truths, found), seen)).metrics
        for prefix, constraint in (("", True), ("ng_", False)):
            want = published(truths, found, KS, graph_constraint=constraint, compat=bool(compat), unseen=unseen)
            for name, value in want.items():
                assert metrics[prefix + name].value == pytest.approx(value, abs=1e-12, nan_ok=True), (prefix, name)
        several += 0 < want["r@2"] < 1
        for truth, graph in zip(truths, found, strict=True):
            met["no regions"] += not truth.regions
            met["regions, no relations"] += bool(truth.regions) and not truth.relations
            met["relations, no prediction"] += bool(truth.relations) and not graph.relations
    assert several > sets / 5
    assert nothing > 0
    assert all(met[kind] > sets / 20 for kind in ("no regions", "regions, no relations", "relations, no prediction")), met


SETTINGS = pytest.mark.parametrize(("compat", "tied"), [("", False), ("", True), ("published", False), ("published", True)])


@SETTINGS
def test_equals_plain_loops(compat: Any, tied: bool) -> None:
    agree(120, 0, compat, tied)


@pytest.mark.slow
@SETTINGS
def test_equals_plain_loops_on_many_more_sets(compat: Any, tied: bool) -> None:
    agree(2000, 1, compat, tied)


def test_product_ranking_multiplies_the_scores_of_both_regions() -> None:
    rng = np.random.default_rng(5)
    truths, found = random_case(rng, 60, tied=False)
    metrics = VG150(ks=KS, ranking="product", draws=0).score(table(truths, found)).metrics
    want = published(truths, found, KS, graph_constraint=True, product=True)
    assert {name: metrics[name].value for name in want} == pytest.approx(want)
    plain = published(truths, found, KS, graph_constraint=True)
    assert plain != pytest.approx(want)


def test_expected_ties_are_the_mean_over_all_orders() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        truth = random_graph(rng, tied=False)
        graph = random_graph(rng, tied=True, like=truth)
        graph = SceneGraph(graph.regions, graph.relations[:5])
        if not truth.relations:
            continue
        metrics = VG150(ks=KS, draws=0).score(table([truth], [graph])).metrics
        orders = [SceneGraph(graph.regions, order) for order in itertools.permutations(graph.relations)]
        for k in KS:
            mean = np.mean([published([truth], [o], KS, graph_constraint=False)[f"r@{k}"] for o in orders])
            assert metrics[f"ng_r@{k}"].value == pytest.approx(mean)


# ---------------------------------------------------------------- by hand

TRUTH = SceneGraph(
    (Region((0, 0, 10, 10), "cat"), Region((20, 0, 30, 10), "cup")), (Relation(0, "near", 1), Relation(1, "near", 0))
)


def test_three_predictions_by_hand() -> None:
    """Right, wrong, right: half of two relations at 1, all at 3."""
    graph = SceneGraph(TRUTH.regions, (Relation(0, "near", 1, 0.9), Relation(0, "on", 1, 0.8), Relation(1, "near", 0, 0.7)))
    metrics = VG150(ks=(1, 3), draws=0).score(table([TRUTH], [graph])).metrics
    assert (metrics["r@1"].value, metrics["r@3"].value) == (0.5, 1.0)


def test_graph_constraint_caps_two_predicates_on_one_pair() -> None:
    truth = SceneGraph(TRUTH.regions, (Relation(0, "near", 1), Relation(0, "on", 1)))
    graph = SceneGraph(TRUTH.regions, (Relation(0, "near", 1, 0.9), Relation(0, "on", 1, 0.8)))
    metrics = VG150(ks=(50,), draws=0).score(table([truth], [graph])).metrics
    assert (metrics["r@50"].value, metrics["ng_r@50"].value) == (0.5, 1.0)


def test_mean_recall_by_hand() -> None:
    """`near` is found in one of its two images, `on` is found: (1/2 + 1) / 2; images weigh 1 and 1/2 in r."""
    other = SceneGraph(TRUTH.regions, (Relation(0, "near", 1), Relation(0, "on", 1)))
    graph = SceneGraph(TRUTH.regions, (Relation(0, "near", 1, 0.9), Relation(1, "near", 0, 0.8)))
    second = SceneGraph(TRUTH.regions, (Relation(0, "on", 1, 0.9),))
    result = VG150(ks=(50,), draws=0).score(table([TRUTH, other], [graph, second]))
    assert result.metrics["mr@50"].value == pytest.approx(0.75)
    assert result.metrics["r@50"].value == pytest.approx(0.75)
    assert result.notes["by_predicate"] == {"on": 1.0, "near": 0.5}


def test_an_image_without_predictions_counts_as_zero_unless_published_habits_are_asked_for() -> None:
    both = table([TRUTH, TRUTH], [TRUTH, SceneGraph()])
    result = VG150(ks=(50,), draws=0).score(both)
    assert result.metrics["r@50"].value == 0.5
    assert result.notes["images_without_prediction"] == 1
    assert VG150(ks=(50,), draws=0, compat="published").score(both).metrics["r@50"].value == 1.0


def test_without_any_prediction_published_mean_recall_is_zero_and_recall_undefined() -> None:
    """As VL-Group/PENET's scorer prints it: a mean over no image beside a mean over predicates of none."""
    truth = SceneGraph((Region((0, 0, 9, 9), "cat"), Region((5, 5, 9, 9), "cup")), (Relation(0, "on", 1),))
    table = with_facts(records(["a"], [truth], [SceneGraph()]), objects_asked=["cat", "cup"], predicates_asked=["on"])
    ours, theirs = (VG150(compat=compat, draws=0).score(table).metrics for compat in ("", "published"))  # type: ignore[arg-type]
    assert [ours[name].value for name in ("r@50", "mr@50", "ng_mr@50")] == [0, 0, 0]
    assert math.isnan(theirs["r@50"].value)
    assert [theirs[name].value for name in ("mr@50", "ng_mr@50")] == [0, 0]


def test_published_overlaps_count_the_last_pixel_in() -> None:
    """Boxes of 4 x 4, one moved so far that 10 of 22 pixels (45 %) are shared, or 5 x 5 with 18 of 32 (56 %) when edges count."""
    truth = SceneGraph((Region((0, 0, 4, 4), "cat"), Region((9, 9, 20, 20), "cup")), (Relation(0, "on", 1),))
    moved = SceneGraph((Region((1.5, 0, 5.5, 4), "cat"), truth.regions[1]), truth.relations)
    assert iou((0, 0, 4, 4), (1.5, 0, 5.5, 4)) < 0.5 < iou((0, 0, 4, 4), (1.5, 0, 5.5, 4), 1.0)
    assert VG150(ks=(50,), draws=0).score(table([truth], [moved])).value == 0.0
    assert VG150(ks=(50,), draws=0, compat="published").score(table([truth], [moved])).value == 1.0


# ---------------------------------------------------------------- relation NMS


def test_predicate_nms_gives_near_duplicates_different_predicates() -> None:
    """Two boxes on one cat: the second pair may not say `on` again; a far pair may."""
    regions = (
        Region((0, 0, 10, 10), "cat"),
        Region((0, 0, 10, 9), "cat"),
        Region((20, 0, 30, 10), "cup"),
        Region((50, 50, 60, 60), "cat"),
    )
    said = [(0, "on", 2, 0.9), (0, "near", 2, 0.3), (1, "on", 2, 0.8), (1, "near", 2, 0.4), (3, "on", 2, 0.7), (3, "has", 2, 0.1)]
    graph = SceneGraph(regions, tuple(Relation(*each) for each in said))
    found = GraphArrays.of(table([graph], [graph]), "prediction", objects=OBJECTS, predicates=PREDICATES)
    assert predicate_nms(found).tolist() == [True, False, False, True, True, False]


def test_predicate_nms_equals_plain_loops() -> None:
    rng = np.random.default_rng(8)
    changed = 0
    for _ in range(150):
        graph = _doubled(random_graph(rng, tied=False), rng)
        found = GraphArrays.of(table([graph], [graph]), "prediction", objects=OBJECTS, predicates=PREDICATES)
        kept = predicate_nms(found)
        want = _settle(graph)
        assert set(np.flatnonzero(kept).tolist()) == want
        order = sorted(range(len(graph.relations)), key=lambda n: -graph.relations[n].confidence)
        best: dict[tuple[int, int], int] = {}
        for n in order:
            best.setdefault((graph.relations[n].subject, graph.relations[n].object), n)
        changed += want != set(best.values())
    assert changed > 5


@pytest.mark.parametrize("compat", ["", "published"])
def test_relation_nms_in_the_whole_score_equals_plain_loops(compat: Any) -> None:
    """Settled in loops, then ranked by predicate x subject x object; as published by predicate x subject x subject, and what keeps no
    predicate by what is left of 1."""
    rng = np.random.default_rng(9)
    differ = 0
    for _ in range(120):
        truth = random_graph(rng, tied=False)
        graph = _doubled(random_graph(rng, tied=False, like=truth), rng)
        if not truth.relations:
            continue
        won = _settle(graph, float(bool(compat)), alike=not compat)
        rows = [(n, graph.relations[n]) for n in won] + (_silenced(graph, won) if compat else [])
        left = [r for _, r in sorted(rows, key=lambda row: row[0])]

        def worth(r: Relation, graph: SceneGraph = graph) -> float:
            other = graph.regions[r.subject if compat else r.object].score
            return r.confidence * graph.regions[r.subject].score * other

        ranked = SceneGraph(graph.regions, tuple(replace(r, confidence=worth(r)) for r in left))
        want = published([truth], [ranked], KS, graph_constraint=True, compat=bool(compat))
        task = VG150(ks=KS, draws=0, relation_nms=True, ranking="product", compat=compat)
        metrics = task.score(table([truth], [graph])).metrics
        plain = VG150(ks=KS, draws=0, ranking="product", compat=compat).score(table([truth], [graph])).metrics
        for name, value in want.items():
            assert metrics[name].value == pytest.approx(value, abs=1e-12, nan_ok=True), name
            differ += plain[name].value != metrics[name].value
    assert differ > 5


def _doubled(graph: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    """Every region twice, the second a little larger, and every relation once for each."""
    regions = [*graph.regions, *(Region((*r.box[:3], r.box[3] + 1.0), r.label, score=float(rng.random())) for r in graph.regions)]
    more = [(r.subject + n, r.predicate, r.object + n) for r in graph.relations for n in (0, len(graph.regions))]
    return SceneGraph(tuple(regions), tuple(Relation(*each, float(rng.random())) for each in more))


def _silenced(graph: SceneGraph, won: set[int]) -> list[tuple[int, Relation]]:
    """Pairs that keep no predicate: the last row of each, as a relation that no truth has."""
    share: dict[tuple[int, int], dict[str, tuple[float, int]]] = defaultdict(dict)
    for n, r in enumerate(graph.relations):
        best = share[r.subject, r.object].get(r.predicate, (-1.0, -1))
        share[r.subject, r.object][r.predicate] = max(best, (r.confidence, n))
    kept = {(graph.relations[n].subject, graph.relations[n].object) for n in won}
    return [
        (max(n for _, n in each.values()), Relation(i, "nothing", j, max(0.0, 1 - sum(p for p, _ in each.values()))))
        for (i, j), each in share.items()
        if (i, j) not in kept
    ]


def _settle(graph: SceneGraph, extra: float = 0.0, *, alike: bool = True) -> set[int]:
    left = dict(enumerate(graph.relations))
    share: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for r in graph.relations:
        pair = (r.subject, r.object)
        share[pair][r.predicate] = max(r.confidence, share[pair].get(r.predicate, 0.0))
    won = set()
    while left:
        n = max(left, key=lambda n: left[n].confidence)
        winner = left[n]
        won.add(n)
        pair = (winner.subject, winner.object)

        def closed(r: Relation, winner: Relation = winner, pair: tuple[int, int] = pair) -> bool:
            if (r.subject, r.object) == pair:
                return True
            ends = ((winner.subject, r.subject), (winner.object, r.object))
            names = all(graph.regions[a].label == graph.regions[b].label for a, b in ends)
            close = all(iou(graph.regions[a].box, graph.regions[b].box, extra) >= 0.6 for a, b in ends)
            one, two = share[pair], share[r.subject, r.object]
            like = not alike or sum(math.hypot(one.get(p, 0.0), two.get(p, 0.0)) for p in PREDICATES) > 0.7
            return r.predicate == winner.predicate and names and close and like

        left = {m: r for m, r in left.items() if not closed(r)}
    return won
