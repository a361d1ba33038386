"""The published scorers of scene graphs as direct loops: image by image, triplet by triplet. What `relation_scoring` runs against.

Rows are the records as Python dicts. Boxes are half-open, as ours are, so that both come to the same number.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

Triplet = tuple[float, int, str, int]
Row = dict[str, Any]


def overlap(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def around(a: list[float], b: list[float]) -> list[float]:
    return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]


def ranked(row: Row) -> list[Triplet]:
    said = zip(row["confidence"], row["subject"], row["predicate"], row["object"], strict=True)
    return sorted(said, key=lambda triplet: triplet[0], reverse=True)


def some_a_pair(said: list[Triplet], most: int) -> list[Triplet]:
    """The first few of each pair of boxes."""
    used: dict[tuple[int, int], int] = defaultdict(int)
    kept = []
    for triplet in said:
        pair = triplet[1], triplet[3]
        used[pair] += 1
        if used[pair] <= most:
            kept.append(triplet)
    return kept


def truths_of(row: Row) -> list[tuple[int, str, int]]:
    return list(zip(row["truth_subject"], row["truth_predicate"], row["truth_object"], strict=True))


def names(row: Row, triplet: tuple[Any, ...], prefix: str = "") -> tuple[str, str, str]:
    s, predicate, o = triplet[-3:]
    return row[f"{prefix}label"][s], predicate, row[f"{prefix}label"][o]


def both_overlap(row: Row, truth: tuple[int, str, int], triplet: Triplet) -> float:
    subject = overlap(row["truth_box"][truth[0]], row["box"][triplet[1]])
    return min(subject, overlap(row["truth_box"][truth[2]], row["box"][triplet[3]]))


def phrase_overlap(row: Row, truth: tuple[int, str, int], triplet: Triplet) -> float:
    true_box = around(row["truth_box"][truth[0]], row["truth_box"][truth[2]])
    return overlap(true_box, around(row["box"][triplet[1]], row["box"][triplet[3]]))


# ---------------------------------------------------------------- VG150


def vg150_loop(rows: list[Row], ks: tuple[int, ...]) -> float:
    """R@K and mR@K with and without graph constraint; answers the mean recall at the largest K."""
    recall: dict[Any, list[float]] = defaultdict(list)
    by_predicate: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        truths = truths_of(row)
        true_names = [names(row, truth, "truth_") for truth in truths]
        every = ranked(row)
        for constraint, said in ((True, some_a_pair(every, 1)), (False, every)):
            answers = []
            for triplet in said[: max(ks)]:
                said_names = names(row, triplet)
                fits = [n for n in range(len(truths)) if true_names[n] == said_names]
                answers.append([n for n in fits if both_overlap(row, truths[n], triplet) >= 0.5])
            for k in ks:
                matched = {n for answer in answers[:k] for n in answer}
                recall[constraint, k].append(len(matched) / len(truths))
                hit: dict[str, list[bool]] = defaultdict(list)
                for n, truth in enumerate(truths):
                    hit[truth[1]].append(n in matched)
                for predicate, found in hit.items():
                    by_predicate[constraint, k][predicate].append(sum(found) / len(found))
    means = {key: statistics.fmean(map(statistics.fmean, values.values())) for key, values in by_predicate.items()}
    return means[True, max(ks)]


# ---------------------------------------------------------------- Open Images


def judge(row: Row, said: list[Triplet], share: Callable[..., float], strict: bool) -> list[int]:
    """The truth that each prediction takes, or -1."""
    truths = truths_of(row)
    true_names = [names(row, truth, "truth_") for truth in truths]
    taken = [False] * len(truths)
    takes = []
    for triplet in said:
        said_names = names(row, triplet)
        best, place = 0.0, -1
        for n, truth in enumerate(truths):
            if true_names[n] == said_names:
                value = share(row, truth, triplet)
                if value > best:
                    best, place = value, n
        good = place >= 0 and (best > 0.5 if strict else best >= 0.5) and not taken[place]
        takes.append(place if good else -1)
        if good:
            taken[place] = True
    return takes


def predicates_loop(rows: list[Row]) -> float:
    """The community's scorer: two predicates a pair, 100 triplets an image, AP per predicate, area under the envelope."""
    judged: dict[str, Any] = {"rel": defaultdict(list), "phr": defaultdict(list)}
    positives: dict[str, int] = defaultdict(int)
    matched = 0
    for row in rows:
        truths = truths_of(row)
        for truth in truths:
            positives[truth[1]] += 1
        said = [triplet for triplet in some_a_pair(ranked(row), 2)[:100] if triplet[0] > 1e-5]
        said_names = [names(row, triplet) for triplet in said]
        for truth in truths:
            true_names = names(row, truth, "truth_")
            matched += any(
                said_names[n] == true_names and both_overlap(row, truth, said[n]) >= 0.5 for n in range(min(50, len(said)))
            )
        for short, share in (("rel", both_overlap), ("phr", phrase_overlap)):
            for triplet, take in zip(said, judge(row, said, share, True), strict=True):
                judged[short][triplet[2]].append((triplet[0], take >= 0))
    return weighted(judged, positives, matched, area)


