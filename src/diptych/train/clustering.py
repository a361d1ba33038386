"""K-means over features: the same seed, the same clusters, regardless of the number of threads.  Letters: N items, D width."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed

LARGE = 500_000_000
"""Items times clusters from which mini-batches stand in for whole passes."""


def k_means(x_ND: Tensor, clusters: int, *, seed: int, iterations: int = 20, restarts: int = 3) -> tuple[Tensor, Tensor]:
    """Labels [N] from 0 to K - 1, each item's nearest of the centroids [K, D], float32: Lloyd's algorithm from random items, the best of
    `restarts`; features are not normalised.

    Where the iterations end before the clusters rest, a centroid is not the mean of those whose label is its. With fewer different items
    than clusters the rest stays empty, and of fewer items at all the other centroids are zeros. One thread, so that sums have one order.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    if clusters < 1 or not len(x_ND):
        raise ConfigError(f"{clusters} clusters of {len(x_ND)} items (expected 1 or more of each)")
    rows_ND: npt.NDArray[np.float32] = x_ND.detach().cpu().float().numpy()
    kind = KMeans if len(rows_ND) * clusters <= LARGE else MiniBatchKMeans
    options = {"n_clusters": min(clusters, len(rows_ND)), "n_init": restarts, "max_iter": iterations, "init": "random"}
    state = keyed_seed("k_means", seed) % 2**32
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different items than clusters: the rest is empty
        clustering = kind(random_state=state, **options).fit(rows_ND)
    centroid_KD = np.zeros((clusters, rows_ND.shape[1]), np.float32)
    centroid_KD[: len(clustering.cluster_centers_)] = clustering.cluster_centers_
    return torch.from_numpy(clustering.labels_.astype(np.int64)), torch.from_numpy(centroid_KD)
