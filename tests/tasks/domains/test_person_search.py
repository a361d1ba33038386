"""Person search: by hand, against scikit-learn, with ties against every order, and with identities that have no picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from diptych.core.errors import DataError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.tasks._scoring.ranking.ranked_lists import RankedList, chance
from diptych.tasks.domains.person_search import PersonSearch
from diptych.worlds.people.world import pedestrians


class Told:
    """Embeds pictures and captions by tables."""

    name, fingerprint = "told", "told"

    def __init__(self, images: dict[str, Sequence[float]], texts: dict[str, Sequence[float]]) -> None:
        self.images, self.texts = images, texts

    def embed_images(self, images: Any, **_: Any) -> Any:
        return unit([self.images[image.name] for image in images])

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return unit([self.texts[text] for text in texts])


def unit(rows: Any) -> Any:
    made = np.asarray(rows, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def orders(score: Any, relevant: Any, worth: Any) -> float:
    """The mean of `worth` over every order of tied items."""
    values = sorted(set(score), reverse=True)
    blocks = [[i for i, s in enumerate(score) if s == value] for value in values]
    found = []
    for parts in itertools.product(*(itertools.permutations(block) for block in blocks)):
        found.append(worth([bool(relevant[i]) for part in parts for i in part]))
    return float(np.mean(found))


def precision(hits: list[bool]) -> float:
    return float(np.mean([sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit]))


def inverse_last(hits: list[bool]) -> float:
    return sum(hits) / (max(at for at, hit in enumerate(hits) if hit) + 1)


def test_lists_are_worth_the_mean_over_all_orders_of_ties(parity: Any) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(60):
        score = rng.integers(0, 3, 6).astype(np.float32)
        relevant = rng.random(6) < 0.5
        if not relevant.any():
            continue
        ranked = RankedList.of(score, relevant)
        pairs.append((ranked.average_precision, orders(score, relevant, precision)))
        pairs.append((ranked.inverse_last, orders(score, relevant, inverse_last)))
    parity("plip_person", "mAP and mINP with ties", "every order of tied pictures", pairs, tolerance=1e-12)


def test_average_precision_without_ties_is_scikit_learns(parity: Any) -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(40):
        score, relevant = rng.permutation(50).astype(np.float32), rng.random(50) < 0.2
        relevant[0] = True
        pairs.append((RankedList.of(score, relevant).average_precision, average_precision_score(relevant, score)))
    parity("plip_person", "mAP without ties", "average_precision_score of scikit-learn", pairs, tolerance=1e-12)


def test_chance_is_the_mean_over_all_orders() -> None:
    mean_ap = np.mean([precision(list(order)) for order in itertools.permutations([True, True, False, False, False])])
    mean_inp = np.mean([inverse_last(list(order)) for order in itertools.permutations([True, True, False, False, False])])
    assert chance([5], [2]) == pytest.approx((mean_ap, mean_inp))


def rows(count: int = 6) -> Pool:
    """Three persons of two pictures, a caption each."""
    found = pedestrians(24)
    chosen = [found[n] for n in (0, 1, 8, 9, 16, 17)][:count]
    return Pool.from_samples([replace(s, texts=(Text(f"text {n}", "en"),)) for n, s in enumerate(chosen)], name="six")


def told(pool: Pool) -> Told:
    angle = dict(zip([s.image.name for s in pool if s.image is not None], [0.0, 0.1, 1.0, 1.1, 2.0, 2.1], strict=False))
    images = {name: (np.cos(a), np.sin(a)) for name, a in angle.items()}
    return Told(images, {f"text {n}": (np.cos(a), np.sin(a)) for n, a in enumerate([0.0, 0.1, 1.0, 0.6, 2.0, 2.1, 3.0])})


def test_a_score_by_hand() -> None:
    pool = rows()
    task = PersonSearch(ks=(1, 2))
    result = task.score(task.predict(told(pool), pool))
    # text 3 at .6 sees pictures at 1.0 (own, .4), 0.1 (.5), 1.1 (own, .5: tied with 0.1 but for rounding), 0.0 (.6)
    assert result.n_items == 6
    assert result.n_groups == 3
    assert result.metrics["cmc@1"].value == 1.0
    assert result.metrics["map"].value == pytest.approx((5 + (1 + 2 / 3) / 2) / 6, abs=0.03)
    assert result.metrics["minp"].value == pytest.approx((5 + 2 / 3) / 6, abs=0.06)
    assert result.notes["queries_without_match"] == 0


def test_identities_missing_from_the_gallery_are_counted_and_left_out() -> None:
    pool = rows()
    lone = Sample("query-only", texts=(Text("text 6", "en"),), group="nobody")
    task = PersonSearch(ks=(1,))
    both = Pool.from_samples([*pool, lone], name="seven")
    result = task.score(task.predict(told(pool), both))
    assert result.notes["queries_without_match"] == 1
    assert result.n_items == 6
    assert result.metrics["map"].value == task.score(task.predict(told(pool), pool)).metrics["map"].value
    values = task.item_values(task.predict(told(pool), pool), "map")
    assert values is not None
    assert values.mean() == pytest.approx(result.metrics["map"].value)


def released(score_NM: Any, key_N: Any, key_M: Any) -> dict[str, float]:
    """anosorae/IRRA's `rank` in plain loops, without ties."""
    hits = {1: 0.0, 2: 0.0}
    precisions, lasts = [], []
    for score_M, key in zip(score_NM, key_N, strict=True):
        matched = [bool(key_M[at] == key) for at in np.argsort(-score_M, kind="stable")]
        hits = {k: value + any(matched[:k]) for k, value in hits.items()}
        precisions.append(precision(matched))
        lasts.append(inverse_last(matched))
    return {
        **{f"cmc@{k}": value / len(key_N) for k, value in hits.items()},
        "map": float(np.mean(precisions)),
        "minp": float(np.mean(lasts)),
    }


