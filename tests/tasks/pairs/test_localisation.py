"""Pointing at regions: planted patches whose score is known, chance by counting, phrases in their text or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.media.transforms import Preprocess
from diptych.tasks._scoring.records import array
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.localisation import Localisation, patches_on, phrases

RED, BLUE, OTHER = np.eye(3, dtype=np.float32)
SIDE = 4


class Planted:
    """16 patches a picture, given by its name; a word is its axis."""

    name, fingerprint = "planted", "0"
    preprocess = Preprocess(40, resize="squash")

    def __init__(self, patches: dict[str, np.ndarray]) -> None:
        self.patches = patches

    def embed_patches(self, images: Sequence[Any]) -> list[np.ndarray]:
        return [self.patches[image.name] for image in images]

    def embed_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        axis = {"red": RED, "blue": BLUE}
        return [np.stack([axis.get(word, OTHER) for word in text.split()]) for text in texts]


class InContext(Planted):
    """Read in a text, every word is the other colour."""

    def embed_in_context(self, texts: Sequence[str]) -> list[list[tuple[str, np.ndarray]]]:
        other = {"red": BLUE, "blue": RED}
        return [[(word, other.get(word, OTHER)[None]) for word in text.split()] for text in texts]


def scene(uid: str, *texts: str) -> Sample:
    """40 pixels: a red thing on the first patch, a blue one over the last four."""
    regions = (Region((1, 1, 9, 9), "red"), Region((20, 20, 40, 40), "blue"))
    pixels_HWC = np.zeros((40, 40, 3), np.uint8)
    return Sample(uid, ArrayImage(pixels_HWC, uid), tuple(Text(text, "en") for text in texts), regions=regions)


def grid(red: Sequence[int], blue: Sequence[int]) -> np.ndarray:
    rows = np.tile(OTHER, (SIDE * SIDE, 1))
    rows[list(red)], rows[list(blue)] = RED, BLUE
    return rows


def pool(*samples: Sample) -> Pool:
    return Pool.from_samples(samples, name="planted")


LAST = [10, 11, 14, 15]


def test_a_model_that_points_right_wrong_and_nowhere() -> None:
    right, wrong = Planted({"u": grid([0], LAST)}), Planted({"u": grid([15], [0])})
    result = evaluate(Localisation(draws=10), right, pool(scene("u")))
    assert (result.value, result.metrics["auc"].value) == (1.0, 1.0)
    assert result.metrics["pointing"].chance == pytest.approx((1 / 16 + 4 / 16) / 2)
    assert evaluate(Localisation(draws=10), wrong, pool(scene("u"))).value == 0.0
    flat = Planted({"u": np.tile(OTHER, (16, 1))})
    constant = evaluate(Localisation(draws=10), flat, pool(scene("u"))).metrics
    assert constant["pointing"].value == pytest.approx(constant["pointing"].chance)
    assert constant["auc"].value == 0.5


def test_a_map_of_what_stands_out_tells_no_words_apart() -> None:
    """Both things weigh more than the ground, whatever is asked for."""
    both = (RED + BLUE) / np.sqrt(2)
    rows = np.tile(OTHER, (16, 1))
    rows[[0, *LAST]] = both
    metrics = evaluate(Localisation(draws=10), Planted({"u": rows}), pool(scene("u"))).metrics
    assert metrics["among"].value == 0.5
    assert metrics["auc"].value > 0.8
    assert metrics["pointing"].value == pytest.approx((1 / 5 + 4 / 5) / 2)
    right = evaluate(Localisation(draws=10), Planted({"u": grid([0], LAST)}), pool(scene("u"))).metrics
    assert right["among"].value == 1.0
    alone = Sample("u", ArrayImage(np.zeros((40, 40, 3), np.uint8), "u"), regions=(Region((1, 1, 9, 9), "red"),))
    assert "among" not in evaluate(Localisation(draws=10), Planted({"u": grid([0], [])}), pool(alone)).metrics


def test_a_random_model_points_as_often_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    names = [f"u{i}" for i in range(300)]
    rows = rng.standard_normal((300, 16, 3)).astype(np.float32)
    model = Planted(dict(zip(names, rows, strict=True)))
    metrics = evaluate(Localisation(), model, pool(*(scene(name) for name in names))).metrics
    assert metrics["pointing"].low < metrics["pointing"].chance < metrics["pointing"].high
    assert metrics["auc"].low < 0.5 < metrics["auc"].high
    records = Localisation().predict(model, pool(scene("u0")))
    on_P = patches_on((20, 20, 40, 40), (0, 0, 1, 1), 4, 40, 40)
    assert np.flatnonzero(on_P).tolist() == LAST
    assert array(records, "auc")[1] == pytest.approx(roc_auc_score(on_P, rows[0] @ BLUE))


def test_phrases_are_read_in_their_text_where_that_holds_them() -> None:
    model = InContext({"u": grid([0], LAST), "v": grid([0], LAST)})
    samples = pool(scene("u", "a red and a blue one"), scene("v", "two things"))
    records = Localisation().predict(model, samples)
    assert array(records, "in_context").tolist() == [True, True, False, False]
    assert array(records, "pointing").tolist() == [0.0, 0.0, 1.0, 1.0]
    assert evaluate(Localisation(context=False), model, samples).value == 1.0


def test_names_that_two_regions_share_ask_for_neither() -> None:
    twice = Region((1, 1, 9, 9), "red"), Region((20, 20, 30, 30), "red"), Region((0, 20, 9, 30), "circle", ("red",))
    sample = Sample("u", ArrayImage(np.zeros((40, 40, 3), np.uint8), "u"), regions=twice)
    assert list(phrases(sample)) == ["red circle"]


def test_patches_follow_the_part_that_the_model_saw() -> None:
    whole, crop = (0.0, 0.0, 1.0, 1.0), (0.25, 0.0, 0.75, 1.0)
    assert np.flatnonzero(patches_on((0, 0, 20, 10), whole, 2, 40, 20)).tolist() == [0]
    assert np.flatnonzero(patches_on((10, 0, 20, 10), crop, 2, 40, 20)).tolist() == [0]
    assert not patches_on((0, 0, 9, 20), crop, 2, 40, 20).any(), "cut off by the crop"
    assert np.flatnonzero(patches_on((9, 9, 11, 11), whole, 4, 40, 40)).tolist() == [], "a quarter of the thing on each of four"
    assert np.flatnonzero(patches_on((8, 0, 12, 4), whole, 4, 40, 40)).tolist() == [0, 1], "half of it on each of two"


def test_refused() -> None:
    with pytest.raises(DataError, match="'planted' has no region that its name tells from the others"):
        evaluate(Localisation(), Planted({}), pool(Sample("u", ArrayImage(np.zeros((4, 4, 3), np.uint8), "u"))))
    with pytest.raises(ConfigError, match="15 patches do not form a square"):
        evaluate(Localisation(), Planted({"u": grid([0], LAST)[:15]}), pool(scene("u")))
