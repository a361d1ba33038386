"""Dense and lexical search over the same items, fused by a named rule: directions find what is meant, words what is said.

A text asks both; a picture asks the dense half, and the lexical one too where the model is lexical.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from diptych.core.contracts import Dataset, LexicalEmbedder, Unit
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.index.dense import EFFORT, DenseIndex
from diptych.index.exact import Hit
from diptych.index.filters import Where
from diptych.index.fusion import RULES, fuse
from diptych.index.items import What
from diptych.index.lexical import WORDS, Lexicon, lexical_settings
from diptych.index.lexicon import Vocabulary, Words
from diptych.index.query import picture
from diptych.index.store import Ask, Scored, Space, Sparse, Vectors


class HybridIndex(DenseIndex):
    """Options of `build`:

    fusion   "rrf" (reciprocal rank) or "weighted" (scores at 0..1)
    lexical  weight of the lexical ranking, 0..1; the dense one has the rest
    depth    how much of each ranking is fused; more when k asks for more

    A model that is lexical itself gives the words; otherwise they are those of the texts, weighted as BM25 does.
    """

    kind: ClassVar[str] = "hybrid"

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        own = {"fusion": options.pop("fusion", "rrf"), "lexical": options.pop("lexical", 0.5), "depth": options.pop("depth", 100)}
        super().settings(model, pool, what, **options)
        if own["fusion"] not in RULES:
            raise UnknownName("fusion rule", str(own["fusion"]), RULES)
        if not 0 <= own["lexical"] <= 1 or own["depth"] < 1:
            raise ConfigError(f"lexical is {own['lexical']} and depth is {own['depth']} (expected 0..1, and 1 or more)")
        return own | lexical_settings(_lexical(model), pool, what)

    def spaces(self) -> list[Space]:
        return [*super().spaces(), Sparse(WORDS, idf="mean_length" in self._facts.options)]

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(_lexical(self._ready()), Vocabulary(self.folder), self._facts.options)

    def vocabulary_terms(self) -> list[str]:
        return Vocabulary(self.folder).terms()

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        dense = super().encode_samples(samples)
        return [{**a, **b} for a, b in zip(dense, self._lexicon.of_samples(samples), strict=True)]

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        dense = super().encode_texts(strings, uids)
        return [{**a, **b} for a, b in zip(dense, self._lexicon.of_texts(strings, uids), strict=True)]

    def search_text(self, text: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        return self._fused(self._text(text), self._lexicon.query_text(text), k, where, distinct)

    def search_image(
        self, image: ImageSource | Path | str, k: int = 10, *, where: Where | None = None, distinct: float | None = None
    ) -> list[Hit]:
        if isinstance(self._lexicon.model, Words):
            return super().search_image(image, k, where=where, distinct=distinct)
        source = picture(image)
        return self._fused(self._image(source), self._lexicon.query_image(source), k, where, distinct)

    def search_words(self, text: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        """By the words of a text alone; the dense half is `search_vectors`."""
        choice, terms = self._choice(where), self._lexicon.vocabulary.encode(self._lexicon.query_text(text))

        def rank(limit: int, vectors: Sequence[str]) -> list[Scored]:
            return self._ranked(Ask(WORDS, terms, limit), choice, vectors) if len(terms.indices) else []

        return self._answer(rank, k, distinct)

    def _fused(
        self, query_D: Unit, weights: Mapping[str, float], k: int, where: Where | None, distinct: float | None
    ) -> list[Hit]:
        choice = self._choice(where)
        terms = self._lexicon.vocabulary.encode(weights)

        def rank(limit: int, vectors: Sequence[str]) -> list[Scored]:
            depth = max(limit, self._facts.options["depth"])
            asks = [self.ask(query_D, depth, effort=max(EFFORT, depth))]
            asks += [Ask(WORDS, terms, depth)] if len(terms.indices) else []
            return self._fuse([self._ranked(ask, choice, vectors) for ask in asks])[:limit]

        return self._answer(rank, k, distinct)

    def _fuse(self, rankings: Sequence[Sequence[Scored]]) -> list[Scored]:
        share = self._facts.options["lexical"]
        named = [[(item.id, item.score) for item in ranking] for ranking in rankings]
        found: dict[uuid.UUID, Scored] = {item.id: item for ranking in rankings for item in ranking}
        fused = fuse(self._facts.options["fusion"], named, (1 - share, share)[: len(named)])
        return [replace(found[key], score=score) for key, score in fused.items()]


def _lexical(model: Any) -> Any:
    return model if isinstance(model, LexicalEmbedder) else Words()
