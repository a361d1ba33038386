"""V-COCO scoring against the published procedure in plain loops, against hand-made cases, and through planted detectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from interactions import Planted, changed, naive_ap, naive_iou, pool_of

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Box, Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.vocabularies import vocabulary
from diptych.tasks import find
from diptych.tasks.evaluate import evaluate, rescore
from diptych.tasks.relations.graph_records import records
from diptych.tasks.relations.v_coco import VCoco
from diptych.tasks.relations.v_coco_people import with_annotated
from diptych.tasks.relations.v_coco_triplets import VCocoTriplets

ROLES = vocabulary("v-coco").roles
NOTHING: Box = (0.0, 0.0, 0.0, 0.0)
NAMES = vocabulary("v-coco").predicates
USED = ("hit instr", "hit obj", "stand", "point instr", "ride instr")
Case = tuple[list[SceneGraph], list[SceneGraph]]


# ---------------------------------------------------------------- the published procedure, in loops


@dataclass
class Person:
    """As the published files have a person: the actions (None: nobody annotated it), and the boxes that play each role."""

    box: Box
    actions: set[str] | None
    roles: dict[str, list[Box]]


def people_of(graph: SceneGraph, annotated: Sequence[bool], edge: float) -> list[Person]:
    """True boxes end on their last pixel where both edge pixels count."""

    def last_pixel(box: Box) -> Box:
        return (box[0], box[1], box[0] + max(0, box[2] - box[0] - edge), box[1] + max(0, box[3] - box[1] - edge))

    people = []
    for n, region in enumerate(graph.regions):
        if region.label != "person":
            continue
        mine = [r for r in graph.relations if r.subject == n]
        roles: dict[str, list[Box]] = {}
        for relation in mine:
            if relation.object != n:
                roles.setdefault(relation.predicate, []).append(last_pixel(graph.regions[relation.object].box))
        actions = {action for action in ROLES if any(r.predicate in named(action) for r in mine)}
        people.append(Person(last_pixel(region.box), actions if annotated[n] else None, roles))
    return people


def named(action: str) -> list[str]:
    return [f"{action} {role}" for role in ROLES[action]] or [action]


def judge(
    task: VCoco, people: list[list[Person]], rows: list[Any], action: str, role: str | None, scenario: int
) -> list[tuple[float, bool]]:
    """`rows`: (score, image, person box, role box) of one action and role over all images."""
    edge = 1.0 if task.iou == "inclusive" else 0.0
    covered, judged = set(), []
    for score, image, person_box, role_box in sorted(rows, key=lambda row: -row[0]):
        shares = [naive_iou(p.box, person_box, edge) for p in people[image]]
        place = int(np.argmax(shares)) if shares else -1
        if place >= 0 and people[image][place].actions is None:
            continue
        right = place >= 0 and action in (people[image][place].actions or ()) and shares[place] >= 0.5
        if right and role is not None:
            wanted = people[image][place].roles.get(f"{action} {role}", [])
            if wanted:
                right = role_box != NOTHING and max(naive_iou(w, role_box, edge) for w in wanted) >= 0.5
            else:
                right = scenario == 2 or role_box == NOTHING
        judged.append((score, right and (image, place) not in covered))
        if right:
            covered.add((image, place))
    return judged


def naive_scores(
    task: VCoco, truths: Sequence[SceneGraph], found: Sequence[SceneGraph], annotated: Sequence[Sequence[bool]]
) -> dict[str, float]:
    edge = 1.0 if task.iou == "inclusive" else 0.0
    people = [people_of(graph, looked_at, edge) for graph, looked_at in zip(truths, annotated, strict=True)]
    ap: dict[str, dict[str, float]] = {"scenario_1": {}, "scenario_2": {}, "agent": {}}
    for action, roles in ROLES.items():
        positives = sum(action in (person.actions or ()) for each in people for person in each)
        if not positives:
            continue
        agents: dict[tuple[int, int], float] = {}
        for image, graph in enumerate(found):
            for r in graph.relations:
                if r.predicate in named(action) and graph.regions[r.subject].label == "person":
                    agents[image, r.subject] = max(agents.get((image, r.subject), -1.0), r.confidence)
        rows = [(score, image, found[image].regions[n].box, NOTHING) for (image, n), score in sorted(agents.items())]
        ap["agent"][action] = naive_ap(judge(task, people, rows, action, None, 0), positives, task.ap, task.ties)
        for role in roles:
            rows = [
                (r.confidence, image, g.regions[r.subject].box, NOTHING if r.subject == r.object else g.regions[r.object].box)
                for image, g in enumerate(found)
                for r in g.relations
                if r.predicate == f"{action} {role}" and g.regions[r.subject].label == "person"
            ]
            for scenario in (1, 2):
                judged = judge(task, people, rows, action, role, scenario)
                ap[f"scenario_{scenario}"][f"{action} {role}"] = naive_ap(judged, positives, task.ap, task.ties)
    result = {"agent": mean(ap["agent"].values())}
    for name in ("scenario_1", "scenario_2"):
        result[name] = mean(value for role, value in ap[name].items() if role != "point instr")
        result[f"{name}_25"] = mean(ap[name].values())
    return result


def mean(values: Any) -> float:
    each = list(values)
    return sum(each) / len(each) if each else math.nan


# ---------------------------------------------------------------- random cases


def random_case(rng: np.random.Generator) -> Case:
    """Up to four images on a coarse grid: overlaps of one half, equal scores, nobody, nothing said, nothing there all occur."""
    truths, found = [], []
    for _ in range(int(rng.integers(1, 5))):
        truth = SceneGraph() if rng.random() < 0.15 else random_graph(rng, [])
        truth = SceneGraph(truth.regions) if rng.random() < 0.1 else truth
        truths.append(truth)
        found.append(SceneGraph() if rng.random() < 0.15 else random_graph(rng, list(truth.regions)))
    return truths, found


def random_graph(rng: np.random.Generator, near: list[Region]) -> SceneGraph:
    corner, size = rng.integers(0, 5, (4, 2)), rng.integers(1, 6, (4, 2))
    regions = [*near]
    for (x, y), (w, h) in zip(corner, size, strict=True):
        label = "person" if rng.random() < 0.6 else "horse"
        regions.append(Region((float(x), float(y), float(x + w), float(y + h)), label))
    count = 12 if near else 4
    ends, role, score = (
        rng.integers(0, len(regions), (count, 2)),
        rng.integers(0, len(USED), count),
        rng.integers(1, 5, count) / 4,
    )
    relations = [
        Relation(int(s), USED[r], int(s if self_loop else o), float(c))
        for (s, o), r, c, self_loop in zip(ends, role, score, rng.random(count) < 0.3, strict=True)
    ]
    return SceneGraph(tuple(regions), tuple(relations))


TASKS = (
    VCoco(draws=0),
    VCoco(draws=0, ties="index"),
    VCoco(draws=0, iou="half_open", ap="11-point"),
)


def agree(cases: int, seed: int) -> None:
    rng, seen = np.random.default_rng(seed), Counter[str]()
    for n in range(cases):
        case, task = random_case(rng), TASKS[n % len(TASKS)]
        annotated = [rng.random(len(graph.regions)) < 0.8 for graph in case[0]]
        table = with_annotated(records([f"u{n}" for n in range(len(case[0]))], *case), [each.tolist() for each in annotated])
        scored = task.score(table)
        for name, value in naive_scores(task, *case, annotated).items():
            assert scored.metrics[name].value == pytest.approx(value, abs=1e-12, nan_ok=True), (n, name, task)
        seen["between"] += 0 < scored.metrics["scenario_1"].value < scored.metrics["scenario_2"].value
        for truth, found, looked_at in zip(*case, annotated, strict=True):
            seen["no objects"] += not truth.regions
            seen["nobody acts"] += bool(truth.regions) and not truth.relations
            seen["no detections"] += not found.regions
            seen["somebody is ignored"] += any(
                r.label == "person" and not looked for r, looked in zip(truth.regions, looked_at, strict=True)
            )
    kinds = ("no objects", "nobody acts", "no detections", "somebody is ignored", "between")
    assert all(seen[kind] > cases / 100 for kind in kinds), seen


def test_agrees_with_the_published_procedure_on_random_cases() -> None:
    agree(120, seed=0)


@pytest.mark.slow
def test_agrees_with_the_published_procedure_on_many_more_random_cases() -> None:
    agree(10000, seed=1)


# ---------------------------------------------------------------- as detectors score it in training


def naive_triplets(task: VCocoTriplets, truths: Sequence[SceneGraph], found: Sequence[SceneGraph]) -> dict[str, float]:
    """Box by box and triplet by triplet, as the scorer of the DETR family: sets of matching boxes first, triplets in them next."""
    edge = 1.0 if task.iou == "inclusive" else 0.0
    marks: dict[str, list[tuple[float, bool]]] = {role: [] for role in NAMES}
    positives = Counter(r.predicate for graph in truths for r in graph.relations)
    for truth, graph in zip(truths, found, strict=True):
        match: dict[int, dict[int, float]] = {}
        for n, region in enumerate(graph.regions):
            for m, other in enumerate(truth.regions):
                share = naive_iou(other.box, region.box, edge) if other.label == region.label else 0.0
                if share >= 0.5:
                    match.setdefault(n, {})[m] = share
        taken: set[int] = set()
        for r in sorted(graph.relations, key=lambda r: -r.confidence)[: task.top or None]:
            best, place = 0.0, -1
            for n, t in enumerate(truth.relations):
                subject = match.get(r.subject, {}).get(t.subject, 0.0)
                thing = 0.0 if r.object == r.subject else match.get(r.object, {}).get(t.object, 0.0)
                share = subject if t.object == t.subject else min(subject, thing)
                if t.predicate == r.predicate and share > best:
                    best, place = share, n
            marks[r.predicate].append((r.confidence, place >= 0 and place not in taken))
            taken.add(place)
    ties = "index" if task.compat else task.ties
    each = {
        role: naive_ap(sorted(marks[role], key=lambda mark: -mark[0]), positives[role], task.ap, ties, bool(task.compat))
        for role in NAMES
        if positives[role]
    }
    thesis = [role for role in NAMES if " " in role and role not in ROLES and role != "point instr"]
    return {
        "all": mean(each.values()),
        "thesis": sum(each.get(role, 0.0) for role in thesis) / 24 if task.compat else mean(each[r] for r in thesis if r in each),
    }


TRIPLET_TASKS = (
    VCocoTriplets(draws=0),
    VCocoTriplets(draws=0, compat="published", top=6),
    VCocoTriplets(draws=0, iou="half_open", ap="area", ties="index"),
)


def test_triplets_agree_with_loops_over_boxes_and_triplets() -> None:
    rng, between = np.random.default_rng(4), 0
    for n in range(300):
        case, task = random_case(rng), TRIPLET_TASKS[n % len(TRIPLET_TASKS)]
        scored = task.score(records([f"u{n}" for n in range(len(case[0]))], *case))
        for name, value in naive_triplets(task, *case).items():
            assert scored.metrics[name].value == pytest.approx(value, abs=1e-12, nan_ok=True), (n, name, task)
        between += 0 < scored.metrics["all"].value < 1
    assert between > 75


def test_triplets_are_another_protocol_than_ap_role() -> None:
    """Without an object in the truth any box will do, labels count, and the result says that it is no AP role."""
    truth = SceneGraph((PERSON, BAT), (Relation(0, "ride instr", 0), Relation(0, "kick obj", 1)))
    other = SceneGraph((PERSON, Region(BAT.box, "kite")), (Relation(0, "ride instr", 1, 0.9), Relation(0, "kick obj", 1, 0.9)))
    table = records(["u"], [truth], [other])
    scored = find("v_coco_triplets", draws=0).score(table)
    assert scored.metrics["thesis"].value == pytest.approx(0.5)  # the kite is no bat
    assert VCoco(draws=0).score(table).metrics["scenario_2"].value == 1.0
    assert (scored.notes["scorer"], scored.notes["ap_rule"], scored.notes["relation_nms"]) == (
        "vcoco/triplets",
        "11-point",
        "none",
    )
    assert find("v_coco_triplets", draws=0, compat="published").score(table).metrics["thesis"].value == pytest.approx(1 / 24)
    with pytest.raises(ConfigError, match="compat is 'detr'"):
        VCocoTriplets(compat="detr")  # type: ignore[arg-type]


# ---------------------------------------------------------------- hand-made cases

PERSON = Region((0, 0, 9, 19), "person")
BAT, BALL = Region((10, 0, 29, 9), "baseball bat"), Region((40, 40, 49, 49), "sports ball")


def metrics(truth: SceneGraph, found: SceneGraph, **options: Any) -> dict[str, float]:
    scored = VCoco(draws=0, **options).score(records(["u"], [truth], [found]))
    return {name: metric.value for name, metric in scored.metrics.items()}


def test_an_object_that_is_not_in_the_picture_divides_the_scenarios() -> None:
    truth = SceneGraph((PERSON,), (Relation(0, "ride instr", 0),))
    with_box = SceneGraph((PERSON, BAT), (Relation(0, "ride instr", 1, 0.9),))
    without = SceneGraph((PERSON,), (Relation(0, "ride instr", 0, 0.9),))
    assert (metrics(truth, with_box)["scenario_1"], metrics(truth, with_box)["scenario_2"]) == (0.0, 1.0)
    assert (metrics(truth, without)["scenario_1"], metrics(truth, without)["scenario_2"]) == (1.0, 1.0)
    assert metrics(truth, with_box)["agent"] == 1.0


def test_swapped_roles_are_wrong() -> None:
    regions = (PERSON, BAT, BALL)
    truth = SceneGraph(regions, (Relation(0, "hit instr", 1), Relation(0, "hit obj", 2)))
    swapped = SceneGraph(regions, (Relation(0, "hit obj", 1, 0.9), Relation(0, "hit instr", 2, 0.9)))
    assert metrics(truth, truth)["scenario_1"] == 1.0
    assert metrics(truth, swapped)["scenario_1"] == metrics(truth, swapped)["scenario_2"] == 0.0
    assert metrics(truth, swapped)["agent"] == 1.0


def test_a_second_role_counts_the_person_also_where_only_the_first_is_there() -> None:
    truth = SceneGraph((PERSON, BAT), (Relation(0, "hit instr", 1),))
    found = SceneGraph((PERSON, BAT), (Relation(0, "hit instr", 1, 0.9),))
    assert metrics(truth, found)["scenario_1"] == pytest.approx(0.5)  # "hit obj" has one person and no prediction


def test_what_goes_to_people_whom_nobody_annotated_does_not_count() -> None:
    other = Region((50, 0, 59, 19), "person")
    truth = SceneGraph((PERSON, BAT, other), (Relation(0, "kick obj", 1),))
    found = SceneGraph((PERSON, BAT, other), (Relation(2, "kick obj", 1, 0.9), Relation(0, "kick obj", 1, 0.5)))
    pools = {
        seen: Pool.from_samples(
            [
                Sample(
                    "u",
                    BytesImage(b"", "0"),
                    regions=truth.regions,
                    relations=truth.relations,
                    extras={"annotated": [True, False, seen]},
                )
            ]
        )
        for seen in (True, False)
    }
    assert evaluate(VCoco(), Planted([found]), pools[False]).value == 1.0
    result = evaluate(VCoco(), Planted([found]), pools[True])  # looked at, and does nothing
    assert result.value == metrics(truth, found)["scenario_1"] == pytest.approx(0.5)
    assert (result.notes["people"], result.notes["people_ignored"]) == (2, 0)
    with pytest.raises(DataError, match="row 0, field 'annotated': u has 1 values for 3 boxes"):
        VCoco().score(with_annotated(records(["u"], [truth], [found]), [[True]]))


def test_a_true_box_ends_on_its_last_pixel_where_both_edges_count() -> None:
    truth = SceneGraph((PERSON, Region((0, 0, 10, 10), "kite")), (Relation(0, "kick obj", 1),))  # 10 x 10 pixels
    found = SceneGraph((PERSON, Region((0, 0, 19, 9), "kite")), (Relation(0, "kick obj", 1, 0.9),))  # 20 x 10 with both edges
    assert metrics(truth, found)["scenario_1"] == 1.0
    assert metrics(truth, found, iou="half_open")["scenario_1"] == 0.0  # 90 of 181


def test_an_image_without_a_true_person_holds_false_positives() -> None:
    truth = SceneGraph((PERSON, BAT), (Relation(0, "kick obj", 1),))
    said = SceneGraph((PERSON, BAT), (Relation(0, "kick obj", 1, 0.5),))
    louder = SceneGraph((PERSON, BAT), (Relation(0, "kick obj", 1, 0.9),))
    scored = VCoco(draws=0).score(records(["a", "b"], [truth, SceneGraph()], [said, louder]))
    assert scored.value == pytest.approx(0.5)


def test_point_is_left_out_of_the_24_and_nms_removes_doubles() -> None:
    truth = SceneGraph((PERSON, BAT), (Relation(0, "point instr", 1), Relation(0, "kick obj", 1)))
    found = SceneGraph((PERSON, BAT), (Relation(0, "kick obj", 1, 0.9),))
    scored = metrics(truth, found)
    assert (scored["scenario_1"], scored["scenario_1_25"]) == (1.0, pytest.approx(0.5))
    second = Region((60, 60, 69, 79), "person")
    both = SceneGraph((PERSON, BAT, second), (Relation(0, "kick obj", 1), Relation(2, "kick obj", 1)))
    doubled = SceneGraph(
        (PERSON, BAT, second), (Relation(0, "kick obj", 1, 0.9), Relation(0, "kick obj", 1, 0.8), Relation(2, "kick obj", 1, 0.7))
    )
    assert metrics(both, doubled)["scenario_1"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics(both, doubled, nms=0.7)["scenario_1"] == 1.0


# ---------------------------------------------------------------- whole evaluations


def many(count: int, seed: int) -> list[SceneGraph]:
    rng, names = np.random.default_rng(seed), vocabulary("v-coco").predicates
    graphs = []
    for _ in range(count):
        x, y = rng.integers(0, 100, 2).astype(float)
        regions = (Region((x, y, x + 30, y + 60), "person"), Region((x + 20, y + 20, x + 70, y + 60), "kite"))
        relations = []
        for role in rng.choice(names, 2, replace=False):
            alone = " " not in role or rng.random() < 0.2
            relations.append(Relation(0, str(role), 0 if alone else 1))
        graphs.append(SceneGraph(regions, tuple(relations)))
    return graphs


def test_planted_detectors_come_out_in_order(tmp_path: Any) -> None:
    truth = many(150, seed=3)
    truth = [SceneGraph(g.regions, (*g.relations, *second_roles(g))) for g in truth]
    data = pool_of(truth)
    detectors = [Planted(changed(truth, share, seed=4, predicates=NAMES)) for share in (0.0, 0.3, 1.0)]
    results = [evaluate(find("v-coco"), detector, data, out=tmp_path) for detector in detectors]
    assert {(len(objects), len(relations)) for each in detectors for objects, relations in each.asked} == {(81, 29)}
    first = [result.value for result in results]
    assert first[0] == 1.0
    assert first[0] > first[1] > first[2]
    assert first[2] < 0.3
    assert all(r.metrics["scenario_2"].value >= r.metrics["scenario_1"].value for r in results)
    span = results[1].metrics["scenario_1"]
    assert span.low < span.value < span.high
    notes = results[1].notes
    assert (notes["scorer"], notes["ap_rule"], notes["relation_nms"]) == ("vcoco/official", "area", "none")
    assert rescore(VCoco(), tmp_path / "v_coco-graphs.parquet").to_json() == results[2].to_json()


def second_roles(graph: SceneGraph) -> list[Relation]:
    """Whoever hits, eats or cuts is asked for both roles: the missing one has no object."""
    said = {relation.predicate for relation in graph.relations}
    both = [(f"{a} {x}", f"{a} {y}") for a, roles in ROLES.items() if len(roles) == 2 for x, y in (roles, roles[::-1])]
    return [Relation(0, other, 0) for one, other in both if one in said and other not in said]


def test_refuses_what_cannot_be_scored_and_survives_emptiness() -> None:
    strange = SceneGraph((PERSON, BAT), (Relation(0, "hit", 1),))
    with pytest.raises(DataError, match="row 0, field 'relations': 'hit' is not an action-role of V-COCO"):
        evaluate(VCoco(), Planted([strange]), pool_of([strange]))
    with pytest.raises(DataError, match="unknown name 'hit' in u"):
        metrics(SceneGraph(), strange)
    with pytest.raises(ConfigError, match="ap is 'voc'"):
        VCoco(ap="voc")  # type: ignore[arg-type]
    assert math.isnan(metrics(SceneGraph(), SceneGraph())["scenario_1"])
    assert metrics(SceneGraph((PERSON, BAT), (Relation(0, "kick obj", 1),)), SceneGraph())["scenario_1"] == 0.0
