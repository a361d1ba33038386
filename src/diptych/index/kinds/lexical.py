"""Lexical search: every item is a sparse vector over a vocabulary, in an inverted index.

With a lexical model (LexLIP, 2023: images and texts as weights over words) the score is the cosine of the two sparse vectors. With
`BM25Encoder` in the model's place, the texts of a pool are searched by BM25, and pictures are found by what is written about them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Unpack

import numpy as np

from diptych.core.contracts import Dataset, LexicalEmbedder
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.index.base import Index
from diptych.index.embed import images_of
from diptych.index.engine.store import EngineQuery, IndexItem, Space, SparseSpace, SparseVector, Vectors
from diptych.index.exact import Hit
from diptych.index.facts import Facts
from diptych.index.items import What, payload
from diptych.index.lexicon import WORD, BM25Encoder, TermVocabulary, folded, heaviest, unit_weights, words_of
from diptych.index.plan import ByExamples, ByImage, ByTerms, ByText, Options, Part, SearchPlan
from diptych.index.ranking import RankingPlan
from diptych.index.spelling import nearest_word, number_forms

WORDS = "words"  # the space


class LexicalIndex(Index):
    """Searches by words. Options of `build`, which buy speed with lexical models, whose texts and pictures have dozens of terms:

    query_terms  how many of the heaviest terms of a query are looked up; 0 all
    item_terms   how many of the heaviest terms of an item are stored; 0 all. They keep the weights that they have at norm 1 over
                 all terms, so that a score is a part of the exact cosine. BM25 has no use for it and refuses it
    fields       of BM25: columns whose words are stored beside those of the texts; `search_fields`, all of them at first, are searched
    """

    kind: ClassVar[str] = "lexical"
    read_once: ClassVar[tuple[str, ...]] = ("_lexicon",)
    compare: ClassVar[str] = WORDS

    @classmethod
    def check_model(cls, model: Any, what: What) -> None:
        if not isinstance(model, BM25Encoder | LexicalEmbedder):
            raise ConfigError(
                f"an index of kind '{cls.kind}' needs a lexical model or 'words' (BM25 over the texts); '{model.name}' is neither"
            )

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        limits = {name: options.pop(name, 0) for name in ("query_terms", "item_terms")}
        named = options.pop("fields", ())
        super().settings(model, pool, what, **options)
        for name, most in limits.items():
            if most < 0:
                raise ConfigError(f"{name} is {most} (expected 0 for all, or how many)")
        if limits["item_terms"] and isinstance(model, BM25Encoder):
            raise ConfigError(
                "item_terms cuts the words of a lexical model; with 'words' every word of a text is its own (expected 0)"
            )
        if not limits["item_terms"]:  # as indexes of earlier versions, which go on where they were
            del limits["item_terms"]
        return {**limits, **lexical_settings(model, pool, what, named)}

    def takes(self, sample: Sample) -> bool:
        """With `BM25Encoder` also a sample without picture: its texts are read."""
        return isinstance(self._model, BM25Encoder) or super().takes(sample)

    def spaces(self) -> list[Space]:
        return [SparseSpace(WORDS, idf="mean_length" in self._facts.options)]

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(self._ready(), TermVocabulary(self.folder), self._facts)

    def vocabulary_terms(self) -> list[str]:
        return TermVocabulary(self.folder).terms()

    def suggestion(self, text: str) -> str:
        return self._lexicon.suggestion(text)

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        return self._lexicon.of_samples(samples)

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        return self._lexicon.of_texts(strings, uids)

    def ranking(self, plan: SearchPlan) -> RankingPlan:
        """Ranking by terms. Items without any of the terms do not match, so there may be fewer than k hits."""
        part = plan.parts[0]
        items: list[IndexItem] = []
        if isinstance(part, ByExamples):
            items = self.collection.items_of(part.uids[0], (WORDS,))
            terms: Any = items[0].vectors[WORDS]
        elif isinstance(part, ByText | ByImage | ByTerms):
            terms = self._lexicon.query(part, most=self._facts.option("query_terms", int))
        else:
            raise self._cannot_take(part)
        return RankingPlan(
            lambda limit: [EngineQuery(WORDS, terms, limit)] if len(terms.indices) else [],
            without=tuple(item.id for item in items),
        )

    def search_terms(self, weights: Mapping[str, float], k: int = 10, **options: Unpack[Options]) -> list[Hit]:
        """Search by weighted terms."""
        return self.answer(SearchPlan((ByTerms(weights),), k, **options))


class Lexicon:
    """A lexical model or `BM25Encoder`, and the vocabulary of one index: from samples and texts to sparse vectors.

    With `BM25Encoder` the words of a field are terms of their own, `field:word`, so that a search may leave the field out.
    """

    def __init__(self, model: Any, vocabulary: TermVocabulary, facts: Facts) -> None:
        self.model, self.vocabulary, self._facts = model, vocabulary, facts

    def of_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        """Sparse vectors of the pictures, or with `BM25Encoder` of all texts of a sample together."""
        if isinstance(self.model, BM25Encoder):
            documents = self._documents([all_texts(sample) for sample in samples])
            for name in self._columns("fields"):
                for document, of_field in zip(documents, self._documents([field_text(s, name) for s in samples]), strict=True):
                    document.update({f"{name}:{word}": weight for word, weight in of_field.items()})
            return self._vectors_of_terms(documents)
        weights = self.model.lexicalise_images(images_of(samples))
        return self._vectors_of_terms(
            [self._kept_terms(w, f"the image of {s.uid}") for w, s in zip(weights, samples, strict=True)]
        )

    def of_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        if isinstance(self.model, BM25Encoder):
            return self._vectors_of_terms(self._documents(strings))
        weights = self.model.lexicalise_texts(list(strings))
        return self._vectors_of_terms([self._kept_terms(w, f"a text of {uid}") for w, uid in zip(weights, uids, strict=True)])

    def query(self, part: Part, most: int = 0) -> SparseVector:
        """Sparse query vector of a part. most: only this many of the heaviest terms; 0 for all."""
        return self.vocabulary.encode(heaviest(self._weights(part), most))

    def _weights(self, part: Part) -> Mapping[str, float]:
        match part:
            case ByText(string) if isinstance(self.model, BM25Encoder):
                counts: Counter[str] = Counter()
                for word in words_of(string):
                    counts.update(self.terms_of(word))
                return {term: float(count) for term, count in counts.items()}
            case ByText(string):
                return unit_weights(self.model.lexicalise_texts([string])[0], "the query")
            case ByImage() if isinstance(self.model, BM25Encoder):
                raise ConfigError("an index of words reads texts only: search with words, or build it with a lexical model")
            case ByImage(image):
                return unit_weights(self.model.lexicalise_images([image])[0], "the query")
            case ByTerms(terms):
                return terms
        raise ConfigError(f"words are read in texts and pictures, not in {part.noun}")

    def terms_of(self, word: str) -> list[str]:
        """Terms that a query word stands for, in the texts and the searched fields: the word, else its singular or plural, else those
        that differ by accents."""
        forms, prefixes = (word, *number_forms(word)), ["", *(f"{name}:" for name in self._columns("search_fields"))]
        for variants in (lambda term: [term] if term in self.vocabulary else [], self.vocabulary.accent_variants):
            for form in forms:
                if terms := [term for prefix in prefixes for term in variants(prefix + form)]:
                    return terms
        return []

    def suggestion(self, text: str) -> str:
        """The text with words of the vocabulary in the place of unknown ones that are spelled alike; "" if there are none."""
        if not isinstance(self.model, BM25Encoder):
            return ""
        unknown = [word for word in words_of(text) if not self.terms_of(word)]
        if not unknown:
            return ""
        words = [term for term in self.vocabulary.terms() if ":" not in term]
        better = {word: near for word in unknown if (near := nearest_word(word, words))}
        return WORD.sub(lambda match: better.get(match[0], match[0]), folded(text)) if better else ""

    def _kept_terms(self, weights: Mapping[str, float], name: str) -> dict[str, float]:
        """Stored terms of an item: the `item_terms` heaviest of its unit-length weights (all by default)."""
        most = self._facts.option("item_terms", int) if self._facts.options.get("item_terms") else 0
        return heaviest(unit_weights(weights, name), most)

    def _columns(self, option: str) -> list[str]:
        return self._facts.option(option, list) if option in self._facts.options else []

    def _documents(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return self.model.documents(texts, self._facts.option("mean_length", float))  # type: ignore[no-any-return]

    def _vectors_of_terms(self, weights: Sequence[Mapping[str, float]]) -> Sequence[Vectors]:
        """New terms get their ids first, so that everything stored can be read. An item without any term is left out."""
        self.vocabulary.learn(term for row in weights for term in row)
        return [{WORDS: self.vocabulary.encode(row)} if row else {} for row in weights]


def lexical_settings(model: Any, pool: Dataset, what: What, named: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of BM25: the mean length of the texts, measured once when an index is built, and the columns in `named`.

    Raises ConfigError for fields of another model or of an index of texts, and for a column that no sample has.
    """
    if named and (what == "texts" or not isinstance(model, BM25Encoder)):
        raise ConfigError(f"fields is {', '.join(named)} (expected none: only BM25 over whole items has them)")
    if not isinstance(model, BM25Encoder):
        return {}
    texts: list[str] = []
    missing = set(named)
    for row in range(len(pool)):
        sample = pool[row]
        missing -= {name for name in missing if field_text(sample, name)}
        texts += [all_texts(sample)] if what != "texts" else [text.string for text in sample.positives()]
    if missing:
        raise ConfigError(
            f"no sample has words in the column {', '.join(sorted(missing))} (expected columns of strings as fields)"
        )
    lengths = [count for text in texts if (count := len(words_of(text)))]
    fields = {"fields": list(named), "search_fields": list(named)} if named else {}
    return {"mean_length": float(np.mean(lengths)) if lengths else 1.0, **fields}


def all_texts(sample: Sample) -> str:
    """All texts that describe a sample."""
    return "\n".join(text.string for text in sample.positives())


def field_text(sample: Sample, name: str) -> str:
    """The strings of a sample in a column."""
    value = payload(sample).get(name, "")
    return "\n".join(one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str))
