"""One vector an item, in the space that images and texts share: approximate search by a graph (HNSW) where the pool is large.

Cosine is the only measure: all rows are unit-norm. Letters: N items, Q queries, D width.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Embedder, Unit
from diptych.core.errors import ConfigError, RunError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.index.base import Index
from diptych.index.embed import checked, embed_texts, images_of
from diptych.index.exact import Hit
from diptych.index.facts import Info
from diptych.index.filters import Where
from diptych.index.items import What, point_id
from diptych.index.query import Query, combine, picture
from diptych.index.store import Ask, Choice, Dense, Scored, Space, Terms, Vector, Vectors

__all__ = ["DenseIndex", "Info", "point_id"]

EFFORT = 128  # candidates that a walk over the graph keeps, unless more are asked for


class DenseIndex(Index):
    """Searches by text, by image, by vectors, by uid, and by sums and differences of them."""

    kind: ClassVar[str] = "dense"

    @classmethod
    def check_model(cls, model: Any, what: What) -> None:
        if not isinstance(model, Embedder):
            raise ConfigError(
                f"an index of kind '{cls.kind}' needs a model that embeds images and texts; '{model.name}' does not"
            )

    def spaces(self) -> list[Space]:
        return [Dense("", self._facts.dims[""])]

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        rows_ND = self._ready().embed_images(images_of(samples), batch_size=self._batch_size)
        return self.layers(checked(rows_ND, [sample.uid for sample in samples], "image"))

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        return self.layers(embed_texts(self._ready(), strings, uids))

    def layers(self, rows_ND: Unit) -> Sequence[Vectors]:
        """What is stored of each embedding, by space."""
        return [{"": row_D} for row_D in rows_ND]

    # ------------------------------------------------------------ searching

    def search_text(self, text: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        return self._nearest(self._text(text), k, where=where, distinct=distinct)

    def search_image(
        self, image: ImageSource | Path | str, k: int = 10, *, where: Where | None = None, distinct: float | None = None
    ) -> list[Hit]:
        return self._nearest(self._image(picture(image)), k, where=where, distinct=distinct)

    def search_like(self, uid: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        return self.search_combined(Query(like=(uid,)), k, where=where, distinct=distinct)

    def search_combined(
        self, query: Query, k: int = 10, *, where: Where | None = None, distinct: float | None = None
    ) -> list[Hit]:
        """By the sum of the picture, the mean of the good examples, and `weight` times the text, less `against` times the mean of the
        bad examples."""
        parts: list[tuple[Unit, float]] = []
        if query.image is not None:
            parts.append((self._image(query.image), 1.0))
        if query.text:
            parts.append((self._text(query.text), query.weight))
        without: list[uuid.UUID] = []
        for uids, weight in ((query.like, 1.0), (query.unlike, -query.against)):
            found = [item for uid in uids for item in self._items_of(uid, ("",))]
            without += [item.id for item in found]
            if found:
                parts.append((combine([(_row(item.vectors[""]), 1.0) for item in found]), weight))
        return self._nearest(combine(parts), k, where=where, distinct=distinct, without=without)

    def search_vectors(
        self,
        query_QD: Unit,
        k: int = 10,
        *,
        where: Where | None = None,
        exact: bool = False,
        effort: int = 0,
        distinct: float | None = None,
    ) -> list[list[Hit]]:
        """The k items nearest to each unit vector, fewer when fewer satisfy `where`.

        exact     compare with everything instead of walking the graph
        effort    candidates that are kept on the way (128 of a graph): more is slower and closer to exact
        distinct  of items more alike than this cosine only the best
        """
        rows_QD = self._checked_queries(query_QD)
        options: dict[str, Any] = {"where": where, "exact": exact, "effort": effort, "distinct": distinct}
        return [self._nearest(row_D, k, **options) for row_D in rows_QD]

    def ask(self, query_D: Unit, limit: int, *, exact: bool = False, effort: int = 0) -> Ask:
        """How the engine is asked for the nearest items."""
        return Ask("", query_D, limit, exact=exact, effort=effort or EFFORT)

    # ------------------------------------------------------------ inside

    def _nearest(
        self,
        query_D: Unit,
        k: int,
        *,
        where: Where | None,
        exact: bool = False,
        effort: int = 0,
        distinct: float | None = None,
        without: Sequence[uuid.UUID] = (),
    ) -> list[Hit]:
        choice = self._choice(where, without)

        def rank(limit: int, vectors: Sequence[str]) -> list[Scored]:
            return self._ranked(self.ask(query_D, limit, exact=exact, effort=effort), choice, vectors)

        return self._answer(rank, k, distinct)

    def _ranked(self, ask: Ask, choice: Choice, vectors: Sequence[str]) -> list[Scored]:
        return self._engine().query(ask, choice, vectors=vectors)

    def _checked_queries(self, query_QD: Unit) -> Unit:
        query_QD = np.asarray(query_QD, np.float32)
        dim = self._facts.dims[""]
        if query_QD.ndim != 2 or query_QD.shape[1] != dim:
            raise ShapeError(f"queries are {list(query_QD.shape)} (expected [Q, {dim}])")
        return checked(query_QD, [f"number {row}" for row in range(len(query_QD))], "query")

    def _text(self, text: str) -> Unit:
        row_D: Unit = self._checked_queries(self._ready().embed_texts([text]))[0]
        return row_D

    def _image(self, image: ImageSource) -> Unit:
        row_D: Unit = self._checked_queries(self._ready().embed_images([image]))[0]
        return row_D


def _row(vector: Vector) -> Unit:
    if isinstance(vector, Terms):
        raise RunError("the engine gave a sparse vector where a dense one was stored: build the index again")
    return vector
