"""Hierarchical k-means: clusters of bounded size, and nearest neighbours within them, in time that is linear in the rows.

A cluster of more than `max_size` rows is split by k-means into at most `BRANCH` clusters, fitted to a sample of its rows, and these are
split in turn. Each level costs BRANCH dot products a row, and there are log(N / max_size) / log(BRANCH) levels: three for 100 million
rows. Rows that k-means cannot tell apart, such as copies, stay together in a larger cluster; drop exact duplicates first.

Letters: N rows, Q queries, D width, K clusters (leaves of the tree), P clusters that are searched, T neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.curate.duplicates.clusters import BLOCK_ROWS, kmeans_centres, nearest_centres, rows_of_clusters

Ints = npt.NDArray[np.int64]
BRANCH = 64
SAMPLE_EACH = 64
"""Rows per cluster to which k-means is fitted."""
ROOT = 0


@dataclass(frozen=True)
class _Node:
    """centre_KD  centres of the clusters into which a node is split
    child_K    for each the number of its node, or the number of its leaf as -1 - leaf
    """

    centre_KD: Unit
    child_K: Ints


@dataclass(frozen=True)
class ClusterTree:
    """Clusters of rows of norm 1.

    nodes    splits, the whole first; none if all rows are one cluster
    label_N  cluster of each row
    leaves   number of clusters
    """

    nodes: tuple[_Node, ...]
    label_N: Ints
    leaves: int

    @classmethod
    def fitted(cls, vector_ND: Unit, max_size: int, *, seed: int = 0) -> Self:
        """Split rows until no cluster has more than `max_size` of them. Raises ConfigError for a size below 1."""
        if max_size < 1:
            raise ConfigError(f"max_size is {max_size} (expected 1 row or more)")
        label_N = np.zeros(len(vector_ND), np.int64)
        nodes: list[_Node] = []
        leaves = 0
        waiting: list[tuple[Ints, int, int]] = [(np.arange(len(vector_ND)), -1, 0)]  # rows, parent and index in it
        while waiting:
            rows, parent, index = waiting.pop()
            split = _split(vector_ND, rows, max_size, keyed_seed(seed, "cluster tree", len(nodes)))
            if parent >= 0:
                nodes[parent].child_K[index] = -1 - leaves if split is None else len(nodes)
            if split is None:
                label_N[rows] = leaves
                leaves += 1
                continue
            centre_KD, members = split
            number = len(nodes)
            nodes.append(_Node(centre_KD, np.zeros(len(centre_KD), np.int64)))
            waiting += [(some, number, at) for at, some in reversed(list(enumerate(members)))]
        return cls(tuple(nodes), label_N, leaves)

    def members(self) -> list[Ints]:
        """Rows of each cluster, in order."""
        return rows_of_clusters(self.label_N, self.leaves)

    def means(self, vector_ND: Unit) -> Unit:
        """Mean direction of the rows of each cluster, [K, D]."""
        mean_KD = np.stack([vector_ND[rows].mean(0, dtype=np.float64) for rows in self.members()])
        centre_KD: Unit = (mean_KD / np.maximum(np.linalg.norm(mean_KD, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return centre_KD

    def nearest(self, query_QD: Unit, probes: int) -> Ints:
        """Clusters [Q, P] near each query, the nearest first. The best `probes` branches of each level are followed; with one probe a
        row of the tree finds its own cluster."""
        count = min(probes, self.leaves)
        if not self.nodes:
            return np.zeros((len(query_QD), count), np.int64)
        starts = range(0, len(query_QD), BLOCK_ROWS)
        blocks = [self._nearest_of_block(query_QD[start : start + BLOCK_ROWS], probes, count) for start in starts]
        return np.concatenate(blocks) if blocks else np.zeros((0, count), np.int64)

    def _nearest_of_block(self, query_BD: Unit, probes: int, count: int) -> Ints:
        owner_F, node_F = np.arange(len(query_BD)), np.full(len(query_BD), ROOT)
        cosine_F = np.zeros(len(query_BD), np.float32)
        while (inner_F := node_F >= 0).any():
            owners, nodes, cosines = [owner_F[~inner_F]], [node_F[~inner_F]], [cosine_F[~inner_F]]
            owner_I, node_I = owner_F[inner_F], node_F[inner_F]
            order_I = np.argsort(node_I, kind="stable")
            clusters, first = np.unique(node_I[order_I], return_index=True)
            for number, at_I in zip(clusters.tolist(), np.split(order_I, first[1:]), strict=True):
                node = self.nodes[number]
                cosine_IK = query_BD[owner_I[at_I]] @ node.centre_KD.T
                near_IP = np.argsort(-cosine_IK, axis=1, kind="stable")[:, :probes]
                owners.append(np.repeat(owner_I[at_I], near_IP.shape[1]))
                nodes.append(node.child_K[near_IP].ravel())
                cosines.append(np.take_along_axis(cosine_IK, near_IP, 1).ravel())
            owner_F, node_F, cosine_F = np.concatenate(owners), np.concatenate(nodes), np.concatenate(cosines)
            best = best_of_each(owner_F, cosine_F, node_F, probes)
            owner_F, node_F, cosine_F = owner_F[best], node_F[best], cosine_F[best]
        return (-1 - node_F).reshape(len(query_BD), count)


def _split(vector_ND: Unit, rows: Ints, max_size: int, seed: int) -> tuple[Unit, list[Ints]] | None:
    """Centres of the clusters into which some rows are split, and the rows of each; None if they stay together."""
    if len(rows) <= max_size:
        return None
    count = min(BRANCH, -(-2 * len(rows) // max_size), len(rows))
    sample = np.sort(np.random.default_rng(seed).permutation(len(rows))[: count * SAMPLE_EACH])
    centre_KD = kmeans_centres(vector_ND[rows[sample]], min(count, len(sample)), seed=seed)
    starts = range(0, len(rows), BLOCK_ROWS)
    label_R = np.concatenate([nearest_centres(vector_ND[rows[s : s + BLOCK_ROWS]], centre_KD, 1)[:, 0] for s in starts])
    members = [rows[some] for some in rows_of_clusters(label_R, len(centre_KD))]
    filled = [number for number, some in enumerate(members) if len(some)]
    return (centre_KD[filled], [members[number] for number in filled]) if len(filled) > 1 else None


def best_of_each(owner_F: Ints, score_F: npt.NDArray[Any], item_F: Ints, count: int) -> Ints:
    """Positions of the `count` largest scores of every owner, in order of owner, the largest first, ties by item."""
    order_F = np.lexsort((item_F, -score_F, owner_F))
    owners = owner_F[order_F]
    first_F = np.searchsorted(owners, owners)
    best: Ints = order_F[np.arange(len(owners)) - first_F < count]
    return best


def neighbours_in_clusters(
    query_QD: Unit, row_ND: Unit, tree: ClusterTree, *, probes: int, top: int, itself_Q: Ints | None = None
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Nearest rows of each query in the `probes` clusters near it: rows [Q, T] and cosines [Q, T], the nearest first, ties by row; -1 and
    -inf where the clusters hold fewer. With as many probes as clusters the search is exact.

    tree      clusters of `row_ND`
    itself_Q  a row that is no neighbour of a query; -1 none
    """
    if probes < 1 or top < 1:
        raise ConfigError(f"probes is {probes}, top {top} (expected 1 or more)")
    row_QT, cosine_QT = np.full((len(query_QD), top), -1, np.int64), np.full((len(query_QD), top), -np.inf, np.float32)
    members, near_QP = tree.members(), tree.nearest(query_QD, probes)
    order_Q = np.argsort(near_QP[:, 0], kind="stable")  # queries of one cluster are searched together
    for start in range(0, len(order_Q), BLOCK_ROWS):
        query_B = order_Q[start : start + BLOCK_ROWS]
        owner_F, cluster_F = np.repeat(query_B, near_QP.shape[1]), near_QP[query_B].ravel()
        by_cluster = np.argsort(cluster_F, kind="stable")
        clusters, first = np.unique(cluster_F[by_cluster], return_index=True)
        owners, rows, cosines = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for cluster, at in zip(clusters.tolist(), np.split(by_cluster, first[1:]), strict=True):
            for some in range(0, len(at), 256):
                asked, some_R = owner_F[at[some : some + 256]], members[cluster]
                cosine_IR = query_QD[asked] @ row_ND[some_R].T
                if itself_Q is not None:
                    cosine_IR[itself_Q[asked][:, None] == some_R] = -np.inf
                owner, row, cosine = _largest(cosine_IR, top)
                owners.append(asked[owner])
                rows.append(some_R[row])
                cosines.append(cosine)
        owner_F, row_F, cosine_F = np.concatenate(owners), np.concatenate(rows), np.concatenate(cosines)
        best = best_of_each(owner_F, cosine_F, row_F, top)
        best = best[np.isfinite(cosine_F[best])]
        owner_F = owner_F[best]
        rank_F = np.arange(len(owner_F)) - np.searchsorted(owner_F, owner_F)
        row_QT[owner_F, rank_F], cosine_QT[owner_F, rank_F] = row_F[best], cosine_F[best]
    return row_QT, cosine_QT


def _largest(cosine_IR: npt.NDArray[Any], count: int) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
    """Row, column and value of all entries that are at least the `count`-th largest of their row."""
    if cosine_IR.shape[1] > count:
        least_I1 = np.partition(cosine_IR, -count, axis=1)[:, -count, None]
        row_F, column_F = np.nonzero(cosine_IR >= least_I1)
    else:
        row_F, column_F = np.nonzero(np.ones(cosine_IR.shape, bool))
    return row_F, column_F, cosine_IR[row_F, column_F].astype(np.float32)
