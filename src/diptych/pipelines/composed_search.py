"""Composed image retrieval, by an image and a text together: "this, but at night", "this, without the hat".

ALIGN (Jia et al., 2021, section on multimodal queries): in a space shared by images and texts, attributes add up. The query is

    norm(norm(e_image) + w * norm(e_text))

and the search is by cosine. The authors found w = 2 best and 1 fine; a negative w moves away from the text, which removes an
attribute. Outer normalisation changes no ranking; it makes scores cosines. Works on any `Embedder` and any index that searches by
vectors, or on embeddings in memory. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Embedder, Role, Unit, VectorIndex
from diptych.core.errors import ConfigError, ShapeError
from diptych.core.image import ImageSource


def compose(image_ND: Unit, text_ND: Unit, weight: float = 2.0) -> Unit:
    """Composed queries, unit-norm [N, D], from N images and N texts (or one of either for all).

    Raises ShapeError when widths or counts differ, ConfigError when image and text cancel out exactly.
    """
    if image_ND.ndim != 2 or text_ND.ndim != 2 or image_ND.shape[1] != text_ND.shape[1]:
        raise ShapeError(f"image is {list(image_ND.shape)}, text is {list(text_ND.shape)} (expected two [N, D] of one width)")
    if len(image_ND) != len(text_ND) and 1 not in (len(image_ND), len(text_ND)):
        raise ShapeError(f"{len(image_ND)} images and {len(text_ND)} texts (expected as many of each, or one of either)")
    if not np.isfinite(weight):
        raise ConfigError(f"weight is {weight} (expected a finite number; 2 is usual, a negative one removes)")
    query_ND = _unit(image_ND) + np.float32(weight) * _unit(text_ND)
    if (np.linalg.norm(query_ND, axis=1) < 1e-6).any():
        raise ConfigError(f"image and text cancel out at weight {weight}: nothing is left to search for")
    return _unit(query_ND)


def _unit(x_ND: Unit) -> Unit:
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    unit: Unit = (x_ND / np.maximum(norm_N1, 1e-12)).astype(np.float32)
    return unit


@dataclass(frozen=True)
class Composition:
    """Query of composed image retrieval.

    image  the picture that the answers should resemble
    text   what they should have beside, or lack with a negative weight
    k      how many answers
    """

    image: ImageSource
    text: str
    k: int = 5


@dataclass(frozen=True)
class ComposedSearchResult:
    """Results: the index's hits, best first; for embeddings in memory, (row, cosine) pairs."""

    hits: tuple[Any, ...]

    def lines(self) -> list[str]:
        return [f"{score:6.3f}  {name}  {words}" for name, score, words in map(_line, self.hits)] or ["nothing found"]

    def to_json(self) -> dict[str, Any]:
        rows = [{"row": hit[0], "score": hit[1]} if isinstance(hit, tuple) else asdict(hit) for hit in self.hits]
        return {"hits": rows}


def _line(hit: Any) -> tuple[str, float, str]:
    if isinstance(hit, tuple):
        return f"row {hit[0]}", hit[1], ""
    return hit.uid, hit.score, hit.payload.get("text") or hit.payload.get("caption") or ""


@dataclass(frozen=True)
class ComposedSearch:
    """Composed image retrieval with a picture and a text.

    embedder  what embeds the query; None is the model that the index is open with
    index     where to search
    weight    of the text beside the image; negative removes what the text names

    >>> search = ComposedSearch(model, index)                          # doctest: +SKIP
    >>> search(photo, "at night", k=5)                                 # doctest: +SKIP
    """

    slug: ClassVar[str] = "composed_search"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("index", VectorIndex, "the index to search"),
        Role("embedder", Embedder, "what embeds the query, where that is not the index's own model", optional=True),
    )
    request: ClassVar[type] = Composition

    embedder: Embedder | None
    index: VectorIndex | Unit
    weight: float = 2.0

    def query(self, images: Sequence[ImageSource], texts: Sequence[str]) -> Unit:
        """Query vectors [N, D] for pairs of an image and a text."""
        embedder = self.embedder if self.embedder is not None else getattr(self.index, "embedder", None)
        if embedder is None:
            raise ConfigError(
                "there is no model to embed the query: the index was opened without its model (expected an embedder)"
            )
        return compose(embedder.embed_images(images), embedder.embed_texts(texts), self.weight)

    def run(self, request: Composition) -> ComposedSearchResult:
        return ComposedSearchResult(tuple(self(request.image, request.text, k=request.k)))

    def __call__(self, image: ImageSource, text: str, *, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Any]:
        """Hits of the index; for embeddings in memory, (row, cosine) pairs, best first, equal ones by row."""
        if k < 1:
            raise ConfigError(f"k is {k} (expected 1 or more)")
        query_1D = self.query([image], [text])
        if not isinstance(self.index, np.ndarray):
            hits: list[Any] = self.index.search_vectors(query_1D, k, where=where)[0]
            return hits
        if where:
            raise ConfigError("where needs an index with columns, and these are embeddings in memory")
        if self.index.ndim != 2 or self.index.shape[1] != query_1D.shape[1]:
            raise ShapeError(f"embeddings are {list(self.index.shape)} (expected [N, {query_1D.shape[1]}])")
        score_N = self.index @ query_1D[0]
        best = np.argsort(-score_N, kind="stable")[:k]
        return [(int(row), float(score_N[row])) for row in best]