def triplets_loop(rows: list[Row]) -> float:
    """RLIPv2's scorer, its faults mended: NMS of triplets and of phrases, AP per whole triplet, 11 points."""
    judged: dict[str, Any] = {"rel": defaultdict(list), "phr": defaultdict(list)}
    positives: dict[tuple[str, str, str], int] = defaultdict(int)
    matched = 0
    for row in rows:
        for truth in truths_of(row):
            positives[names(row, truth, "truth_")] += 1

    def near(row: Row, a: Triplet, b: Triplet) -> float:
        return overlap(row["box"][a[1]], row["box"][b[1]]) * overlap(row["box"][a[3]], row["box"][b[3]]) ** 0.5

    def near_phrase(row: Row, a: Triplet, b: Triplet) -> float:
        return overlap(around(row["box"][a[1]], row["box"][a[3]]), around(row["box"][b[1]], row["box"][b[3]]))

    for row in rows:
        every = ranked(row)
        few = weeded(row, every[:50], near, 0.7)
        matched += sum(take >= 0 for take in judge(row, few, both_overlap, False))
        said = weeded(row, every[:100], near, 0.7)
        for short, share, some in (
            ("rel", both_overlap, said),
            ("phr", phrase_overlap, weeded(row, said, near_phrase, 0.5)),
        ):
            for triplet, take in zip(some, judge(row, some, share, False), strict=True):
                if (kind := names(row, triplet)) in positives:
                    judged[short][kind].append((triplet[0], take >= 0))
    return weighted(judged, positives, matched, eleven_points)


def weeded(row: Row, said: list[Triplet], share: Callable[..., float], limit: float) -> list[Triplet]:
    """Greedy suppression among triplets of equal names."""
    stay: dict[tuple[str, str, str], list[Triplet]] = defaultdict(list)
    kept = []
    for triplet in said:
        same = stay[names(row, triplet)]
        if all(share(row, other, triplet) <= limit for other in same):
            same.append(triplet)
            kept.append(triplet)
    return kept


def weighted(judged: dict[str, Any], positives: dict[Any, int], matched: int, ap: Callable[..., float]) -> float:
    total = sum(positives.values())
    score = 0.2 * matched / total
    for marks in judged.values():
        score += 0.4 * sum(ap(marks[kind], count) * count for kind, count in positives.items()) / total
    return score


def area(marks: list[tuple[float, bool]], positives: int) -> float:
    marks.sort(key=lambda mark: -mark[0])
    found = np.cumsum([right for _, right in marks])
    envelope = np.maximum.accumulate((found / np.arange(1, len(found) + 1))[::-1])[::-1]
    return float((np.diff(found, prepend=0) / positives * envelope).sum())


def eleven_points(marks: list[tuple[float, bool]], positives: int) -> float:
    marks.sort(key=lambda mark: -mark[0])
    found = np.cumsum([right for _, right in marks])
    precision = found / np.arange(1, len(found) + 1)
    return sum(float(precision[10 * found >= step * positives].max(initial=0.0)) for step in range(11)) / 11
