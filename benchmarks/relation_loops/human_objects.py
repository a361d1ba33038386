"""The published scorers of human-object interaction as direct loops: image by image, box by box, triplet by triplet.

Rows are the records as Python dicts. What `relation_scoring` runs against; structured as the scorers that QPIC, CDN and RLIP share
(HICO-DET) and as the one that V-COCO came with, without their faults. Both edge pixels of a box count.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import numpy as np

from diptych.data.vocabularies import vocabulary

Row = dict[str, Any]
Triplet = tuple[str, str, str]
TOP = 100


def overlap(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
    high = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - both)


# ---------------------------------------------------------------- HICO-DET


def hico_det_triplets_loop(relation_QR: Any, object_Q: Any, name_Q: Any, possible_RC: Any) -> list[tuple[float, int, int]]:
    """One image from scores to its hundred triplets (score, query, relation) as the released scorers make them: a dict for every pair of
    query and relation, impossible ones at score 0, all sorted. `name_Q` is the likeliest object of each query, `object_Q` its score."""
    triplets = []
    for query, (scores, share, name) in enumerate(zip(relation_QR, object_Q, name_Q, strict=True)):
        for relation, score in enumerate(scores):
            worth = float(score * share) * bool(possible_RC[relation, name])
            triplets.append({"score": worth, "query": query, "relation": relation})
    triplets.sort(key=lambda triplet: triplet["score"], reverse=True)
    return [(t["score"], t["query"], t["relation"]) for t in triplets[:TOP] if t["score"] > 0]


def hico_det_loop(rows: list[Row]) -> float:
    """mAP over the classes of the truth by the 11-point rule: the mean of the default and the known-object setting."""
    images = [hico_det_image(row) for row in rows]
    kinds = {truth["kind"] for truths, _ in images for truth in truths}
    judged: dict[Triplet, list[tuple[float, bool]]] = defaultdict(list)
    known: dict[Triplet, list[tuple[float, bool]]] = defaultdict(list)
    positives: dict[Triplet, int] = defaultdict(int)
    for row, (truths, said) in zip(rows, images, strict=True):
        match, share = matched_boxes(row)
        shown = {truth["kind"][2] for truth in truths}
        taken = [False] * len(truths)
        for truth in truths:
            positives[truth["kind"]] += 1
        for triplet in sorted(said, key=lambda triplet: triplet["score"], reverse=True)[:TOP]:
            best, place = 0.0, -1
            subject, thing = triplet["subject"], triplet["object"]
            if subject in match and thing in match:
                for n, truth in enumerate(truths):
                    fits = truth["subject"] in match[subject] and truth["object"] in match[thing]
                    if fits and triplet["predicate"] == truth["predicate"]:
                        smaller = min(share[subject, truth["subject"]], share[thing, truth["object"]])
                        if smaller > best:
                            best, place = smaller, n
            if triplet["kind"] not in kinds:
                continue
            right = place >= 0 and not taken[place]
            if place >= 0:
                taken[place] = True
            judged[triplet["kind"]].append((triplet["score"], right))
            if triplet["kind"][2] in shown:
                known[triplet["kind"]].append((triplet["score"], right))
    each = [statistics.fmean(eleven_points(table[kind], positives[kind]) for kind in kinds) for table in (judged, known)]
    return statistics.fmean(each)


def hico_det_image(row: Row) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """True and predicted triplets of an image as the records that the scorers pass around."""
    sides = []
    for prefix, score in (("truth_", [1.0] * len(row["truth_subject"])), ("", row["confidence"])):
        label = row[f"{prefix}label"]
        ends = (row[f"{prefix}subject"], row[f"{prefix}predicate"], row[f"{prefix}object"])
        triplets = [
            {"subject": s, "predicate": verb, "object": o, "kind": (label[s], verb, label[o]), "score": c}
            for s, verb, o, c in zip(*ends, score, strict=True)
        ]
        sides.append(triplets)
    return sides[0], sides[1]


def matched_boxes(row: Row) -> tuple[dict[int, list[int]], np.ndarray]:
    """For each predicted box the true boxes of its class that overlap by half or more, and all overlaps of equal class."""
    found, truths = (
        [{"bbox": box, "category": label} for box, label in zip(row[f"{side}box"], row[f"{side}label"], strict=True)]
        for side in ("", "truth_")
    )
    share = np.zeros((len(found), len(truths)))
    for n, box in enumerate(found):
        for m, truth in enumerate(truths):
            share[n, m] = class_overlap(box, truth)
    match: dict[int, list[int]] = defaultdict(list)
    for n, m in zip(*np.nonzero(share >= 0.5), strict=True):
        match[int(n)].append(int(m))
    return match, share


def class_overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    return overlap(one["bbox"], other["bbox"]) if one["category"] == other["category"] else 0.0


def eleven_points(judged: list[tuple[float, bool]], positives: int) -> float:
    judged.sort(key=lambda pair: -pair[0])
    found = np.cumsum([hit for _, hit in judged])
    precision = found / np.arange(1, len(found) + 1)
    reached = (precision[10 * found >= step * positives] for step in range(11))
    return sum(values.max() if len(values) else 0.0 for values in reached) / 11


# ---------------------------------------------------------------- V-COCO


def v_coco_loop(rows: list[dict[str, Any]]) -> float:
    """Both scenarios and the agents, as in the released scorer: image by image and action by action, with NumPy for the overlaps of a
    prediction with the people of its image."""
    known = vocabulary("v-coco").roles
    judged: dict[Any, list[tuple[float, bool]]] = defaultdict(list)
    positives: dict[str, int] = defaultdict(int)
    for row in rows:
        people = [n for n, label in enumerate(row["truth_label"]) if label == "person"]
        truth_box = [[x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)] for x0, y0, x1, y1 in row["truth_box"]]
        does: dict[int, set[str]] = {n: set() for n in people}
        triplets = list(zip(row["truth_subject"], row["truth_predicate"], row["truth_object"], strict=True))
        for s, role, _ in triplets:
            does[s].add(role.rpartition(" ")[0])
        every: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
        for s, role, o in triplets:
            every[s, role].append(truth_box[o])
        for n in people:
            for action in does[n]:
                positives[action] += 1
        person_box = np.array([truth_box[n] for n in people], float).reshape(-1, 4)
        said: dict[str, list[Any]] = defaultdict(list)
        for score, s, role, o in zip(row["confidence"], row["subject"], row["predicate"], row["object"], strict=True):
            said[role].append((score, row["box"][s], row["box"][o]))
        agents: dict[str, dict[int, float]] = defaultdict(dict)
        for score, s, role in zip(row["confidence"], row["subject"], row["predicate"], strict=True):
            action = role.rpartition(" ")[0]
            agents[action][s] = max(score, agents[action].get(s, 0.0))
        for action, roles in known.items():
            for role in (f"{action} {role}" for role in roles):
                for scenario in (1, 2):
                    covered = set()
                    for score, subject, thing in sorted(said[role], key=lambda p: -p[0]):
                        place, share = nearest(person_box, subject)
                        right = action in does[people[place]] and share >= 0.5
                        wanted = every.get((people[place], role))
                        fits = max(overlap(box, thing) for box in wanted) >= 0.5 if wanted else scenario == 2
                        right = right and fits
                        judged[scenario, role].append((score, right and place not in covered))
                        if right:
                            covered.add(place)
            covered = set()
            for s, score in sorted(agents[action].items(), key=lambda p: -p[1]):
                place, share = nearest(person_box, row["box"][s])
                right = action in does[people[place]] and share >= 0.5
                judged["agent", action].append((score, right and place not in covered))
                if right:
                    covered.add(place)
    ap = {
        kind: area(rows, positives[kind[1] if kind[0] == "agent" else kind[1].rpartition(" ")[0]])
        for kind, rows in judged.items()
    }
    return statistics.fmean(value for kind, value in ap.items() if kind[0] == 1 and kind[1] != "point instr")


def nearest(person_N4: np.ndarray, box: list[float]) -> tuple[int, float]:
    low = np.maximum(person_N4[:, :2], box[:2])
    side = np.maximum(np.minimum(person_N4[:, 2:], box[2:]) - low + 1, 0.0)
    both = side[:, 0] * side[:, 1]
    size = (person_N4[:, 2] - person_N4[:, 0] + 1) * (person_N4[:, 3] - person_N4[:, 1] + 1)
    share = both / (size + (box[2] - box[0] + 1) * (box[3] - box[1] + 1) - both)
    place = int(share.argmax())
    return place, float(share[place])


def area(judged: list[tuple[float, bool]], positives: int) -> float:
    judged.sort(key=lambda pair: -pair[0])
    found = np.cumsum([hit for _, hit in judged])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(found, prepend=0) / positives * envelope).sum())
