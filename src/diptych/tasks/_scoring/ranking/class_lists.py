"""Image-to-image retrieval by class: nearest neighbours scored by their labels (Matryoshka, 2205.13147, section 4.3).

    precision@k  share of the first k that have the class
    map@k        sum over the places r <= k that have it of precision@r, divided by how many of the gallery have it (as in
                 trec_eval and ranx)
    map_by_k@k   the same sum divided by k, whatever there is to be found, as Matryoshka's paper has it
    recall@k     how many of the first k have it, divided by how many of the gallery do (the released code: by 1,300)
    hit@k        whether any of the first k has it; hit@1 is what the paper calls top-1 of the nearest neighbour

A class that the gallery lacks has 0 everywhere. Letters: N queries, G gallery items, K places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NAMES = ("map", "map_by_k", "precision", "recall", "hit")
BLOCK = 1024
"""Queries whose cosines with the whole gallery are held at once."""


def knn_hits(
    query_ND: Floats, gallery_GD: Floats, label_N: npt.NDArray[np.int64], label_G: npt.NDArray[np.int64], k: int
) -> Bools:
    """right_NK: whether each of the k nearest by inner product has the label of its query; of equally near ones the earlier rows come
    first."""
    blocks = [np.zeros((0, min(k, len(label_G))), bool)]
    for at in range(0, len(query_ND), BLOCK):
        near_BK = np.argsort(-(query_ND[at : at + BLOCK] @ gallery_GD.T), axis=1, kind="stable")[:, :k]
        blocks.append(label_G[near_BK] == label_N[at : at + BLOCK, None])
    return np.concatenate(blocks)


def list_values(right_NK: Bools, there_N: npt.NDArray[np.int64], ks: Sequence[int]) -> dict[str, Floats]:
    """Value of every query by name and k: "map@10". there_N: how many of the gallery have its class."""
    found_NK = right_NK.cumsum(1)
    precision_NK = found_NK / np.arange(1, right_NK.shape[1] + 1)
    values: dict[str, Floats] = {}
    for k in ks:
        count_N = found_NK[:, k - 1]
        precision_N = (precision_NK * right_NK)[:, :k].sum(1)
        each = (
            precision_N / np.maximum(there_N, 1),
            precision_N / k,
            count_N / k,
            count_N / np.maximum(there_N, 1),
            (count_N > 0).astype(np.float64),
        )
        values |= {f"{name}@{k}": value_N for name, value_N in zip(NAMES, each, strict=True)}
    return values
