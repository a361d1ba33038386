"""Word-order perturbations of a caption, as in ARO and SNARE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.data.probes.case import Case, Role
from diptych.data.text.captions import shuffles as to
from diptych.data.text.captions.cleaning import cleaned
from diptych.data.text.english.tagger import Tagger, spacy_tagger, tag
from diptych.data.text.english.treebank import treebank_words

Trigrams = Literal["tagger", "treebank"]
ARO_NAMES = ("true", "nouns_and_adjectives", "all_but_nouns_and_adjectives", "within_trigrams", "trigrams")
SNARE_NAMES = ("true", "content_words", "other_words", "all_words")
CONTENT = (to.NOUN, to.VERB, to.ADJECTIVE)  # in the order in which they are shuffled


@dataclass(frozen=True)
class OrderOptions:
    """Word-order perturbations of captions, as answer options.

    tagger     tokenizer and part-of-speech tagger of captions
    normalise  True writes every option, including the true one, from the same tokens; False leaves the true one unchanged, as published: in
               some captions it then differs from the others only by its spaces, which a model can detect without the image
    trigrams   tokens from which ARO's trigrams are made: words of the "tagger", or of the "treebank", as released, which does not split at
               hyphens
    most_words of an option, 0 for all
    seed       seed of the shuffles, combined with the uid and the number of the caption
    """

    tagger: Tagger
    normalise: bool = True
    most_words: int = 30
    seed: int = 0
    trigrams: Trigrams = "tagger"

    def aro(self, uid: str, group: str, number: int, caption: str) -> Case:
        """Five orders: the true one, nouns and adjectives shuffled, all others shuffled, words within trigrams, and the trigrams."""
        words, kinds, rng = self._read(uid, number, caption)
        content = (to.NOUN, to.ADJECTIVE)
        cut = treebank_words(caption) if self.trigrams == "treebank" else words
        orders: tuple[Callable[[], Sequence[str]], ...] = (
            lambda: to.shuffled_classes(words, kinds, content, rng),
            lambda: to.shuffled_others(words, kinds, content, rng),
            lambda: to.shuffled_within_trigrams(cut, rng),
            lambda: to.shuffled_trigrams(cut, rng),
        )
        return self._case(uid, group, "order", caption, words, [order() for order in orders], ARO_NAMES)

    def snare(self, uid: str, group: str, number: int, caption: str) -> Case:
        """Four orders: the true one; nouns, verbs and adjectives shuffled; all others shuffled; all shuffled."""
        words, kinds, rng = self._read(uid, number, caption)
        orders = [
            to.shuffled_classes(words, kinds, CONTENT, rng),
            to.shuffled_others(words, kinds, CONTENT, rng),
            to.shuffled(words if self.normalise else caption.split(" "), rng),
        ]
        return self._case(uid, group, "semantic_structure", caption, words, orders, SNARE_NAMES)

    def _read(self, uid: str, number: int, caption: str) -> tuple[list[str], list[str], np.random.Generator]:
        tagged = self.tagger(caption)
        words = [word.text for word in tagged]
        kinds = to.kinds_of(words, [word.tag for word in tagged], [word.penn for word in tagged])
        return words, kinds, keyed_rng("order", self.seed, uid, number)

    def _case(
        self,
        uid: str,
        group: str,
        kind: str,
        caption: str,
        words: Sequence[str],
        orders: Sequence[Sequence[str]],
        names: tuple[str, ...],
    ) -> Case:
        true = " ".join(words) if self.normalise else caption
        options = tuple(cleaned(text, self.most_words) for text in (true, *(" ".join(order) for order in orders)))
        false: list[Role] = ["false"] * len(orders)
        roles: tuple[Role, ...] = ("true", *false)
        return Case(uid, group, kind, options, roles, names)


def tagger_of(name: str) -> Tagger:
    """The tagger of a name: "" for our own, "spacy:MODEL" for an installed model of spaCy, which the published shuffles were made with."""
    if not name:
        return tag
    if not name.startswith("spacy:"):
        raise ConfigError(f"tagger is {name!r} (expected '' or 'spacy:MODEL')")
    return spacy_tagger(name.removeprefix("spacy:"))
