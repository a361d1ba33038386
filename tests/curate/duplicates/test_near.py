"""Planted copies are found and named, look-alikes stay, and the greedy rule equals a naive one over all pairs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample
from diptych.curate.duplicates import near
from diptych.curate.duplicates.clusters import greedy_duplicates
from diptych.curate.duplicates.hamming import CodeRuns, HammingIndex, pieces_for
from diptych.curate.duplicates.near import NearDuplicateEmbeddings, NearDuplicates, cluster_rows, greedy_hashes, hash_image
from diptych.data.dataset import Pool
from diptych.worlds import scenes


def scene(seed: int, size: int = 128) -> np.ndarray:
    return scenes(1, seed=seed, size=size)[0].image.pixels_HWC


def pool_of(images: dict) -> Pool:
    return Pool.from_samples([Sample(uid, image) for uid, image in images.items()], name="planted")


def jpeg(pixels: np.ndarray, quality: int) -> BytesImage:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return BytesImage(buffer.getvalue())


def copies(pixels: np.ndarray) -> dict:
    picture = Image.fromarray(pixels)
    return {
        "small": ArrayImage(np.asarray(picture.resize((90, 90), Image.Resampling.BICUBIC))),
        "jpeg": jpeg(pixels, 60),
        "brighter": ArrayImage(np.clip(pixels.astype(int) + 6, 0, 255).astype(np.uint8)),
    }


def test_planted_copies_are_dropped_and_name_the_largest() -> None:
    images = {f"other{seed}": ArrayImage(scene(seed)) for seed in range(30, 60)}
    for seed in range(6):
        images[f"z{seed}"] = ArrayImage(scene(seed, 128))
        images |= {f"{name}{seed}": image for name, image in copies(scene(seed, 128)).items()}
    result = NearDuplicates()(pool_of(images))
    families = {}
    for drop in result.dropped:
        seed = drop.uid[-1]
        assert drop.uid.rstrip("0123456789") in ("small", "jpeg", "brighter", "z"), drop
        kept = drop.reason.removeprefix("near ").split(":")[0]
        assert kept[-1] == seed
        assert "of 64 bits" in drop.reason
        families.setdefault(seed, set()).add(kept)
    assert len(result.dropped) == 6 * 3
    assert all(len(kept) == 1 for kept in families.values())
    assert not any(uid.startswith("small") for uid in result.kept)  # never the smaller one


def test_another_colour_or_another_place_is_no_duplicate() -> None:
    def disc(colour: tuple[int, int, int], x: int) -> ArrayImage:
        pixels = np.full((64, 64, 3), 240, np.uint8)
        yy, xx = np.mgrid[:64, :64]
        pixels[(xx - x) ** 2 + (yy - 32) ** 2 < 200] = colour
        return ArrayImage(pixels)

    grey_red, grey_green = (200, 30, 30), (20, 118, 20)  # about equally bright
    images = {"red": disc(grey_red, 20), "green": disc(grey_green, 20), "moved": disc(grey_red, 44), "same": disc(grey_red, 20)}
    assert hash_image(images["red"]).bits == hash_image(images["green"]).bits
    result = NearDuplicates()(pool_of(images))
    assert [(drop.uid, drop.reason.split(":")[0]) for drop in result.dropped] == [("same", "near red")]


def test_flat_images_have_one_hash_and_are_told_apart_by_colour() -> None:
    flat = {str(v): ArrayImage(np.full((40, 40, 3), v, np.uint8)) for v in (0, 3, 120, 255)}
    result = NearDuplicates()(pool_of(flat))
    assert sorted(result.kept) == ["0", "120", "255"]


def test_unreadable_and_missing_images() -> None:
    result = NearDuplicates()(pool_of({"bad": BytesImage(b"nothing", "bad.jpg"), "none": None}))
    assert result.kept == ("none",)
    assert result.dropped[0].reason.startswith("unreadable: ")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 2**64 - 1), st.integers(0, 16), st.data())
def test_hamming_index_is_exact(stored: list[int], query: int, distance: int, data: st.DataObject) -> None:
    flips = data.draw(st.lists(st.integers(0, 63), max_size=18, unique=True))
    stored = [*stored, query ^ sum(1 << flip for flip in flips)]
    index = HammingIndex(distance)
    for key, bits in enumerate(stored):
        index.add(key, bits)
    naive = [(key, bin(bits ^ query).count("1")) for key, bits in enumerate(stored)]
    assert list(index.within(query)) == [(key, far) for key, far in naive if far <= distance]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 16), st.integers(1, 400), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_code_runs_are_exact(distance: int, count: int, tolerance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    code = family_codes(rng, count, 12)
    level = rng.integers(0, 200, count)
    runs = CodeRuns(distance, tolerance)
    for start in range(0, count, 50):
        runs.add(code[start : start + 50], level[start : start + 50], np.arange(start, min(start + 50, count)))
    query, query_level = family_codes(rng, 20, 12), rng.integers(0, 200, 20)
    found = list(zip(*(a.tolist() for a in runs.pairs(query, query_level)), strict=True))
    close = (np.bitwise_count(query[:, None] ^ code) <= distance) & (abs(query_level[:, None] - level) <= tolerance)
    assert sorted(found) == sorted(zip(*(a.tolist() for a in np.nonzero(close)), strict=True))


def family_codes(rng: np.random.Generator, count: int, flips: int) -> np.ndarray:
    """Codes about three centres, up to `flips` bits from them."""
    code = np.random.default_rng(7).integers(0, 2**64, 3, np.uint64)[rng.integers(0, 3, count)]
    for _ in range(flips):
        code ^= np.where(rng.random(count) < 0.5, np.uint64(1) << rng.integers(0, 64, count, np.uint64), np.uint64(0))
    return code


@pytest.mark.parametrize(("bits", "colour"), [(6, 8.0), (0, 20.0), (12, 3.0), (3, 255.0)])
def test_greedy_hashes_equal_the_loop_over_all_kept_rows(bits: int, colour: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "BLOCK", 160)
    rng = np.random.default_rng(bits)
    count = 450  # several blocks and merged runs
    code = family_codes(rng, count, max(1, bits // 2 + 2))
    tint = rng.integers(0, 200, (6, 1, 12)).repeat(count, 1)[rng.integers(0, 6, count), np.arange(count)]
    thumbnail = (tint + rng.integers(0, 24, (count, 12))).astype(np.uint8)
    names = [f"u{n}" for n in rng.permutation(count)]
    kept: list[int] = []
    expected = {}
    for row in range(count):
        far = np.bitwise_count(code[row] ^ code[kept])
        off = np.abs(thumbnail[row].astype(int) - thumbnail[kept]).mean(1)
        found = np.flatnonzero((far <= bits) & (off <= colour))
        close = [(float(off[n]), int(far[n]), names[kept[n]], kept[n]) for n in found]
        if close:
            expected[row] = (min(close)[3], min(close)[0])
        else:
            kept.append(row)
    assert greedy_hashes(code, thumbnail, names, bits=bits, colour=colour) == expected
    assert 20 < len(kept) < count


def test_pieces_grow_with_the_number_of_codes() -> None:
    chosen = [pieces_for(count, 6) for count in (1_000, 100_000, 10_000_000, 1_000_000_000)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[-1] >= 2


class Angles:
    """An embedder that reads an angle from the first pixel: neighbours are one degree apart."""

    name, fingerprint = "angles", "0"

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        turn = np.radians([float(image.pixels_HWC[0, 0, 0]) for image in images])
        return np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        raise NotImplementedError


def arc(degrees: list[int]) -> Pool:
    return pool_of({f"d{place:03d}": ArrayImage(np.full((8, 8, 3), angle, np.uint8)) for place, angle in enumerate(degrees)})


def test_no_chain_carries_off_what_is_far_from_everything_kept() -> None:
    """Forty points on an arc, one degree apart, three degrees are near: every fourth stays and no dropped one is farther."""
    result = NearDuplicateEmbeddings(Angles(), cosine=float(np.cos(np.radians(3.5))))(arc(list(range(40))))
    assert sorted(result.kept) == [f"d{place:03d}" for place in range(0, 40, 4)]
    for drop in result.dropped:
        assert 0 < int(drop.uid[1:]) - int(drop.reason.split()[1][1:4]) <= 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=25), st.randoms())
def test_greedy_rule_equals_a_naive_one_in_any_order(degrees: list[int], random) -> None:
    limit = 4
    step = NearDuplicateEmbeddings(Angles(), cosine=float(np.cos(np.radians(limit + 0.5))))
    data = arc(degrees)
    kept: list[int] = []
    for place, angle in enumerate(degrees):
        if all(abs(angle - degrees[other]) > limit for other in kept):
            kept.append(place)
    result = step(data)
    assert sorted(result.kept) == [f"d{place:03d}" for place in kept]
    order = list(range(len(data)))
    random.shuffle(order)
    again = step(data.select(order))
    assert (set(again.kept), {d.uid for d in again.dropped}) == (set(result.kept), {d.uid for d in result.dropped})
    rows = [row for row, uid in enumerate(data.uids) if uid in result.kept]
    assert step(data.select(rows)).dropped == ()


def test_clusters_find_the_same_families_as_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families of six around far apart directions: with clusters as without, and fewer comparisons."""
    rng = np.random.default_rng(0)
    centre_KD = rng.normal(size=(60, 24))
    vector_ND = (centre_KD.repeat(6, 0) + 0.05 * rng.normal(size=(360, 24))).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    order = range(len(vector_ND))
    assert cluster_rows(vector_ND, 0, 2) is None  # few rows: all are compared
    whole = greedy_duplicates(vector_ND, order, 0.9)
    monkeypatch.setattr(near, "EXACT", 100)
    near_NP = cluster_rows(vector_ND, 0, 2)
    assert near_NP is not None
    assert near_NP.shape == (360, 2)
    assert near_NP.max() < 19  # the square root
    assert greedy_duplicates(vector_ND, order, 0.9, near_NP=near_NP).keys() == whole.keys()
    assert len(whole) == 300


def test_hash_step_is_order_free_and_idempotent() -> None:
    images = {}
    for seed in range(8):
        images[f"s{seed}"] = ArrayImage(scene(seed, 64))
        images[f"t{seed}"] = jpeg(scene(seed, 64), 75)
    data = pool_of(images)
    first = NearDuplicates()(data)
    order = np.random.default_rng(0).permutation(len(data))
    assert NearDuplicates()(data.select(order)).kept == first.kept
    assert NearDuplicates()(data.select(order)).dropped == first.dropped
    assert set(first.kept) | {d.uid for d in first.dropped} == set(images)
    assert NearDuplicates()(data.select([data.uids.index(uid) for uid in first.kept])).dropped == ()


@pytest.mark.parametrize("make", [lambda: NearDuplicates(bits=40), lambda: NearDuplicates(colour=-1)])
def test_impossible_thresholds_are_refused(make) -> None:
    with pytest.raises(ConfigError, match="expected 0"):
        make()
