"""The procedures of the released scene-graph scorers: a loop over images, NumPy within an image. What `relation_scoring` times against.

Step by step what those do, in our words: every prediction compared with every truth of its image, sets of matched truths united for
each K anew, detections judged one by one. `scene_graphs` has the leanest loops that we could write for the same numbers. Rows
are the records as Python dicts; boxes are half-open, so that all come to the same number.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from functools import reduce
from typing import Any

import numpy as np
from relation_loops.scene_graphs import area, around, eleven_points, overlap

Row = dict[str, Any]


def overlaps(one_4: np.ndarray, other_N4: np.ndarray) -> np.ndarray:
    side = np.minimum(one_4[2:], other_N4[:, 2:]) - np.maximum(one_4[:2], other_N4[:, :2])
    both = np.clip(side, 0, None).prod(axis=1)
    sizes = (one_4[2:] - one_4[:2]).prod() + (other_N4[:, 2:] - other_N4[:, :2]).prod(axis=1)
    return both / (sizes - both)


class Image:
    """Triplets of names [N, 3] and of boxes [N, 8], truth and prediction, the prediction best first."""

    def __init__(self, row: Row, codes: dict[str, int], predicates_a_pair: int) -> None:
        self.truth, self.truth_box = self.triplets(row, "truth_", codes)
        names, boxes = self.triplets(row, "", codes)
        score = np.array(row["confidence"])
        used: dict[tuple[int, int], int] = defaultdict(int)
        kept = []
        for n in np.argsort(-score, kind="stable"):
            pair = row["subject"][n], row["object"][n]
            used[pair] += 1
            if used[pair] <= predicates_a_pair:
                kept.append(n)
        self.said, self.said_box, self.score = names[kept], boxes[kept], score[kept]

    def triplets(self, row: Row, prefix: str, codes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        label = np.array([codes[name] for name in row[f"{prefix}label"]])
        box = np.array(row[f"{prefix}box"])
        s, o = np.array(row[f"{prefix}subject"]), np.array(row[f"{prefix}object"])
        predicate = np.array([codes[name] for name in row[f"{prefix}predicate"]])
        return np.column_stack([label[s], predicate, label[o]]), np.column_stack([box[s], box[o]])

    def answers(self, most: int) -> list[list[int]]:
        """For each prediction the truths that it matches."""
        said = self.said[:most]
        equal = (self.truth[:, None] == said[None]).all(axis=2)
        answers: list[list[int]] = [[] for _ in said]
        for n in np.flatnonzero(equal.any(axis=1)):
            some = np.flatnonzero(equal[n])
            subject = overlaps(self.truth_box[n, :4], self.said_box[some, :4])
            other = overlaps(self.truth_box[n, 4:], self.said_box[some, 4:])
            for place in some[(subject >= 0.5) & (other >= 0.5)]:
                answers[place].append(int(n))
        return answers


def codes_of(rows: list[Row]) -> dict[str, int]:
    names = {name for row in rows for key in ("label", "predicate", "truth_label", "truth_predicate") for name in row[key]}
    return {name: n for n, name in enumerate(sorted(names))}


def vg150(rows: list[Row], ks: tuple[int, ...]) -> float:
    """R@K and mR@K with and without graph constraint; answers the mean recall at the largest K."""
    codes = codes_of(rows)
    recall: dict[Any, list[float]] = defaultdict(list)
    each: dict[Any, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for constraint in (True, False):
            image = Image(row, codes, 1 if constraint else len(row["predicate"]))
            answers = image.answers(max(ks))
            for k in ks:
                matched = reduce(np.union1d, answers[:k])
                recall[constraint, k].append(len(matched) / len(image.truth))
            for k in ks:  # the released mean recall is a scorer of its own and unites anew
                matched = reduce(np.union1d, answers[:k])
                hit: dict[int, int] = defaultdict(int)
                count: dict[int, int] = defaultdict(int)
                for n in range(len(image.truth)):
                    count[int(image.truth[n, 1])] += 1
                for n in matched:
                    hit[int(image.truth[int(n), 1])] += 1
                for predicate, total in count.items():
                    each[constraint, k][predicate].append(hit[predicate] / total)
    means = {key: statistics.fmean(map(statistics.fmean, values.values())) for key, values in each.items()}
    return means[True, max(ks)]


def open_images_predicates(rows: list[Row]) -> float:
    """PySGG's way: recall at several K, detections of each predicate put together, then judged one by one."""
    codes = codes_of(rows)
    images = [Image(row, codes, 2) for row in rows]
    matched, total = 0, 0
    for image in images:
        keep = image.score[:100] > 1e-5
        image.said, image.said_box, image.score = image.said[:100][keep], image.said_box[:100][keep], image.score[:100][keep]
        answers = image.answers(100)
        found = {k: len(reduce(np.union1d, answers[:k])) if answers else 0 for k in (1, 5, 10, 20, 50, 100)}
        matched += found[50]
        total += len(image.truth)
    kinds = sorted({int(kind) for image in images for kind in image.truth[:, 1]})
    score = 0.2 * matched / total
    for kind in kinds:
        detections = [(image.score[d], n, d) for n, image in enumerate(images) for d in np.flatnonzero(image.said[:, 1] == kind)]
        truths = [np.flatnonzero(image.truth[:, 1] == kind) for image in images]
        positives = sum(map(len, truths))
        detections.sort(key=lambda each: -each[0])
        for phrases in (False, True):
            taken: set[tuple[int, int]] = set()
            marks = []
            for value, n, d in detections:
                image, some = images[n], truths[n]
                best, place = 0.0, -1
                if len(some):
                    equal = (image.truth[some][:, [0, 2]] == image.said[d, [0, 2]]).all(axis=1)
                    if equal.any():
                        shares = shares_of(image, some, int(d), phrases) * equal
                        place, best = int(some[shares.argmax()]), float(shares.max())
                right = best > 0.5 and (n, place) not in taken
                if right:
                    taken.add((n, place))
                marks.append((value, right))
            score += 0.4 * area(marks, positives) * positives / total
    return score