@pytest.mark.parametrize("asks", ["texts", "pictures"])
def test_either_side_may_ask_as_in_the_released_evaluator(asks: Any) -> None:
    *known, last = rows()
    spare = replace(last, texts=(), group="nobody")  # a picture whose identity has no caption
    pool, rng = Pool.from_samples([*known, spare], name="six"), np.random.default_rng(5)
    names = {s.image.name for s in pool if s.image is not None}
    model = Told({n: rng.normal(size=3) for n in sorted(names)}, {f"text {n}": rng.normal(size=3) for n in range(6)})
    image_ND = model.embed_images([s.image for s in pool])
    texts = [(text.string, sample.group) for sample in pool for text in sample.texts]
    text_ND = model.embed_texts([text for text, _ in texts])
    pictures = [sample.group for sample in pool]
    keys = np.array(pictures), np.array([group for _, group in texts])
    score_TP = text_ND @ image_ND.T
    kept = np.isin(keys[0], keys[1])
    want = released(score_TP, keys[1], keys[0]) if asks == "texts" else released(score_TP.T[kept], keys[0][kept], keys[1])
    task = PersonSearch(asks=asks, ks=(1, 2), draws=0)
    result = task.score(task.predict(model, pool))
    assert {name: result.metrics[name].value for name in want} == pytest.approx(want, abs=1e-9)
    assert result.notes["queries_without_match"] == (0 if asks == "texts" else 1)
    assert result.n_items == 5


def test_a_collapsed_model_gets_chance() -> None:
    pool = rows()
    same = Told({s.image.name: (1.0, 0.0) for s in pool if s.image is not None}, {f"text {n}": (1.0, 0.0) for n in range(6)})
    task = PersonSearch()
    for metric in task.score(task.predict(same, pool)).metrics.values():
        assert metric.value == pytest.approx(metric.chance)


def test_nothing_to_ask_is_refused() -> None:
    pool = Pool.from_samples([replace(s, texts=()) for s in rows()], name="mute")
    with pytest.raises(DataError, match=r"no caption of 'mute' is left for language 'en'"):
        PersonSearch().predict(told(rows()), pool)


def released_map(index: list[bool]) -> float:
    """`compute_mAP` of PLIP's utils.py, as a loop over places."""
    worth, rows = 0.0, [at for at, hit in enumerate(index) if hit]
    for number, row in enumerate(rows):
        before = number / row if row else 1.0
        worth += (before + (number + 1) / (row + 1)) / 2 / len(rows)
    return worth


def test_trapezoids_are_those_of_plips_released_test(parity: Any) -> None:
    rng, pairs = np.random.default_rng(4), []
    for values in (3, 100, 1, 2):
        score = rng.integers(values, size=6).astype(np.float32)
        relevant = np.array([True, False, True, False, True, False])[rng.permutation(6)]
        pairs.append((RankedList.of(score, relevant).trapezoid_precision, orders(score, relevant, released_map)))
    parity("plip_person", "trapezoid mAP with ties", "every order, by compute_mAP of PLIP (09890e3)", pairs, tolerance=1e-12)
    assert RankedList.of(np.array([2.0, 1.0], np.float32), np.array([True, False])).trapezoid_precision == 1
    assert RankedList.of(np.array([1.0, 2.0], np.float32), np.array([True, False])).trapezoid_precision == 0.25
    pool, task = rows(), PersonSearch(trapezoid=True, draws=10)
    records = task.predict(told(pool), pool)
    values = task.item_values(records, "map_trapezoid")
    assert values is not None
    assert values.mean() == pytest.approx(task.score(records).metrics["map_trapezoid"].value)
    same = Told({s.image.name: (1.0, 0.0) for s in pool if s.image is not None}, {f"text {n}": (1.0, 0.0) for n in range(6)})
    collapsed = task.score(task.predict(same, pool)).metrics["map_trapezoid"]
    assert collapsed.value == pytest.approx(collapsed.chance)
