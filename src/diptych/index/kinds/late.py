"""Late-interaction index: each word is compared with its best-matching patch (FILIP, 2111.07783; ColBERT, 2004.12832).

The score of a text for an image is the mean over the words of the best cosine with any patch; of an image for a text, the mean over
the patches of the best cosine with any word. Comparing all tokens of all items is slow, so a shortlist by one vector an item comes
first: the model's own embedding if it has one, else the mean of the tokens. Letters: P patches, L words, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Dataset, Embedder, TokenEmbedder, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.index.base import Index
from diptych.index.embed import check_rows, images_of
from diptych.index.engine.store import DenseSpace, EngineQuery, IndexItem, Space, Vectors
from diptych.index.exact import Hit
from diptych.index.items import What
from diptych.index.plan import ByExamples, ByImage, ByText, Mode, Part, SearchPlan
from diptych.index.ranking import RankingPlan
from diptych.index.vectors import combine

POOLED, TOKENS, SHORTLIST = "pooled", "tokens", 200


class LateIndex(Index):
    """Searches by the tokens of a text or an image. Option of `build`: shortlist (200 items)."""

    kind: ClassVar[str] = "late"
    compare: ClassVar[str] = POOLED
    modes: ClassVar[tuple[Mode, ...]] = ("exact",)

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
        width = self._facts.width
        return [DenseSpace(POOLED, width(POOLED)), DenseSpace(TOKENS, width(TOKENS), graph=False, many=True)]

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

    def ranking(self, plan: SearchPlan) -> RankingPlan:
        """Ranking of a plan. exact: compare with all tokens of all items. effort: size of the shortlist, if more than the index's own."""
        query, examples = self._tokens_of(plan.parts[0])
        tokens_TD: Any = query[TOKENS]

        def asks(limit: int) -> list[EngineQuery]:
            shortlist = max(self._facts.option("shortlist", int), limit, plan.effort)
            first = None if plan.exact else EngineQuery(POOLED, query[POOLED], shortlist, effort=shortlist)
            return [EngineQuery(TOKENS, tokens_TD, limit, exact=plan.exact, first=first)]

        def mean(hit: Hit) -> Hit:  # the engine adds up; a mean does not grow with the length of a text
            return replace(hit, score=hit.score / len(tokens_TD))

        return RankingPlan(asks, without=tuple(item.id for item in examples), format_hit=mean)

    def _tokens_of(self, part: Part) -> tuple[Vectors, list[IndexItem]]:
        """Token vectors of a part, and the items that it names."""
        match part:
            case ByText(string):
                return self.encode_texts([string], ["the query"])[0], []
            case ByImage(image):
                return self._of_images([image], ["the query"])[0], []
            case ByExamples(uids):
                items = self.collection.items_of(uids[0], (POOLED, TOKENS))
                return items[0].vectors, items
        raise self._cannot_take(part)


def _tokens(x_TD: Unit, name: str) -> Unit:
    if x_TD.ndim != 2 or not len(x_TD):
        raise DataError(f"{name} has tokens of shape {list(x_TD.shape)}", expected="[T, D] with one or more")
    return check_rows(x_TD, [f"{name}, number {number}" for number in range(len(x_TD))], "token")


def _mean(x_TD: Unit) -> Unit:
    return combine([(x_D, 1.0) for x_D in x_TD])


def _both(pooled: Any, tokens: Sequence[Unit], uids: Sequence[str], what: str) -> Sequence[Vectors]:
    rows_ND = check_rows(np.asarray(pooled), uids, what)
    return [{POOLED: row_D, TOKENS: x_TD} for row_D, x_TD in zip(rows_ND, tokens, strict=True)]
