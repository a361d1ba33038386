"""Near-duplicate texts against all pairs; MinHash against the similarity that it estimates."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("daft", reason="the extra curate is not installed")

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.minhash import MinHashBands, hashed_shingles, normal_text, shingles
from diptych.curate.duplicates.text import TextDuplicates
from diptych.curate.duplicates.text_candidates import greedy_texts
from diptych.data.dataset import Pool


def jaccard(one: str, other: str, width: int = 5) -> float:
    a, b = shingles(normal_text(one), width), shingles(normal_text(other), width)
    return len(a & b) / len(a | b)


def pool(texts: list[str]) -> Pool:
    return Pool.from_samples([Sample(f"u{n:04}", texts=(Text(t),) if t else ()) for n, t in enumerate(texts)])


def captions(count: int, seed: int = 0) -> list[str]:
    """Captions of which a third are copies of an earlier one with a word or a sign changed."""
    rng = random.Random(seed)
    words = "red blue small large dog cat bus house running sitting beside under tree river with and of a the".split()  # noqa: SIM905
    made: list[str] = []
    for _ in range(count):
        if made and rng.random() < 0.35:
            text = rng.choice(made)
            made.append(text.upper() if rng.random() < 0.3 else text + rng.choice([".", " now", " 7", "  "]))
        else:
            made.append(" ".join(rng.choices(words, k=rng.randint(4, 14))))
    return made


@pytest.mark.parametrize("similarity", [0.7, 0.9, 1.0])
def test_equals_the_greedy_loop_over_all_pairs(similarity: float) -> None:
    texts = captions(300)
    kept: list[int] = []
    expected = {}
    for n, text in enumerate(texts):
        alike = [(jaccard(text, texts[k]), -k) for k in kept]
        best = max(alike, default=(0.0, 0))
        if best[0] >= similarity:
            expected[f"u{n:04}"] = f"u{-best[1]:04}"
        else:
            kept.append(n)
    done = TextDuplicates(similarity=similarity, bands=64, rows=2)(pool(texts))  # bands enough to miss nothing
    assert done.columns["text_duplicate_of"] == expected
    assert len(expected) > 50


def templated(count: int, seed: int = 0) -> list[str]:
    """Texts of four templates: numbers in a long one, words in one that is near the threshold, exact copies, and a short one."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(200)]
    kinds = [
        lambda: f"image number {rng.randint(0, 10**9)} from the archive {rng.randint(0, 10**6)} of the city, all rights reserved",
        lambda: f"buy {rng.choice(words)} {rng.choice(words)} online at the best price, free shipping on every order, shop now",
        lambda: "this picture is not available at the moment",
        lambda: f"a photo of a {rng.choice(words)}",
    ]
    return [normal_text(rng.choice(kinds)()) for _ in range(count)]


@pytest.mark.parametrize("similarity", [0.6, 0.8, 0.95])
def test_texts_of_one_template_equal_the_loop_over_all_that_share_a_key(similarity: float) -> None:
    texts = templated(700)
    keys = MinHashBands().keys(texts)
    kept: list[int] = []
    expected, pairs = {}, 0
    for n, text in enumerate(texts):
        met = [k for k in kept if (keys[n] == keys[k]).any()]
        pairs += len(met)
        best = max(((jaccard(text, texts[k]), -k) for k in met), default=(0.0, 0))
        if best[0] >= similarity:
            expected[n] = (-best[1], best[0])
        else:
            kept.append(n)
    done = greedy_texts(keys, texts, similarity=similarity, width=5, cap=0)
    assert done.original == expected
    assert len(expected) > 50
    assert done.full_lists == 0
    if similarity == 0.8:
        assert done.compared < pairs / 5


