"""Dense and lexical search over the same items, fused by a named rule: vectors match the meaning, words the wording.

A text asks both; a picture asks the dense half, and the lexical one too where the model is lexical.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

from diptych.core.contracts import Dataset, LexicalEmbedder
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


class HybridIndex(DenseIndex):
    """Options of `build`:

    fusion   "rrf" (reciprocal rank) or "weighted" (scores at 0..1)
    lexical  weight of the lexical ranking, 0..1; the dense one has the rest
    depth    how much of each ranking is fused; more when k asks for more
    exact_first  items whose texts have every word of the query come before all others, in the order of their fused scores, which are
             raised by 1

    A model that is lexical itself gives the words; otherwise they are those of the texts, weighted as BM25 does.
    """

    kind: ClassVar[str] = "hybrid"
    read_once: ClassVar[tuple[str, ...]] = ("_lexicon",)
    modes: ClassVar[tuple[Mode, ...]] = ("dense", "lexical")

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        own = {"fusion": options.pop("fusion", "rrf"), "lexical": options.pop("lexical", 0.5), "depth": options.pop("depth", 100)}
        own["exact_first"] = options.pop("exact_first", True)
        super().settings(model, pool, what, **options)
        if own["fusion"] not in RULES:
            raise UnknownName("fusion rule", str(own["fusion"]), RULES)
        if not 0 <= own["lexical"] <= 1 or own["depth"] < 1:
            raise ConfigError(f"lexical is {own['lexical']} and depth is {own['depth']} (expected 0..1, and 1 or more)")
        return own | lexical_settings(_lexical(model), pool, what)

    def spaces(self) -> list[Space]:
        return [*super().spaces(), SparseSpace(WORDS, idf="mean_length" in self._facts.options)]

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(_lexical(self._ready()), TermVocabulary(self.folder), self._facts)

    def vocabulary_terms(self) -> list[str]:
        return TermVocabulary(self.folder).terms()

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
        """By the words of a text alone; the dense half is `search_text(..., half="dense")`."""
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
        wanted = self._words_of(plan, terms)

        def asks(limit: int) -> list[EngineQuery]:
            depth = max(limit, self._facts.option("depth", int))
            words = [EngineQuery(WORDS, terms, depth)] if len(terms.indices) else []
            return [self.engine_query(query_D, depth, effort=max(EFFORT, depth)), *words]

        return RankingPlan(asks, merge=partial(self._fuse, wanted), reads=(WORDS,) if wanted else ())

    def _words_of(self, plan: SearchPlan, terms: SparseVector) -> frozenset[int]:
        """Numbers of all words of a query; none where some word is in no text, or exact matches do not come first."""
        part = plan.parts[0]
        if self._facts.options.get("exact_first") is not True or not isinstance(part, ByText):
            return frozenset()
        if not isinstance(self._lexicon.model, BM25Encoder) or len(terms.indices) < len(set(words_of(part.string))):
            return frozenset()
        return frozenset(terms.indices.tolist())

    def _fuse(self, wanted: frozenset[int], rankings: Sequence[Sequence[ScoredItem]]) -> list[ScoredItem]:
        share = self._facts.option("lexical", float)
        named = [[(item.id, item.score) for item in ranking] for ranking in rankings]
        item_by_id: dict[uuid.UUID, ScoredItem] = {item.id: item for ranking in rankings for item in ranking}
        rule: Any = self._facts.option("fusion", str)
        if rule not in RULES:
            raise RunError(f"index.json has {rule[:60]!r} as option fusion (expected {' or '.join(RULES)})")
        fused = fuse(rule, named, (1 - share, share)[: len(named)])
        scored = [replace(item_by_id[key], score=score) for key, score in fused.items()]
        if wanted:
            scored = [replace(item, score=item.score + 1.0) if _has_all(item, wanted) else item for item in scored]
        return sorted(scored, key=tie_key)


def _lexical(model: Any) -> Any:
    return model if isinstance(model, LexicalEmbedder) else BM25Encoder()


def _has_all(item: ScoredItem, words: frozenset[int]) -> bool:
    """True for an item whose texts have all of these words."""
    vector = item.vectors.get(WORDS)
    return isinstance(vector, SparseVector) and words.issubset(vector.indices.tolist())