def shares_of(image: Image, truths: np.ndarray, d: int, phrases: bool) -> np.ndarray:
    true_box, box = image.truth_box[truths], image.said_box[d]
    if not phrases:
        return np.minimum(overlaps(box[:4], true_box[:, :4]), overlaps(box[4:], true_box[:, 4:]))
    low = np.minimum(true_box[:, :2], true_box[:, 4:6])
    high = np.maximum(true_box[:, 2:4], true_box[:, 6:])
    return overlaps(np.array(around(list(box[:4]), list(box[4:]))), np.concatenate([low, high], axis=1))


def open_images_triplets(rows: list[Row]) -> float:
    """RLIPv2's way, its faults mended: all boxes against all boxes in plain Python, NMS class by class, AP per triplet. Its scorer
    runs a second time with 50 places for recall."""
    score = 0.0
    for places in (100, 50):
        marks: dict[bool, Any] = {False: defaultdict(list), True: defaultdict(list)}
        positives: dict[tuple[str, str, str], int] = defaultdict(int)
        for row in rows:
            label = row["truth_label"]
            for s, name, o in zip(row["truth_subject"], row["truth_predicate"], row["truth_object"], strict=True):
                positives[label[s], name, label[o]] += 1
        for row in rows:
            score_row(row, places, marks, positives)
        total = sum(positives.values())
        if places == 50:
            score += 0.2 * sum(right for each in marks[False].values() for _, right in each) / total
        else:
            for each in marks.values():
                score += 0.4 * sum(eleven_points(each[kind], count) * count for kind, count in positives.items()) / total
    return score


def score_row(row: Row, places: int, marks: dict[bool, Any], positives: dict[tuple[str, str, str], int]) -> None:
    label, box, true_label, true_box = row["label"], row["box"], row["truth_label"], row["truth_box"]
    truths = list(zip(row["truth_subject"], row["truth_predicate"], row["truth_object"], strict=True))
    said = sorted(zip(row["confidence"], row["subject"], row["predicate"], row["object"], strict=True), reverse=True)[:places]
    said = weeded(row, said, phrases=False)
    share = {
        (n, m): overlap(box[n], true_box[m]) if label[n] == true_label[m] else 0.0
        for n in range(len(box))
        for m in range(len(true_box))
    }
    taken = [False] * len(truths)
    for value, s, name, o in said:
        best, place = 0.0, -1
        for n, truth in enumerate(truths):
            both = min(share[s, truth[0]], share[o, truth[2]])
            if name == truth[1] and both >= 0.5 and both > best:
                best, place = both, n
        kind = (label[s], name, label[o])
        if kind in positives:
            marks[False][kind].append((value, place >= 0 and not taken[place]))
        if place >= 0:
            taken[place] = True
    taken = [False] * len(truths)
    around_truth = [around(true_box[s], true_box[o]) for s, _, o in truths]
    for value, s, name, o in weeded(row, said, phrases=True):
        kind, phrase = (label[s], name, label[o]), around(box[s], box[o])
        best, place = 0.0, -1
        for n, truth in enumerate(truths):
            same = kind == (true_label[truth[0]], truth[1], true_label[truth[2]])
            both = overlap(phrase, around_truth[n]) if same else 0.0
            if both >= 0.5 and both > best:
                best, place = both, n
        if kind in positives:
            marks[True][kind].append((value, place >= 0 and not taken[place]))
        if place >= 0:
            taken[place] = True


def weeded(row: Row, said: list[Any], *, phrases: bool) -> list[Any]:
    classes: dict[Any, list[Any]] = defaultdict(list)
    for each in said:
        classes[row["label"][each[1]], each[2], row["label"][each[3]]].append(each)
    kept = []
    for some in classes.values():
        boxes = [np.array([row["box"][each[end]] for each in some]) for end in (1, 3)]
        if phrases:
            low, high = np.minimum(boxes[0][:, :2], boxes[1][:, :2]), np.maximum(boxes[0][:, 2:], boxes[1][:, 2:])
            boxes = [np.concatenate([low, high], axis=1)]
        left = np.arange(len(some))
        while len(left):
            first, rest = left[0], left[1:]
            kept.append(some[first])
            shares = [overlaps(box[first], box[rest]) for box in boxes]
            close = shares[0] > 0.5 if phrases else shares[0] * np.sqrt(shares[1]) > 0.7
            left = rest[~close]
    return sorted(kept, reverse=True)
