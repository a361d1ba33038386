"""Late interaction: every word of a text looks for the patch that fits it best (FILIP, 2111.07783; ColBERT, 2004.12832).

The score of a text for an image is the mean over the words of the best cosine with any patch; of an image for a text, the mean over
the patches of the best cosine with any word. Comparing all tokens of all items is slow, so a shortlist by one vector an item comes
first: the model's own embedding where it has one, else the mean of the tokens. Letters: P patches, L words, T tokens, D width.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Dataset, Embedder, TokenEmbedder, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.index.base import Index
from diptych.index.embed import checked, images_of
from diptych.index.exact import Hit
from diptych.index.filters import Where
from diptych.index.items import What
from diptych.index.query import combine, picture
from diptych.index.store import Ask, Dense, Scored, Space, Vectors

POOLED, TOKENS, SHORTLIST = "pooled", "tokens", 200


class LateIndex(Index):
    """Searches by the tokens of a text or an image. Option of `build`: shortlist (200 items)."""

    kind: ClassVar[str] = "late"
    compare: ClassVar[str] = POOLED

    @classmethod
    def check_model(cls, model: Any, what: What) -> None:
        if not isinstance(model, TokenEmbedder):
            raise ConfigError(
                f"an index of kind '{cls.kind}' needs a model that embeds patches and words; '{model.name}' does not"
            )

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        shortlist = options.pop("shortlist", SHORTLIST)
        super().settings(model, pool, what, **options)
        if shortlist < 1:
            raise ConfigError(f"shortlist is {shortlist} (expected 1 or more)")
        return {"shortlist": shortlist}

    def spaces(self) -> list[Space]:
        dims = self._facts.dims
        return [Dense(POOLED, dims[POOLED]), Dense(TOKENS, dims[TOKENS], graph=False, many=True)]

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        uids = [sample.uid for sample in samples]
        return self._of_images(images_of(samples), uids)

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        model = self._ready()
        tokens = [_tokens(x_TD, f"a text of {uid}") for x_TD, uid in zip(model.embed_words(strings), uids, strict=True)]
        pooled_ND = model.embed_texts(strings) if isinstance(model, Embedder) else [_mean(x_TD) for x_TD in tokens]
        return _both(pooled_ND, tokens, uids, "text")

    def _of_images(self, images: Sequence[ImageSource], uids: Sequence[str]) -> Sequence[Vectors]:
        model = self._ready()
        tokens = [_tokens(x_TD, f"the image of {uid}") for x_TD, uid in zip(model.embed_patches(images), uids, strict=True)]
        pooled_ND = model.embed_images(images) if isinstance(model, Embedder) else [_mean(x_TD) for x_TD in tokens]
        return _both(pooled_ND, tokens, uids, "image")

    def search_text(
        self,
        text: str,
        k: int = 10,
        *,
        where: Where | None = None,
        distinct: float | None = None,
        exact: bool = False,
        effort: int = 0,
    ) -> list[Hit]:
        """exact: compare the words with all tokens of all items. effort: as many in the shortlist, if more than the index's own."""
        query = self.encode_texts([text], ["the query"])[0]
        return self._find(query, k, where, distinct, exact=exact, effort=effort)

    def search_image(
        self,
        image: ImageSource | Path | str,
        k: int = 10,
        *,
        where: Where | None = None,
        distinct: float | None = None,
        exact: bool = False,
        effort: int = 0,
    ) -> list[Hit]:
        query = self._of_images([picture(image)], ["the query"])[0]
        return self._find(query, k, where, distinct, exact=exact, effort=effort)

    def search_like(self, uid: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        items = self._items_of(uid, (POOLED, TOKENS))
        return self._find(items[0].vectors, k, where, distinct, without=[item.id for item in items])

    def _find(
        self,
        query: Vectors,
        k: int,
        where: Where | None,
        distinct: float | None,
        *,
        exact: bool = False,
        effort: int = 0,
        without: Sequence[uuid.UUID] = (),
    ) -> list[Hit]:
        choice = self._choice(where, without)
        tokens_TD: Any = query[TOKENS]

        def rank(limit: int, vectors: Sequence[str]) -> list[Scored]:
            shortlist = max(self._facts.options["shortlist"], limit, effort)
            first = None if exact else Ask(POOLED, query[POOLED], shortlist, effort=shortlist)
            return self._engine().query(Ask(TOKENS, tokens_TD, limit, exact=exact, first=first), choice, vectors=vectors)

        hits = self._answer(rank, k, distinct)  # the engine adds up; a mean does not grow with the length of a text
        return [Hit(hit.uid, hit.score / len(tokens_TD), hit.payload) for hit in hits]


def _tokens(x_TD: Unit, name: str) -> Unit:
    if x_TD.ndim != 2 or not len(x_TD):
        raise DataError(f"{name} has tokens of shape {list(x_TD.shape)}", expected="[T, D] with one or more")
    return checked(x_TD, [f"{name}, number {place}" for place in range(len(x_TD))], "token")


def _mean(x_TD: Unit) -> Unit:
    return combine([(x_D, 1.0) for x_D in x_TD])


def _both(pooled: Any, tokens: Sequence[Unit], uids: Sequence[str], what: str) -> Sequence[Vectors]:
    rows_ND = checked(np.asarray(pooled), uids, what)
    return [{POOLED: row_D, TOKENS: x_TD} for row_D, x_TD in zip(rows_ND, tokens, strict=True)]
