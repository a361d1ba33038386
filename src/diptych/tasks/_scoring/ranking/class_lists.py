"""Image-to-image retrieval by class: nearest neighbours scored by their labels (Matryoshka, 2205.13147, section 4.3).

    precision@k  share of the first k that have the class
    map@k        sum of precision@r over the relevant ranks r <= k, divided by the relevant items in the gallery (as in
                 trec_eval and ranx)
    map_by_k@k   the same sum divided by k, regardless of the number of relevant items, as in the Matryoshka paper
    recall@k     relevant items among the first k, divided by those in the gallery (the released code: by 1,300)
    hit@k        1 if any of the first k is relevant; the paper calls hit@1 top-1 nearest-neighbour accuracy

A class that the gallery lacks scores 0 everywhere. Letters: N queries, G gallery items, K ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NAMES = ("map", "map_by_k", "precision", "recall", "hit")
BLOCK = 1024
"""Block size: queries whose cosines with the whole gallery are held at once."""


def knn_hits(
    query_ND: Floats, gallery_GD: Floats, label_N: npt.NDArray[np.int64], label_G: npt.NDArray[np.int64], k: int
) -> Bools:
    """right_NK: True where one of the k nearest items by inner product has the label of its query; ties go to the earlier row."""
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
