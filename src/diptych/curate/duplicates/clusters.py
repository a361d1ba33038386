"""Near-duplicates among embeddings, by clusters: dropped row -> kept row. There are two rules.

`greedy_duplicates`    rows in a given order; a row is dropped if a *kept* row is within `cosine`. Every dropped row is that close
                       to some kept row, for any clustering.
`semdedup_duplicates`  SemDeDup's (Abbas et al., 2023, 2303.09540): rows of a cluster by distance to its centre; row j is dropped
                       if
                       *any* row before it is that close, even a dropped one. Chains of small steps can then remove rows that are
                       far from every kept row. For parity.

With clusters, each row is compared only within its `probe` nearest ones: pairs across a border are missed if probe is 1. Letters:
N rows, D width, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.result import NearPairs

Ints = npt.NDArray[np.int64]
BLOCK = 1_024  # columns of a similarity matrix that is never held whole
BLOCK_ROWS, BLOCK_VALUES = 8 * BLOCK, 2**24
"""Rows, and cosines, of a product with all centres; many centres have fewer rows at a time."""
SEEN_COSINES = 10**7  # of an iteration of k-means from which on it has a bar


def kmeans_centres(
    vector_ND: Unit,
    clusters: int,
    *,
    seed: int = 0,
    iterations: int = 20,
    unit: bool = True,
    start_KD: npt.NDArray[np.floating[Any]] | None = None,
) -> Unit:
    """K-means centres of rows of norm 1, float32 [K, D]. An empty cluster takes the row least similar to its centre.

    unit      spherical: centres have norm 1, and rows go to the largest cosine; else centres are means, and rows go to the nearest, as in
              faiss
    start_KD  initial centres; None samples rows
    """
    if not 1 <= clusters <= len(vector_ND):
        raise ConfigError(f"{clusters} clusters of {len(vector_ND)} rows (expected at least 1, at most as many as rows)")
    if start_KD is None:
        start_KD = vector_ND[np.sort(np.random.default_rng(seed).choice(len(vector_ND), clusters, replace=False))]
    centre_KD = start_KD.astype(np.float64)
    least = 1 if len(vector_ND) * clusters >= SEEN_COSINES else iterations + 1
    for _ in with_bar(range(iterations), iterations, "k-means", least=least):
        label_N, near_N = _assigned(vector_ND, centre_KD, unit)
        count_K = np.bincount(label_N, minlength=clusters)
        sum_KD = np.zeros_like(centre_KD)
        np.add.at(sum_KD, label_N, vector_ND)
        for empty, worst in zip(np.flatnonzero(count_K == 0), np.argsort(near_N, kind="stable"), strict=False):
            sum_KD[empty] = vector_ND[worst]
        size_K = np.linalg.norm(sum_KD, axis=1) if unit else count_K.astype(np.float64).clip(1)
        moved = sum_KD / np.maximum(size_K[:, None], 1e-12)
        if np.allclose(moved, centre_KD, atol=1e-7):
            break
        centre_KD = moved
    return centre_KD.astype(np.float32)


def _assigned(vector_ND: Unit, centre_KD: npt.NDArray[np.float64], unit: bool = True) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Nearest centre of each row and its similarity: the cosine, of means less half their square norm."""
    label_N, near_N = np.zeros(len(vector_ND), np.int64), np.zeros(len(vector_ND))
    rows = _rows_at_once(centre_KD)
    for start in range(0, len(vector_ND), rows):
        cosine_BK = vector_ND[start : start + rows] @ centre_KD.T
        cosine_BK = cosine_BK if unit else cosine_BK - np.square(centre_KD).sum(1) / 2
        label_N[start : start + len(cosine_BK)] = cosine_BK.argmax(1)
        near_N[start : start + len(cosine_BK)] = cosine_BK.max(1)
    return label_N, near_N


def nearest_centres(vector_ND: Unit, centre_KD: Unit, probe: int, *, unit: bool = True) -> Ints:
    """Indices [N, probe] of the nearest centres of each row, the nearest first."""
    blocks, rows = [], _rows_at_once(centre_KD)
    for start in range(0, len(vector_ND), rows):
        cosine_BK = vector_ND[start : start + rows] @ centre_KD.T
        cosine_BK = cosine_BK if unit else cosine_BK - np.square(centre_KD).sum(1) / 2
        first = probe == 1  # of equal cosines the first centre, as a stable sort has it
        blocks.append(cosine_BK.argmax(1)[:, None] if first else np.argsort(-cosine_BK, axis=1, kind="stable")[:, :probe])
    return np.concatenate(blocks).astype(np.int64) if blocks else np.zeros((0, probe), np.int64)


def _rows_at_once(centre_KD: npt.NDArray[np.floating[Any]]) -> int:
    return max(1, min(BLOCK_ROWS, BLOCK_VALUES // len(centre_KD)))


def rows_of_clusters(label_N: Ints, clusters: int) -> list[Ints]:
    """Rows of each cluster, in order."""
    order_N = np.argsort(label_N, kind="stable")
    return np.split(order_N, np.searchsorted(label_N[order_N], np.arange(1, clusters)))


def greedy_duplicates(vector_ND: Unit, order: Sequence[int] | Ints, cosine: float, *, near_NP: Ints | None = None) -> NearPairs:
    """Greedy duplicates: dropped row -> (kept row, cosine). `near_NP`, the clusters of each row, bounds what is compared; None compares
    all."""
    clusters = int(near_NP.max()) + 1 if near_NP is not None and near_NP.size else 1
    count_K = [0] * clusters  # kept rows of each cluster
    kept = [np.empty(16, np.int64) for _ in range(clusters)]
    held = [np.empty((16, vector_ND.shape[1]), np.float32) for _ in range(clusters)]
    out = NearPairs(len(vector_ND))
    for row in with_bar(map(int, order), len(order), "comparing embeddings", least=20_000):
        homes = near_NP[row].tolist() if near_NP is not None else [0]
        best = (-2.0, -1)
        for home in homes:
            if count := count_K[home]:
                alike = held[home][:count] @ vector_ND[row]
                index = int(alike.argmax())
                best = max(best, (float(alike[index]), -int(kept[home][index])))
        if best[0] >= cosine:
            out.add(row, -best[1], best[0])
            continue
        for home in homes:  # added to all its clusters, so that neighbours across a border are compared with it
            if count_K[home] == len(kept[home]):
                held[home] = np.concatenate([held[home], np.empty_like(held[home])])
                kept[home] = np.concatenate([kept[home], np.empty_like(kept[home])])
            held[home][count_K[home]], kept[home][count_K[home]] = vector_ND[row], row
            count_K[home] += 1
    return out


def semdedup_duplicates(vector_ND: Unit, label_N: Ints, centre_KD: Unit, cosine: float) -> NearPairs:
    """SemDeDup's duplicates: dropped row -> (the first row before it that is near, cosine)."""
    out = NearPairs(len(vector_ND))
    for cluster, rows in enumerate(rows_of_clusters(label_N, len(centre_KD))):
        rows = rows[np.argsort(-(vector_ND[rows] @ centre_KD[cluster]), kind="stable")]
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            alike = vector_ND[rows[: start + len(block)]] @ vector_ND[block].T
            for column, row in enumerate(block.tolist()):
                before = alike[: start + column, column]
                if len(before) and before.max() > cosine:
                    index = int(np.flatnonzero(before > cosine)[0])
                    out.add(row, int(rows[index]), float(before[index]))
    return out
