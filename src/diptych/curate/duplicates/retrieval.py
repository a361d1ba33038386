"""Nearest-neighbour search through clusters, and a cap on rows of each cluster (RealSyn, 2502.12513).

Letters: N queries, M rows, K clusters, D width, T found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.curate.duplicates.clusters import nearest_centres, rows_of_clusters

Ints = npt.NDArray[np.int64]


def hierarchical(
    query_ND: npt.NDArray[Any],
    row_MD: npt.NDArray[Any],
    label_M: Ints,
    centre_KD: npt.NDArray[Any],
    *,
    probes: int,
    top: int,
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """For each query its `probes` nearest centres, then the `top` nearest rows of their clusters: places [N, T] and cosines [N, T], the
    nearest first, ties by place; -1 and -inf where the clusters hold fewer. With as many probes as clusters the search is exact.
    """
    if probes < 1 or top < 1:
        raise ConfigError(f"probes is {probes}, top {top} (expected 1 or more)")
    members = rows_of_clusters(label_M, len(centre_KD))
    near_NP = nearest_centres(query_ND, centre_KD, min(probes, len(centre_KD)))
    place_NT, cosine_NT = np.full((len(query_ND), top), -1, np.int64), np.full((len(query_ND), top), -np.inf)
    for number, clusters in enumerate(near_NP):
        rows = np.sort(np.concatenate([members[cluster] for cluster in clusters.tolist()]))
        cosine_R = row_MD[rows] @ query_ND[number]
        best = np.argsort(-cosine_R, kind="stable")[:top]
        place_NT[number, : len(best)], cosine_NT[number, : len(best)] = rows[best], cosine_R[best]
    return place_NT, cosine_NT


def cap_clusters(label_N: Ints, cap: int, *, seed: int, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Keep mask, bool [N]: all of a cluster with at most `cap` rows, else `cap` of them by draws keyed by (seed, name)."""
    if cap < 1:
        raise ConfigError(f"cap is {cap} (expected 1 or more)")
    order_N = np.fromiter((keyed_rng(seed, "balance", name).random() for name in names), np.float64, len(names))
    stays_N = np.zeros(len(label_N), bool)
    for rows in rows_of_clusters(label_N, int(label_N.max(initial=-1)) + 1):
        stays_N[rows[np.argsort(order_N[rows], kind="stable")[:cap]]] = True
    return stays_N


def cap_for(label_N: Ints, target: int) -> int:
    """Largest cap that keeps at most `target` rows, sum over clusters of min(n, cap); 1 at least. By bisection."""
    count_K = np.bincount(label_N)
    low, high = 1, max(1, int(count_K.max(initial=1)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(count_K, middle).sum()) <= target else (low, middle - 1)
    return low
