"""Keeps images in the clusters of a target set: DataComp's image-based filter (Gadre et al., 2023, 2304.14108).

The embeddings of the pool are clustered by k-means. Each target image, such as those of ImageNet's training set, selects the
cluster with the nearest centre; rows of clusters without a target image are dropped. The published filter is applied only to rows
that passed a caption filter (English, more than one word and five characters), which is a separate step before this one, as is
the selection of the highest CLIP scores (`top_fraction`). Rows without an image are dropped.

Cost: one embedding per image of pool and target, k-means on a sample, and a product with all centres per row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError
from diptych.curate.duplicates.clusters import kmeans_centres, nearest_centres
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.verdicts import DropTable, StringColumn, column_by_uid
from diptych.data.ragged import one_chunk
from diptych.data.subset import uid_column
from diptych.worlds.address import open_data

Ints = npt.NDArray[np.int64]
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
        number_P, named = np.zeros(0, np.int64), np.zeros(0, np.int64)
        notes: tuple[str, ...] = ()
        if pool.uids:
            count = min(self.clusters or max(1, round(len(pool.uids) ** 0.5)), len(pool.uids))
            sample = np.sort(np.random.default_rng(self.seed).permutation(len(pool.uids))[: count * SAMPLE_EACH])
            centre_KD = kmeans_centres(pool.vector_ND[sample], count, seed=self.seed)
            named = np.unique(nearest_centres(aims.vector_ND, centre_KD, 1)[:, 0])
            number_P = nearest_centres(pool.vector_ND, centre_KD, 1)[:, 0]
            notes = (f"{len(aims.uids):,} target images are nearest to {len(named):,} of {count:,} clusters",)
        kept, drops = self._verdicts(data, pool, number_P, named)
        columns = {"target_cluster": column_by_uid("target_cluster", pool.uids, number_P)} if pool.uids else {}
        return CurationStepResult(kept, drops, columns, time.perf_counter() - start, notes=notes)

    def _verdicts(self, data: Dataset, pool: ImageEmbeddings, number_P: Ints, named: Ints) -> tuple[StringColumn, DropTable]:
        """Kept and dropped rows, in order of uid.

        number_P  cluster of each embedded row
        named     clusters that a target image is nearest to
        """
        uids = uid_column(data)
        uids = uids.take(pc.sort_indices(uids))
        clusters = int(number_P.max(initial=-1)) + 1
        reasons = [f"cluster: no target image is nearest to cluster {number}" for number in range(clusters)]
        bad = pool.unreadable.table
        unread = pc.binary_join_element_wise("unreadable: ", one_chunk(bad["reason"]), "")
        values = pa.concat_arrays([pa.array([*reasons, "no image"], pa.string()), unread])
        code_N = np.full(len(uids), clusters, np.int32)
        code_N[_rows(uids, StringColumn(bad["uid"]))] = np.arange(clusters + 1, len(values))
        code_N[_rows(uids, pool.uids)] = number_P
        gone_N = np.isin(code_N, named, invert=True)
        dictionary = pa.DictionaryArray.from_arrays(pa.array(code_N[gone_N]), values)
        drops = DropTable.of_step(self.slug, uids.filter(pa.array(gone_N)), dictionary.cast(pa.string()))
        return StringColumn(uids.filter(pa.array(~gone_N))), drops

    def _given(self) -> tuple[Any, Any]:
        if not self.model or not self.target:
            raise ConfigError("target_clusters needs a model that embeds images and target images (--model RUN --target DATA)")
        return open_embedder(self.model), open_data(self.target)


def _rows(sorted_uids: pa.Array, uids: Sequence[str]) -> Ints:
    """Positions of some uids."""
    rows: Ints = pc.index_in(pa.array(uids, pa.string()), value_set=sorted_uids).to_numpy(zero_copy_only=False).astype(np.int64)
    return rows
