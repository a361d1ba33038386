"""Keeps images in the clusters of a target set: DataComp's image-based filter (Gadre et al., 2023, 2304.14108).

The embeddings of the pool are clustered by k-means. Each target image, such as those of ImageNet's training set, selects the
cluster with the nearest centre; rows of clusters without a target image are dropped. The published filter is applied only to rows
that passed a caption filter (English, more than one word and five characters), which is a separate step before this one, as is
the selection of the highest CLIP scores (`top_fraction`). Rows without an image are dropped.

Cost: one embedding per image of pool and target, k-means on a sample, and a product with all centres per row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError
from diptych.curate.duplicates.clusters import kmeans_centres, nearest_centres
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.worlds.address import open_data

SAMPLE_EACH = 64  # rows per cluster on which k-means is fitted


@dataclass(frozen=True)
class TargetClusters:
    """model     address of an image embedding model (published: CLIP ViT-L/14)
    target    address of the target images
    clusters  number of k-means clusters of the pool (published 100,000); 0: the square root of the number of rows
    seed      seed of k-means
    """

    slug: ClassVar[str] = "target_clusters"
    paths: ClassVar[tuple[str, ...]] = ()

    model: str = ""
    target: str = ""
    clusters: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clusters < 0:
            raise ConfigError(f"clusters is {self.clusters} (expected 1 or more, or 0 for the square root of the rows)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        model, target = self._given()
        facts = estimate_cost(data, lambda image: model.embed_images([image]), unit="embedding (one at a time)")
        items = len(data) + len(target)
        return {**facts, "items": items, "seconds": facts["seconds_each"] * items, "target": len(target)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, with the column ``target_cluster``: the cluster of each row, numbers from 0."""
        start = time.perf_counter()
        model, target = self._given()
        pool = embed_pool(data, model, parts)
        aims = embed_pool(target, model, parts)
        if not len(aims.uids):
            raise ConfigError(
                f"target {self.target} has no image that can be read (expected images such as the pool should hold)"
            )
        reasons = dict.fromkeys(data.uids, "no image") | {uid: f"unreadable: {why}" for uid, why in pool.unreadable.items()}
        cluster: dict[str, int] = {}
        notes: tuple[str, ...] = ()
        if pool.uids:
            count = min(self.clusters or max(1, round(len(pool.uids) ** 0.5)), len(pool.uids))
            sample = np.sort(np.random.default_rng(self.seed).permutation(len(pool.uids))[: count * SAMPLE_EACH])
            centre_KD = kmeans_centres(pool.vector_ND[sample], count, seed=self.seed)
            named = set(nearest_centres(aims.vector_ND, centre_KD, 1)[:, 0].tolist())
            cluster = dict(zip(pool.uids, nearest_centres(pool.vector_ND, centre_KD, 1)[:, 0].tolist(), strict=True))
            reasons |= {uid: f"cluster: no target image is nearest to cluster {number}" for uid, number in cluster.items()}
            reasons = {uid: why for uid, why in reasons.items() if cluster.get(uid) not in named}
            notes = (f"{len(aims.uids):,} target images are nearest to {len(named):,} of {count:,} clusters",)
        kept = tuple(uid for uid in sorted(data.uids) if uid not in reasons)
        dropped = tuple(Drop(uid, self.slug, reasons[uid]) for uid in sorted(reasons))
        columns = {"target_cluster": cluster} if cluster else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start, notes=notes)

    def _given(self) -> tuple[Any, Any]:
        if not self.model or not self.target:
            raise ConfigError("target_clusters needs a model that embeds images and target images (--model RUN --target DATA)")
        return open_embedder(self.model), open_data(self.target)
