"""Drop semantic duplicates: images of high cosine similarity to a kept one, compared inside clusters (SemDeDup).

`rule` says how: see `clusters`. The published rule over-deletes along chains and is there for parity; greedy is the default. Greedy
takes rows in order of uid. Every drop names the row for which it left and the cosine. Rows without an image stay.

Cost: one embedding a row, k-means on a sample of rows, then comparisons with what is kept in the two nearest clusters: N^1.5 in all
with the square root of N clusters, which is what 0 takes. `max_cluster_size` makes it linear, by hierarchical k-means.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError
from diptych.curate.duplicates.cluster_tree import ClusterTree
from diptych.curate.duplicates.clusters import greedy_duplicates, kmeans_centres, nearest_centres, semdedup_duplicates
from diptych.curate.duplicates.result import NearPairs, duplicates_result
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore

SAMPLE_EACH = 64  # rows per cluster on which k-means is fitted


@dataclass(frozen=True)
class SemanticDuplicates:
    """model     address of an image embedding model
    cosine    minimum cosine of duplicates (published 1 - eps; 0.95 there for LAION)
    clusters  number of k-means clusters; 0: the square root of the number of rows
    max_cluster_size  maximum number of rows of a cluster, of hierarchical k-means; 0 takes `clusters`. More copies than that are torn apart
    probe     number of nearest clusters in which a row is compared (published 1)
    rule      greedy | reference
    seed      seed of k-means
    """

    slug: ClassVar[str] = "semantic_duplicates"
    paths: ClassVar[tuple[str, ...]] = ()

    model: str = ""
    cosine: float = 0.95
    clusters: int = 0
    max_cluster_size: int = 0
    probe: int = 2
    rule: Literal["greedy", "reference"] = "greedy"
    seed: int = 0

    def __post_init__(self) -> None:
        if not -1 < self.cosine <= 1:
            raise ConfigError(f"cosine is {self.cosine} (expected above -1, at most 1)")
        if self.rule not in ("greedy", "reference") or self.clusters < 0 or self.probe < 1:
            raise ConfigError(
                f"rule {self.rule!r}, clusters {self.clusters}, probe {self.probe} (expected greedy | reference, 0.., 1..)"
            )
        if self.max_cluster_size < 0 or (self.max_cluster_size and self.clusters):
            raise ConfigError(
                f"max_cluster_size is {self.max_cluster_size} and clusters {self.clusters} (expected 0 or more, and one of them)"
            )

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = self._model()
        facts = estimate_cost(data, lambda image: model.embed_images([image]), unit="embedding (one at a time)")
        return {**facts, "needs": "clusters of all embeddings"}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings that an earlier run finished."""
        start = time.perf_counter()
        embeddings = embed_pool(data, self._model(), parts)
        near = self._pairs(embeddings.vector_ND)
        return duplicates_result(
            data,
            self.slug,
            pa.array(embeddings.uids, pa.string()),
            near,
            (f"cosine {alike:.3f}" for alike in near.alike()),
            column="semantic_duplicate_of",
            start=start,
            unreadable=embeddings.unreadable.table,
        )

    def _pairs(self, vector_ND: Any) -> NearPairs:
        count = len(vector_ND)
        if not count:
            return NearPairs(0)
        if self.max_cluster_size:
            tree = ClusterTree.fitted(vector_ND, self.max_cluster_size, seed=self.seed)
            if self.rule == "reference":
                return semdedup_duplicates(vector_ND, tree.label_N, tree.means(vector_ND), self.cosine)
            return greedy_duplicates(vector_ND, range(count), self.cosine, near_NP=tree.nearest(vector_ND, self.probe))
        clusters = min(self.clusters or max(1, round(count**0.5)), count)
        sample = np.random.default_rng(self.seed).permutation(count)[: clusters * SAMPLE_EACH]
        centre_KD = kmeans_centres(vector_ND[np.sort(sample)], min(clusters, len(sample)), seed=self.seed)
        near_NP = nearest_centres(vector_ND, centre_KD, 1 if self.rule == "reference" else min(self.probe, clusters))
        if self.rule == "reference":
            return semdedup_duplicates(vector_ND, near_NP[:, 0], centre_KD, self.cosine)
        return greedy_duplicates(vector_ND, range(count), self.cosine, near_NP=near_NP)

    def _model(self) -> Any:
        if not self.model:
            raise ConfigError("semantic_duplicates needs a model that embeds images (--model RUN, hf:NAME, open_clip:ARCH/FILE)")
        return open_embedder(self.model)
