"""TL;DR's selection and repair: shares, coverage of planted groups, stratification, code numbers that are no measure."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.whitening import Whitening, whitened
from diptych.curate.engine.pool import curate
from diptych.curate.operators import tldr as module
from diptych.curate.operators.tldr import TLDR, spread_over_clusters
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode

GROUPS, PATCHES, CODES = 5, 4, 12


class Captioner:
    """Codes are read off the image: its red value says which code each patch has, with a little noise from green."""

    name, fingerprint = "planted", "0123456789abcdef"

    def __init__(self, relabelled: bool = False) -> None:
        rng = np.random.default_rng(0)
        table = rng.normal(size=(CODES, 6)).astype(np.float32)
        self.order = rng.permutation(CODES) if relabelled else np.arange(CODES)
        self.model = SimpleNamespace(codebook=SimpleNamespace(code_KD=torch.from_numpy(table[np.argsort(self.order)])))
        self.asked = 0

    def codes(self, images, *, batch_size: int = 64) -> np.ndarray:
        self.asked += len(images)
        pixels = [decode(image) for image in images]
        plain = np.array([[(int(p[0, 0, 0]) + k * (int(p[0, 0, 1]) % 2)) % CODES for k in range(PATCHES)] for p in pixels])
        return self.order[plain]

    def generate(self, images, prompts, *, max_tokens: int = 30) -> list[str]:
        return [f"shade {int(decode(image)[0, 0, 0])}" for image in images]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Captioner:
    model = Captioner()
    monkeypatch.setattr(module, "open_address", lambda folder: model)
    return model


def row(uid: str, red: int, green: int = 0, text: str = "a text") -> Sample:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = red, green
    return Sample(uid, ArrayImage(pixels, uid), (Text(text),))


def pool(sizes: tuple[int, ...] = (100, 60, 30, 8, 2)) -> Pool:
    return Pool.from_samples(
        [row(f"g{group}-{n:03}", 2 * group, text=f"text {group}") for group, size in enumerate(sizes) for n in range(size)]
    )


def test_a_share_of_every_cluster_stays_and_at_least_one_row(planted: Captioner) -> None:
    done = TLDR(captioner="x", clusters=GROUPS)(pool())
    stays = Counter(uid[:2] for uid in done.kept)
    assert stays == {"g0": 25, "g1": 15, "g2": 8, "g3": 2, "g4": 1}
    assert {drop.reason.split(" rows of")[0] for drop in done.dropped if drop.uid.startswith("g0")} == {"cluster: 25 of 100"}
    assert len(done.kept) + len(done.dropped) == 200


def test_what_stays_is_spread_over_the_distance_to_the_centre() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 0.5, 400)
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    _, stays = spread_over_clusters(vectors, 0.25, clusters=1, seed=3)
    centre = vectors.mean(0)
    near = np.argsort(np.argsort(-(vectors @ centre)))
    quarter = Counter((near[n] // 100).item() for n in np.flatnonzero(stays))
    assert quarter == {0: 25, 1: 25, 2: 25, 3: 25}


def test_seeded_order_free_and_resumed(planted: Captioner, tmp_path) -> None:
    data = pool()
    mixed = data.select(random.Random(1).sample(range(200), 200))
    step = TLDR(captioner="x", clusters=GROUPS)
    assert step(data).kept == step(mixed).kept
    assert step(data).kept != TLDR(captioner="x", clusters=GROUPS, seed=1)(data).kept
    curate(data, [step], tmp_path)
    planted.asked = 0
    assert curate(data, [step], tmp_path).steps[0].resumed
    assert planted.asked == 0


def test_captions_are_repaired_and_kept_rows_alone(planted: Captioner) -> None:
    done = TLDR(captioner="x", clusters=GROUPS)(pool())
    assert done.columns["repaired_text"].keys() == set(done.kept)
    assert done.columns["repaired_text"][done.kept[0]] == "text 0; shade 0"
    assert done.columns["generated_caption"][done.kept[-1]] == "shade 8"
    assert TLDR(captioner="x", repair=False)(pool()).columns == {}
    whole = TLDR(captioner="x", keep=1.0)(pool())
    assert len(whole.kept) == 200
    bare = Pool.from_samples([Sample("a", row("a", 3).image)])
    assert TLDR(captioner="x", keep=1.0)(bare).columns["repaired_text"] == {"a": "shade 3"}


def test_code_numbers_are_no_measure_and_code_vectors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving the codes other numbers changes the clusters of "ids", as in the released code, and not those of "vectors"."""
    rng = np.random.default_rng(1)
    data = Pool.from_samples([row(f"u{n:03}", int(rng.integers(CODES)), int(rng.integers(9))) for n in range(150)])
    kept = {}
    for describe in ("vectors", "pooled", "histogram", "ids"):
        for relabelled in (False, True):
            model = Captioner(relabelled)
            monkeypatch.setattr(module, "open_address", lambda folder, model=model: model)
            kept[describe, relabelled] = TLDR(captioner="x", clusters=6, describe=describe)(data).kept
    assert kept["vectors", False] == kept["vectors", True]
    assert kept["ids", False] != kept["ids", True]


