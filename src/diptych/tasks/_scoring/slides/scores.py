"""Slide-level scores from tile probabilities: smoothing, shares, maps; as KEEP has them (2024, arXiv 2412.13126).

What implementations get wrong: a tile that comes twice counts twice; the threshold of a map is the best one of the slide that is scored,
its truth at hand; "normal" wins a vote among tumours that most of a slide's tiles are no part of.

Letters: N tiles, K classes, D width, H W pixels of a truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, ShapeError

Floats = npt.NDArray[np.float64]
FACTOR = 10.0
"""What cosines are multiplied with before the softmax, as published."""


@dataclass(frozen=True)
class TileScores:
    """Scores of a slide's tiles. place_N2: (x, y), pixels of level 0, each once. score_NK: a probability or a cosine of each class."""

    place_N2: npt.NDArray[np.int64]
    score_NK: Floats


def cosines(vector_ND: npt.NDArray[np.floating], class_KD: npt.NDArray[np.floating]) -> Floats:
    """Cosines [N, K] of rows of any length."""
    unit_ND, unit_KD = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (vector_ND, class_KD)
    )
    cosine_NK: Floats = unit_ND @ unit_KD.T
    return cosine_NK


def probabilities(cosine_NK: Floats, factor: float = FACTOR) -> Floats:
    """Softmax over the classes of `factor` times the cosines."""
    raised = np.exp(factor * (cosine_NK - cosine_NK.max(1, keepdims=True)))
    probability_NK: Floats = raised / raised.sum(1, keepdims=True)
    return probability_NK


def distinct_tiles(place_N2: npt.NDArray[np.int64], score_NK: Floats) -> TileScores:
    """Tiles without those whose position came before."""
    if place_N2.ndim != 2 or place_N2.shape[1] != 2 or len(place_N2) != len(score_NK) or not len(place_N2):
        raise ShapeError(
            f"places {list(place_N2.shape)} and scores {list(score_NK.shape)} (expected [N, 2] and [N, K], one tile or more)"
        )
    _, first = np.unique(place_N2, axis=0, return_index=True)
    kept = np.sort(first)
    return TileScores(place_N2[kept], score_NK[kept])


def smoothed(tiles: TileScores, stride: int) -> TileScores:
    """The mean of each tile and those at one stride to the left, above, and both, as far as they are there. With an overlap of half a
    tile these four are the tiles that cover the upper left quarter of the tile."""
    row_of = {(x, y): row for row, (x, y) in enumerate(tiles.place_N2.tolist())}
    mean_NK = np.empty_like(tiles.score_NK)
    for row, (x, y) in enumerate(tiles.place_N2.tolist()):
        near = [row_of.get((x - dx, y - dy)) for dx, dy in ((stride, stride), (0, stride), (stride, 0), (0, 0))]
        mean_NK[row] = tiles.score_NK[[other for other in near if other is not None]].mean(0)
    return TileScores(tiles.place_N2, mean_NK)


def detection_score(tiles: TileScores, tumour: int = 1, threshold: float = 0.5) -> float:
    """Share of the tiles whose probability of tumour is above the threshold."""
    return float((tiles.score_NK[:, tumour] > threshold).mean())


def subtype_shares(tiles: TileScores) -> Floats:
    """[K]: share of the tiles that each class wins; of equal scores the first class."""
    share_K: Floats = np.bincount(tiles.score_NK.argmax(1), minlength=tiles.score_NK.shape[1]) / len(tiles.score_NK)
    return share_K


def tile_truth(
    mask_HW: npt.NDArray[np.bool_], place_N2: npt.NDArray[np.int64], extent: int, shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """[N]: whether more than half of a tile is tumour. `shape` is (width, height) of the slide that the mask covers."""
    left, top, right, bottom = _boxes(mask_HW, place_N2, extent, shape)
    seen = (mask_HW[top[n] : bottom[n], left[n] : right[n]] for n in range(len(place_N2)))
    return np.array([bool(inside.size) and float(inside.mean()) > 0.5 for inside in seen])


def dice(
    probability_N: Floats,
    mask_HW: npt.NDArray[np.bool_],
    place_N2: npt.NDArray[np.int64],
    extent: int,
    shape: tuple[int, int],
    threshold: float,
) -> float:
    """2 |A and B| / (|A| + |B|) of the true mask and of the squares of all tiles above the threshold; 1 where both are empty."""
    painted_HW = np.zeros_like(mask_HW)
    left, top, right, bottom = _boxes(mask_HW, place_N2, extent, shape)
    for row in np.flatnonzero(probability_N > threshold):
        painted_HW[top[row] : bottom[row], left[row] : right[row]] = True
    total = int(mask_HW.sum()) + int(painted_HW.sum())
    return 2 * int((mask_HW & painted_HW).sum()) / total if total else 1.0


def youden_threshold(probability_N: Floats, truth_N: npt.NDArray[np.bool_]) -> float:
    """The probability p at which (sensitivity - false positive rate) of "p or more" is largest; the highest of several. Raises
    ConfigError where all tiles are of one kind."""
    if truth_N.all() or not truth_N.any():
        raise ConfigError("a threshold needs tiles with tumour and tiles without")
    order = np.argsort(-probability_N, kind="stable")
    sorted_N, hit_N = probability_N[order], truth_N[order]
    last = np.flatnonzero(np.append(np.diff(sorted_N) != 0, True))
    apart = hit_N.cumsum()[last] / hit_N.sum() - (~hit_N).cumsum()[last] / (~hit_N).sum()
    return float(sorted_N[last[int(apart.argmax())]]) if apart.max() > 0 else float("inf")


def cut_below(value: float, probability_N: Floats) -> float:
    """Threshold halfway between this probability and the next smaller one, so that "above" it and "at it or above" are the same tiles."""
    smaller = probability_N[probability_N < value]
    return float((value + smaller.max()) / 2) if len(smaller) and np.isfinite(value) else value


def sensitivity_at(score_N: Floats, positive_N: npt.NDArray[np.bool_], specificity: float) -> float:
    """The largest share of positives above a threshold that leaves at least that share of the negatives at or below it. NaN where all
    are of one kind."""
    if positive_N.all() or not positive_N.any():
        return float("nan")
    negatives = np.sort(score_N[~positive_N])
    index = max(int(np.ceil(specificity * len(negatives) - 1e-9)) - 1, 0)
    return float((score_N[positive_N] > negatives[index]).mean())


def _boxes(
    mask_HW: npt.NDArray[np.bool_], place_N2: npt.NDArray[np.int64], extent: int, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], ...]:
    """Tile edges in the pixels of the mask: left, top, right, bottom, rounded down."""
    scale = np.array([mask_HW.shape[1] / shape[0], mask_HW.shape[0] / shape[1]])
    start, stop = (np.floor(corner * scale + 1e-9).astype(np.int64) for corner in (place_N2, place_N2 + extent))
    return start[:, 0], start[:, 1], stop[:, 0], stop[:, 1]