def test_a_cap_bounds_the_comparisons_and_is_reported() -> None:
    texts = templated(1_500, seed=3)
    compared = {}
    for cap in (4, 0):
        done = greedy_texts(MinHashBands().keys(texts), texts, similarity=0.6, width=5, cap=cap)
        compared[cap] = done.compared
        assert (done.full_lists > 0) == (cap > 0)
    assert compared[4] < compared[0]
    result = TextDuplicates(similarity=0.6, cap=4)(pool(texts))
    assert f"{compared[4]:,} pairs" in result.notes[0]
    assert "reached 4 kept rows" in result.notes[1]


def test_the_plan_counts_pairs_and_comparisons() -> None:
    plan = TextDuplicates().plan(pool(templated(2_500)))
    keys = MinHashBands().keys(templated(2_500))
    pairs = sum(sum(range(count)) for band in keys.T for count in np.unique(band, return_counts=True)[1].tolist())
    assert plan["key_pairs"] == pytest.approx(pairs, rel=0.1)
    assert 0 < plan["comparisons"] < plan["key_pairs"]
    assert plan["seconds"] > plan["seconds_each"] * 2_500


def test_no_chain_carries_off_what_is_far_from_all_that_is_kept() -> None:
    words = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa".split()  # noqa: SIM905
    texts = [" ".join(words[n : n + 8]) for n in range(9)]
    done = TextDuplicates(similarity=0.6, bands=64, rows=1)(pool(texts))
    by_uid = dict(zip(pool(texts).uids, texts, strict=True))
    assert len(done.kept) > 1
    for uid, original in done.columns["text_duplicate_of"].items():
        assert original in done.kept
        assert jaccard(by_uid[uid], by_uid[original]) >= 0.6


def test_idempotent_and_order_free() -> None:
    data = pool(captions(400, seed=2))
    step = TextDuplicates()
    once = step(data)
    again = step(data.select([data.uids.index(uid) for uid in once.kept]))
    assert set(again.kept) == set(once.kept)
    mixed = data.select(random.Random(0).sample(range(len(data)), len(data)))
    assert (step(mixed).kept, step(mixed).dropped) == (once.kept, once.dropped)


def test_rows_without_text_stay_and_reasons_name_the_kept_row() -> None:
    done = TextDuplicates()(pool(["a red dog in the park", "", "A red  dog in the park", ""]))
    assert done.kept == ("u0000", "u0001", "u0003")
    assert done.dropped[0].reason == "near u0000: its text shares 1.000 of its shingles"


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_equal_shingles_have_equal_hashes_and_no_others(texts: list[str], width: int) -> None:
    hash_K, start = hashed_shingles(texts, width)
    for n, text in enumerate(texts):
        own = hash_K[start[n] : start[n + 1]]
        assert len(own) == max(1, len(text) - width + 1)
        assert len(set(own.tolist())) == len({(text + "\0" * width)[i : i + width] for i in range(len(own))})
    both: dict[str, int] = {}
    for n, text in enumerate(texts):
        for i, value in enumerate(hash_K[start[n] : start[n + 1]].tolist()):
            assert both.setdefault((text + "\0" * width)[i : i + width], value) == value


def test_agreement_of_signatures_estimates_the_similarity() -> None:
    one = "a photograph of a small red dog that sleeps on the grass in front of a house"
    for other in (one.replace("small", "large"), one.replace("grass in front of a house", "sofa"), "something else altogether"):
        least = MinHashBands(bands=500, rows=4).signature([normal_text(one), normal_text(other)])
        s = jaccard(one, other)
        assert abs((least[0] == least[1]).mean() - s) < 4 * np.sqrt(s * (1 - s) / 2000) + 1e-9


def test_bands_find_what_they_promise() -> None:
    step = TextDuplicates(similarity=0.8, bands=8, rows=4)
    assert step.recall == pytest.approx(1 - (1 - 0.8**4) ** 8)
    assert step.plan(pool(captions(50)))["items"] == 50
    assert MinHashBands()(pa.array(["a", "b"])).type == pa.list_(pa.uint64())


@pytest.mark.parametrize("options", [{"similarity": 0.0}, {"similarity": 1.1}, {"bands": 0}])
def test_options_that_cannot_be(options: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TextDuplicates(**options)