def test_the_better_half_by_agreement(planted: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_embedder", lambda address: Agrees())
    data = Pool.from_samples([row(f"u{n}", 0, text=f"agrees {n / 10}") for n in range(10)])
    done = TLDR(captioner="x", match="y", keep=1.0)(data)
    assert done.kept == ("u5", "u6", "u7", "u8", "u9")
    assert done.dropped[0].reason == "match: 0.000 (the best 50% have at least 0.500)"


def test_the_best_text_of_an_image_decides_and_one_without_comes_last(
    planted: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "open_embedder", lambda address: Agrees())
    image = row("x", 0).image
    texts = {
        "both": ("agrees 0.1", "agrees 0.9"),
        "turned": ("agrees 0.8", "agrees 0.2"),
        "even": ("agrees 0.5",) * 2,
        "none": (),
    }
    data = Pool.from_samples([Sample(uid, image, tuple(map(Text, said))) for uid, said in texts.items()])
    done = TLDR(captioner="x", match="y", keep=1.0, repair=False)(data)
    assert set(done.kept) == {"both", "turned"}
    assert {drop.uid: drop.reason.partition(" (")[0] for drop in done.dropped} == {
        "even": "match: 0.500",
        "none": "match: -1.000",
    }


class Agrees:
    """The last word of a text is how well it agrees with its image."""

    name, fingerprint = "agrees", "a"

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        return np.tile(np.array([[1.0, 0.0]], np.float32), (len(images), 1))

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        cos = np.array([float(text.split()[-1]) for text in texts])
        return np.stack([cos, np.sqrt(1 - cos**2)], 1).astype(np.float32)


def test_the_published_rule_keeps_what_both_of_its_parts_leave(planted: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_embedder", lambda address: Agrees())
    order = np.random.default_rng(2).permutation(40)
    data = Pool.from_samples([row(f"u{n:02}", 2 * (n % 2), text=f"agrees {order[n] / 40}") for n in range(40)])
    assert TLDR.paper().agreement == "pair"
    published = replace(TLDR.paper(), captioner="x", match="y", clusters=2, repair=False, agreement="cosine")
    better = {f"u{n:02}" for n in range(40) if order[n] >= 20}
    drawn = set(replace(published, match="", share_of="matching")(data).kept)
    assert len(drawn) == 10, "a quarter of all rows, whatever their texts"
    assert set(published(data).kept) == drawn & better
    ours = set(replace(published, share_of="matching")(data).kept)
    assert len(ours) == 5, "by default a quarter of the better half"
    assert ours < better
    with pytest.raises(ConfigError, match="--match RUN"):
        replace(published, match="")(data)


class Reads:
    """Scores a pair by the number at the end of its text, as a matching head would."""

    def score_pairs(self, images, texts, *, query) -> np.ndarray:
        return np.array([[10 * float(text.split()[-1]) - 5 for text in texts]] * len(images), np.float32)


def test_a_matching_head_judges_pairs(planted: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Pool.from_samples([row(f"u{n:02}", 2, text=f"agrees {n % 8 / 8}") for n in range(16)])
    judged = TLDR(captioner="x", match="y", agreement="pair", keep=1.0, repair=False)
    monkeypatch.setattr(module, "open_address", lambda address: planted if address == "x" else Reads())
    assert judged(data).kept == tuple(f"u{n:02}" for n in range(16) if n % 8 >= 4)
    reasons = {drop.uid: drop.reason for drop in judged(data).dropped}
    assert reasons["u00"] == "match: -5.000 (the best 50% have at least 0.000)"
    monkeypatch.setattr(module, "open_address", lambda address: planted)
    with pytest.raises(ConfigError, match="y does not read pairs"):
        judged(data)


class Writer:
    """Captions of a model that people taught, which can search with beams."""

    name, fingerprint = "writer", "fedcba9876543210"

    def generate(self, images, prompts, *, max_tokens: int = 30, num_beams: int = 1) -> list[str]:
        return [f"{num_beams} beams"] * len(images)


def test_another_model_may_write_the_captions(planted: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_address", lambda address: planted if address == "x" else Writer())
    taught = replace(TLDR.paper(), captioner="x", share_of="matching", keep=1.0, writer="y", beams=3)
    data = Pool.from_samples([row("a", 3, text="a text")])
    assert taught(data).columns["repaired_text"] == {"a": "a text; 3 beams"}
    assert replace(taught, beams=1)(data).columns["repaired_text"] == {"a": "a text; 1 beams"}
    monkeypatch.setattr(module, "open_address", lambda address: planted if address == "x" else Reads())
    with pytest.raises(ConfigError, match="tldr's writer needs a model that is a Generator"):
        taught(data)
    with pytest.raises(ConfigError, match="beams is 3"):
        TLDR(beams=3)


def test_presets_differ_as_paper_and_code_do() -> None:
    paper, code = TLDR.paper(), TLDR.released()
    assert (paper.centre, paper.clusters, paper.share_of, paper.agreement) == ("mean", 1000, "all", "pair")
    assert replace(code, keep=0.25, pick="spread", describe="vectors") == paper
    assert (code.keep, code.pick, code.describe) == (0.2, "listed", "ids")


def test_clusters_of_bounded_size_keep_the_share_of_each(planted: Captioner) -> None:
    rng = np.random.default_rng(0)
    vector_ND = rng.normal(size=(600, 8)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    label_N, stays_N = spread_over_clusters(vector_ND, 0.25, max_cluster_size=40)
    sizes, stays = np.bincount(label_N), np.bincount(label_N, weights=stays_N)
    assert sizes.max() <= 40
    assert sizes.min() >= 1
    assert stays.tolist() == [max(1, round(int(size) / 4)) for size in sizes]
    step = TLDR(captioner="x", max_cluster_size=100)
    assert step(pool()).kept == step(pool().select(random.Random(1).sample(range(200), 200))).kept
    with pytest.raises(ConfigError, match="max_cluster_size is 5, clusters 2"):
        TLDR(max_cluster_size=5, clusters=2)
    with pytest.raises(ConfigError, match="centre 'mean'"):
        TLDR(max_cluster_size=5, centre="mean")


def test_every_fifth_of_the_list_as_released() -> None:
    rng = np.random.default_rng(0)
    vector_ND = rng.normal(size=(60, 4)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    label_N, stays_N = spread_over_clusters(vector_ND, 0.2, clusters=5, pick="listed")
    naive = []
    for cluster in range(5):
        members = [row for row in range(60) if label_N[row] == cluster]
        naive += [members[i] for i in range(0, len(members), 5)]
    assert sorted(naive) == np.flatnonzero(stays_N).tolist()


def test_what_cannot_be_described(planted: Captioner) -> None:
    rows = [row("a", 1), Sample("b", None, (Text("x"),)), Sample("c", BytesImage(b"no image", "c"), (Text("x"),))]
    done = TLDR(captioner="x", keep=1.0)(Pool.from_samples(rows))
    assert done.kept == ("a",)
    assert {drop.uid: drop.reason.split(":")[0] for drop in done.dropped} == {"b": "no_image", "c": "unreadable"}


def test_whitening_gives_equal_spread_and_unit_rows(parity: Any) -> None:
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(500, 6)) @ np.diag([9, 5, 3, 1, 0.5, 0])).astype(np.float32)
    made = whitened(raw, 4)
    assert made.shape == (500, 4)
    assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(500), abs=1e-5)
    from sklearn.decomposition import PCA

    theirs = PCA(4, whiten=True).fit_transform(raw)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert np.abs(made) == pytest.approx(np.abs(theirs), abs=1e-3)
    parity(
        "tldr",
        "whitened descriptors, up to the sign of a direction",
        "PCA of scikit-learn",
        [(np.abs(made), np.abs(theirs))],
        tolerance=1e-3,
    )
    assert whitened(np.ones((3, 2), np.float32)).shape == (3, 1)


def test_whitening_of_many_rows_is_that_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    step, model = TLDR(captioner="x", whiten=3), Captioner()
    id_NP = np.random.default_rng(0).integers(0, CODES, (3_000, PATCHES))
    whole = step._cluster_features(id_NP, model)
    monkeypatch.setattr(module, "WHITENED_FROM", 2_400)
    monkeypatch.setattr(module, "WHITENED_VALUES", 0)
    sampled = step._cluster_features(id_NP, model)
    assert sampled.shape == whole.shape
    assert not np.array_equal(sampled, whole)
    raw = step._described(id_NP, model.model.codebook.code_KD.numpy())
    sample = np.sort(np.random.default_rng(step.seed).permutation(3_000)[:2_400])
    expected = Whitening.fitted(raw[sample], 3)(raw)
    assert np.abs(sampled - expected).max() < 1e-6


@pytest.mark.parametrize("options", [{"keep": 0.0}, {"match_share": 1.5}, {"describe": "x"}])
def test_options_that_cannot_be(options: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TLDR(**options)


def test_a_captioner_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs a trained codebook captioner"):
        TLDR()(pool())
    monkeypatch.setattr(module, "open_address", lambda folder: object())
    with pytest.raises(ConfigError, match="is not a codebook captioner"):
        TLDR(captioner="x")(pool())
