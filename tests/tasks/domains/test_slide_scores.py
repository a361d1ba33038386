"""From tiles to slides: against numbers of the released code, against hand-made slides, and without looking at labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from diptych.core.errors import ConfigError
from diptych.tasks._scoring.slides.prompt_screening import prompt_sets, screened, screening_scores
from diptych.tasks._scoring.slides.scores import (
    TileScores,
    cosines,
    detection_score,
    dice,
    distinct_tiles,
    probabilities,
    sensitivity_at,
    smoothed,
    subtype_shares,
    tile_truth,
    youden_threshold,
)
from diptych.tasks.domains.slide_task import tile_scores

RELEASED = json.loads((Path(__file__).parents[2] / "parity" / "released" / "keep_slides_released.json").read_text())
PLACES, FEATURES = np.array(RELEASED["coords"]), np.array(RELEASED["features"])
CLASSES, STRIDE = np.array(RELEASED["classes"]).T, RELEASED["patch"]
MASK_SIDE = RELEASED["mask"]["size"]


def disc() -> np.ndarray:
    y, x = np.mgrid[:MASK_SIDE, :MASK_SIDE]
    cx, cy = RELEASED["mask"]["centre"]
    mask: np.ndarray = (y - cy) ** 2 + (x - cx) ** 2 < RELEASED["mask"]["radius"] ** 2
    return mask


@pytest.mark.parametrize("overlap", [False, True])
def test_slides_are_read_as_the_released_code_reads_them(overlap: bool, parity: Any) -> None:
    by = str(overlap)
    two = distinct_tiles(PLACES, probabilities(cosines(FEATURES, CLASSES[:2])))
    four = distinct_tiles(PLACES, cosines(FEATURES, CLASSES))
    four = TileScores(four.place_N2, probabilities(four.score_NK))
    if overlap:
        two, four = smoothed(two, STRIDE), smoothed(four, STRIDE)
    assert len(two.place_N2) == len(PLACES) - 1, "one place came twice"
    found = [(detection_score(two), RELEASED["detection"][by])]
    parity("keep", "detection score of a slide", "detection_utils.py of KEEP (a346a70)", found, tolerance=1e-12)
    winner = int(subtype_shares(four)[:-1].argmax())
    parity("keep", "subtype of a slide", "subtyping_utils.py of KEEP (a346a70)", [(winner, RELEASED["subtype"][by])], tolerance=0)
    tumour_N = two.score_NK[:, 1]
    theirs = RELEASED["segmentation"][by]
    mask, shape = disc(), (MASK_SIDE, MASK_SIDE)
    truth_N = tile_truth(mask, two.place_N2, STRIDE, shape)
    best = youden_threshold(tumour_N, truth_N)
    found = [(tumour_N, RELEASED["probability"][by][:-1]), (best, theirs["threshold"])]
    found += [
        (dice(tumour_N, mask, two.place_N2, STRIDE, shape, at), theirs[name])
        for at, name in ((best, "dice"), (0.4, "dice_at_0.4"))
    ]
    parity(
        "keep", "tumour map of a slide, its best threshold and Dice", "segment_utils.py of KEEP (a346a70)", found, tolerance=1e-12
    )


def test_the_tiles_of_a_slide_are_scored_from_their_vectors_alone() -> None:
    """Naive: cosines with the class vectors of all sets together, ten times them, softmax; a place that comes twice counts once."""
    rng = np.random.default_rng(0)
    vector_ND, class_SKD = rng.normal(size=(6, 5)).astype(np.float32), rng.normal(size=(4, 3, 5)).astype(np.float32)
    class_SKD /= np.linalg.norm(class_SKD, axis=2, keepdims=True)
    place_N2 = np.array([[0, 0], [8, 0], [0, 8], [8, 8], [8, 8], [16, 0]])
    scores, pooled_K = tile_scores(vector_ND, place_N2, class_SKD, best=0)

    def shares(vector_D: Any) -> Any:
        total_KD = class_SKD.sum(0)
        raised = np.exp([10 * vector_D @ row / np.linalg.norm(vector_D) / np.linalg.norm(row) for row in total_KD])
        return raised / raised.sum()

    np.testing.assert_array_equal(scores.place_N2, place_N2[[0, 1, 2, 3, 5]])
    np.testing.assert_allclose(scores.score_NK, [shares(vector_ND[row]) for row in (0, 1, 2, 3, 5)], rtol=1e-5)
    np.testing.assert_allclose(pooled_K, shares(vector_ND.mean(0)), rtol=1e-5)
    mean, _ = tile_scores(vector_ND, place_N2, class_SKD, best=0, smoothed_by=8)
    np.testing.assert_allclose(mean.score_NK[3], scores.score_NK[:4].mean(0))


def test_prompts_are_screened_as_the_released_code_does(parity: Any) -> None:
    unit_ND = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    sets_SKD = np.array(RELEASED["sets"]).transpose(0, 2, 1)
    scores = screening_scores(unit_ND, sets_SKD)
    merged = screened(sets_SKD, scores, 3)
    pairs = [(scores, RELEASED["set_scores"]), (merged.T, RELEASED["merged"])]
    parity("keep", "scores of prompt sets and their merged classes", "utils.py of KEEP (a346a70)", pairs, tolerance=1e-12)


def test_detection_of_a_slide_of_four_by_four_tiles_by_hand() -> None:
    """Tumour probabilities .9 in the lower right quarter and .6 at one other place: 5 of 16 tiles; the mean with neighbours to the left
    and above leaves (2, 2) at (.1 + .1 + .1 + .9) / 4 = .3 and keeps (3, 3) at .9."""
    probability = np.full((4, 4), 0.1)
    probability[2:, 2:] = 0.9
    probability[0, 0] = 0.6
    place_N2 = np.array([(x * 10, y * 10) for y in range(4) for x in range(4)])
    tiles = distinct_tiles(place_N2, np.stack([1 - probability.ravel(), probability.ravel()], 1))
    assert detection_score(tiles) == 5 / 16
    assert detection_score(tiles, threshold=0.7) == 4 / 16
    mean = smoothed(tiles, 10).score_NK[:, 1].reshape(4, 4)
    assert mean[2, 2] == pytest.approx(0.3)
    assert mean[2, 3] == pytest.approx((0.1 + 0.1 + 0.9 + 0.9) / 4)
    assert mean[3, 3] == pytest.approx(0.9)
    assert mean[0, 0] == pytest.approx(0.6), "nothing lies left of it or above"
    assert mean[0, 1] == pytest.approx((0.6 + 0.1) / 2)
    assert mean[1, 1] == pytest.approx((0.6 + 0.1 + 0.1 + 0.1) / 4)
    assert detection_score(smoothed(tiles, 10)) == 2 / 16, (
        "(3, 3) and the corner that has no neighbours; (2, 3) is .5 and not above"
    )
    holes = distinct_tiles(place_N2[[0, 5, 10]], tiles.score_NK[[0, 5, 10]])
    assert smoothed(holes, 10).score_NK[1, 1] == pytest.approx((0.6 + 0.1) / 2), "only the tiles that are there"


def test_normal_never_wins_a_vote_of_subtypes() -> None:
    score_NK = np.array([[0.9, 0.8, 1.0], [0.2, 0.1, 0.9], [0.1, 0.6, 0.3], [0.5, 0.5, 0.1]])
    shares = subtype_shares(TileScores(np.zeros((4, 2), np.int64), score_NK))
    assert shares.tolist() == [0.25, 0.25, 0.5]


def test_the_threshold_is_that_of_the_receiver_curve() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random(40) < 0.4
        score = np.round(rng.random(40) + 0.3 * truth, 1)
        false, true, thresholds = roc_curve(truth, score, drop_intermediate=False)
        assert youden_threshold(score, truth) == thresholds[np.argmax(true - false)]
    with pytest.raises(ConfigError, match="with tumour and tiles without"):
        youden_threshold(np.zeros(3), np.ones(3, bool))


def test_sensitivity_at_a_specificity_by_hand() -> None:
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.35, 0.5, 0.05])
    positive = np.array([False, False, False, False, True, True, True])
    assert sensitivity_at(score, positive, 1.0) == pytest.approx(1 / 3)
    assert sensitivity_at(score, positive, 0.75) == pytest.approx(2 / 3)
    assert sensitivity_at(score, positive, 0.5) == pytest.approx(2 / 3)
    assert np.isnan(sensitivity_at(score, np.ones(7, bool), 0.9))


def test_masks_of_another_size_lie_where_the_slide_does() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    place = np.array([(x * 25, y * 25) for y in range(4) for x in range(4)])
    truth = tile_truth(mask, place, 25, (100, 100))
    assert truth.reshape(4, 4).tolist() == mask.tolist()
    assert dice(truth.astype(float), mask, place, 25, (100, 100), 0.5) == 1.0
    assert dice(np.zeros(16), np.zeros((4, 4), bool), place, 25, (100, 100), 0.5) == 1.0
    assert dice(np.ones(16), mask, place, 25, (100, 100), 0.5) == pytest.approx(2 / 17)


def test_every_set_has_one_template_and_a_name_for_each_class() -> None:
    names = {"normal": ("normal tissue", "healthy tissue"), "tumour": ("tumour", "cancer", "neoplasm")}
    sets = prompt_sets(names, ("{}.", "an image of {}."))
    assert len(sets) == len(set(sets)) == 12
    assert ("an image of healthy tissue.", "an image of cancer.") in sets
    assert all(a.startswith("an") == b.startswith("an") for a, b in sets)
    few = prompt_sets(names, ("{}.", "an image of {}."), at_most=5, seed=1)
    assert len(few) == 5
    assert set(few) <= set(sets)
    assert few == prompt_sets(names, ("{}.", "an image of {}."), at_most=5, seed=1)
    with pytest.raises(ConfigError):
        prompt_sets({"a": ()}, ("{}",))
