"""Dense index: one vector per item, in the space that images and texts share, with approximate search by a graph (HNSW) for large pools.

Cosine is the only measure: all rows are unit-norm. Letters: N items, Q queries, D dimensions.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Embedder, PointEmbedder, Unit
from diptych.core.errors import ConfigError, RunError, ShapeError
from diptych.core.sample import Sample
from diptych.index.base import Index
from diptych.index.embed import check_rows, cloud_of, clouds_of, embed_clouds, embed_texts, images_of
from diptych.index.engine.store import DenseSpace, EngineQuery, Space, SparseVector, Vector, Vectors
from diptych.index.facts import IndexInfo
from diptych.index.items import What, point_id
from diptych.index.plan import ByCloud, ByExamples, ByImage, ByText, ByVector, Mode, Part, SearchPlan
from diptych.index.ranking import RankingPlan
from diptych.index.vectors import combine

__all__ = ["DenseIndex", "IndexInfo", "point_id"]

EFFORT = 128  # candidates that a walk over the graph keeps, unless more are asked for


class DenseIndex(Index):
    """Searches by text, by image, by point cloud, by vectors, by uid, and by sums and differences of them."""

    kind: ClassVar[str] = "dense"
    holds: ClassVar[tuple[What, ...]] = ("images", "texts", "clouds")
    modes: ClassVar[tuple[Mode, ...]] = ("exact",)
    combines: ClassVar[bool] = True

    @classmethod
    def check_model(cls, model: Any, what: What) -> None:
        embeds = (
            isinstance(model, PointEmbedder) and hasattr(model, "embed_texts")
            if what == "clouds"
            else isinstance(model, Embedder)
        )
        if not embeds:
            content = "clouds" if what == "clouds" else "images"
            raise ConfigError(
                f"an index of kind '{cls.kind}' needs a model that embeds {content} and texts; '{model.name}' does not"
            )

    def spaces(self) -> list[Space]:
        return [DenseSpace("", self._facts.width(""))]

    def takes(self, sample: Sample) -> bool:
        return super().takes(sample) if self._facts.what != "clouds" else cloud_of(sample) is not None

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        uids = [sample.uid for sample in samples]
        if self._facts.what == "clouds":
            return self.layers(check_rows(embed_clouds(self._ready(), clouds_of(samples)), uids, "cloud"))
        rows_ND = self._ready().embed_images(images_of(samples), batch_size=self.batch_size)
        return self.layers(check_rows(rows_ND, uids, "image"))

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        return self.layers(embed_texts(self._ready(), strings, uids))

    def layers(self, rows_ND: Unit) -> Sequence[Vectors]:
        """Stored vectors of each embedding, by space."""
        return [{"": row_D} for row_D in rows_ND]

    # ------------------------------------------------------------ searching

    def takes_vectors(self, plan: SearchPlan) -> bool:
        return True

    def ranking(self, plan: SearchPlan) -> RankingPlan:
        """Query by the one part, or by the weighted sum of all."""
        vectors, examples = [], list[uuid.UUID]()
        for part in plan.parts:
            row_D, ids = self._vector_of(part)
            vectors.append((row_D, part.weight))
            examples += ids
        query_D = combine(vectors) if plan.only is None or examples else vectors[0][0]

        def asks(limit: int) -> list[EngineQuery]:
            return [self.engine_query(query_D, limit, exact=plan.exact, effort=plan.effort)]

        return RankingPlan(asks, without=tuple(examples))

    def engine_query(self, query_D: Unit, limit: int, *, exact: bool = False, effort: int = 0) -> EngineQuery:
        """Engine query for the nearest items. effort: candidates that a walk over the graph keeps (128)."""
        return EngineQuery("", query_D, limit, exact=exact, effort=effort or EFFORT)

    def checked_vectors(self, query_QD: Unit) -> Unit:
        query_QD = np.asarray(query_QD, np.float32)
        dim = self._facts.width("")
        if query_QD.ndim != 2 or query_QD.shape[1] != dim:
            raise ShapeError(f"queries are {list(query_QD.shape)} (expected [Q, {dim}])")
        return check_rows(query_QD, [f"number {row}" for row in range(len(query_QD))], "query")

    # ------------------------------------------------------------ inside

    def _vector_of(self, part: Part) -> tuple[Unit, list[uuid.UUID]]:
        """Query vector of a part, [D], and the items that it names."""
        match part:
            case ByText(string):
                return self.checked_vectors(self._ready().embed_texts([string]))[0], []
            case ByImage(image):
                return self.checked_vectors(self._ready().embed_images([image]))[0], []
            case ByCloud(cloud):
                return self.checked_vectors(embed_clouds(self._ready(), [cloud]))[0], []
            case ByVector(row_D):
                return self.checked_vectors(row_D[None])[0], []
            case ByExamples(uids):
                items = [item for uid in uids for item in self.collection.items_of(uid, ("",))]
                return combine([(_row(item.vectors[""]), 1.0) for item in items]), [item.id for item in items]
        raise self._cannot_take(part)


def _row(vector: Vector) -> Unit:
    if isinstance(vector, SparseVector):
        raise RunError("the engine gave a sparse vector where a dense one was stored: build the index again")
    return vector
