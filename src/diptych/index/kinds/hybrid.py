"""Dense and lexical search over the same items, fused by a named rule: vectors match the meaning, words the wording.

A text asks both; a picture asks the dense half, and the lexical one too where the model is lexical.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import Dataset, LexicalEmbedder, Unit
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.core.sample import Sample
from diptych.index.engine.store import EngineQuery, ScoredItem, Space, SparseSpace, SparseVector, Vectors
from diptych.index.exact import Hit
from diptych.index.filters import Where
from diptych.index.fusion import RULES, fuse
from diptych.index.items import What
from diptych.index.kinds.dense import EFFORT, DenseIndex
from diptych.index.kinds.lexical import WORDS, Lexicon, lexical_settings
from diptych.index.lexicon import BM25Encoder, TermVocabulary, words_of
from diptych.index.plan import ByImage, ByText, Mode, SearchPlan
from diptych.index.ranking import RankingPlan, tie_key
from diptych.index.vectors import unit_rows


class HybridIndex(DenseIndex):
    """Options of `build`:

    fusion   "rrf" (reciprocal rank) or "weighted" (scores at 0..1)
    lexical  weight of the lexical ranking, 0..1; the dense one has the rest
    depth    how much of each ranking is fused; more when k asks for more
    exact_first  items whose texts have every word of the query come before all others, in the order of their fused scores, which are
             raised by 1
    rerank   this many of the first items are ordered again by the cosine of their vectors and the query alone; 0 none
    fields   columns whose words are stored beside those of the texts; `search_fields`, all of them at first, are searched

    A model that is lexical itself gives the words; otherwise they are those of the texts, weighted as BM25 does.
    """

    kind: ClassVar[str] = "hybrid"
    read_once: ClassVar[tuple[str, ...]] = ("_lexicon",)
    modes: ClassVar[tuple[Mode, ...]] = ("dense", "lexical")

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        own = {"fusion": options.pop("fusion", "rrf"), "lexical": options.pop("lexical", 0.5), "depth": options.pop("depth", 100)}
        own |= {"exact_first": options.pop("exact_first", True), "rerank": options.pop("rerank", 0)}
        named = options.pop("fields", ())
        super().settings(model, pool, what, **options)
        if own["fusion"] not in RULES:
            raise UnknownName("fusion rule", str(own["fusion"]), RULES)
        if not 0 <= own["lexical"] <= 1 or own["depth"] < 1:
            raise ConfigError(f"lexical is {own['lexical']} and depth is {own['depth']} (expected 0..1, and 1 or more)")
        if own["rerank"] < 0:
            raise ConfigError(f"rerank is {own['rerank']} (expected 0, or how many)")
        return own | lexical_settings(_lexical(model), pool, what, named)

    def spaces(self) -> list[Space]:
        return [*super().spaces(), SparseSpace(WORDS, idf="mean_length" in self._facts.options)]

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(_lexical(self._ready()), TermVocabulary(self.folder), self._facts)

    def vocabulary_terms(self) -> list[str]:
        return TermVocabulary(self.folder).terms()

    def suggestion(self, text: str) -> str:
        return self._lexicon.suggestion(text)

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        dense = super().encode_samples(samples)
        return [{**a, **b} for a, b in zip(dense, self._lexicon.of_samples(samples), strict=True)]

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        dense = super().encode_texts(strings, uids)
        return [{**a, **b} for a, b in zip(dense, self._lexicon.of_texts(strings, uids), strict=True)]

    def takes_vectors(self, plan: SearchPlan) -> bool:
        return not self._asks_both(plan) and plan.half != "lexical"

    def ranking(self, plan: SearchPlan) -> RankingPlan:
        """A text or a picture alone is searched in both halves; sums, examples and vectors in the dense one."""
        if plan.half == "lexical":
            return self._lexical_ranking(plan)
        return self._rank_by_both(plan) if self._asks_both(plan) else super().ranking(plan)

    def search_words(self, text: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        """By the words of a text only; the dense half is `search_text(..., half="dense")`."""
        return self.search_text(text, k, where=where, distinct=distinct, half="lexical")

    def _asks_both(self, plan: SearchPlan) -> bool:
        if plan.half:
            return False
        reads_pictures = not isinstance(self._lexicon.model, BM25Encoder)
        return isinstance(plan.only, ByText) or (isinstance(plan.only, ByImage) and reads_pictures)

    def _lexical_ranking(self, plan: SearchPlan) -> RankingPlan:
        terms = self._lexicon.query(plan.parts[0])
        return RankingPlan(lambda limit: [EngineQuery(WORDS, terms, limit)] if len(terms.indices) else [])

    def _rank_by_both(self, plan: SearchPlan) -> RankingPlan:
        query_D, _ = self._vector_of(plan.parts[0])
        terms = self._lexicon.query(plan.parts[0])
        words = self._words_of(plan)
        rerank = self._facts.option("rerank", int) if "rerank" in self._facts.options else 0
        reads = ((WORDS,) if words else ()) + (("",) if rerank else ())

        def asks(limit: int) -> list[EngineQuery]:
            depth = max(limit, self._facts.option("depth", int))
            lexical = [EngineQuery(WORDS, terms, depth)] if len(terms.indices) else []
            return [self.engine_query(query_D, depth, effort=max(EFFORT, depth)), *lexical]

        def merge(rankings: Sequence[list[ScoredItem]]) -> list[ScoredItem]:
            items = self._fuse(rankings)
            if rerank:
                items = reranked(items, query_D, rerank)
            if words:
                items = [replace(item, score=item.score + 1.0) if _has_all(item, words) else item for item in items]
            return sorted(items, key=tie_key)

        return RankingPlan(asks, merge=merge, reads=reads)

    def _words_of(self, plan: SearchPlan) -> list[frozenset[int]]:
        """The terms of each word of a query; none where some word is in no text, or exact matches do not come first."""
        part = plan.parts[0]
        if self._facts.options.get("exact_first") is not True or not isinstance(part, ByText):
            return []
        if not isinstance(self._lexicon.model, BM25Encoder):
            return []
        terms = [self._lexicon.terms_of(word) for word in words_of(part.string)]
        number_of = self._lexicon.vocabulary.encode
        return [frozenset(number_of(dict.fromkeys(each, 1.0)).indices.tolist()) for each in terms] if all(terms) else []

    def _fuse(self, rankings: Sequence[Sequence[ScoredItem]]) -> list[ScoredItem]:
        share = self._facts.option("lexical", float)
        named = [[(item.id, item.score) for item in ranking] for ranking in rankings]
        item_by_id: dict[uuid.UUID, ScoredItem] = {item.id: item for ranking in rankings for item in ranking}
        rule: Any = self._facts.option("fusion", str)
        if rule not in RULES:
            raise RunError(f"index.json has {rule[:60]!r} as option fusion (expected {' or '.join(RULES)})")
        fused = fuse(rule, named, (1 - share, share)[: len(named)])
        return [replace(item_by_id[key], score=score) for key, score in fused.items()]


def reranked(items: Sequence[ScoredItem], query_D: Unit, count: int) -> list[ScoredItem]:
    """The first `count` items in the order of the cosine of their vectors and the query, and the others after them.

    Scores stay at their ranks: the new first item has the highest. Equal ones are set apart by 1e-9, since items of equal score
    are ordered by uid.
    """
    ordered = sorted(items, key=tie_key)
    first = sorted(ordered[:count], key=lambda item: -float(unit_rows(np.asarray(item.vectors[""])[None])[0] @ query_D))
    scores: list[float] = []
    for item in ordered:
        scores.append(min(item.score, scores[-1] - 1e-9) if scores else item.score)
    return [replace(item, score=score) for item, score in zip([*first, *ordered[count:]], scores, strict=True)]


def _lexical(model: Any) -> Any:
    return model if isinstance(model, LexicalEmbedder) else BM25Encoder()


def _has_all(item: ScoredItem, words: Sequence[frozenset[int]]) -> bool:
    """True for an item whose texts or fields have every one of these words, each given by its terms."""
    vector = item.vectors.get(WORDS)
    if not isinstance(vector, SparseVector):
        return False
    there = set(vector.indices.tolist())
    return all(terms & there for terms in words)
