"""Count-based alt text filters (ALIGN, Jia et al., 2021, 2102.05918, section on text filters).

There are three rules, with counts over the raw data before any row is dropped: a text shared by many different images says little
about any of them ("1920x1080", "click to enlarge"); a text with a token that is rare in the data is often machine code; a text of
one or two words, or of very many, is seldom a description.

Words are lower-cased alphanumeric runs; in languages without spaces a clause counts as one word, so turn `min_words` off there.
The counts are exact. Memory: all texts during counting, then those shared by several images; the distinct words and word pairs if
there are more than `vocabulary`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from diptych.curate.engine.run import count_distinct
from diptych.curate.engine.verdicts import BLOCK

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


def words_of(text: str) -> list[str]:
    """
    >>> words_of("A dog's half-eaten bone!")
    ['a', "dog's", 'half-eaten', 'bone']
    """
    return WORD.findall(text.casefold())


def tokens_of(text: str) -> Iterator[str]:
    """Unigrams and bigrams of a text.

    >>> list(tokens_of("a red bus"))
    ['a', 'red', 'bus', 'a red', 'red bus']
    """
    words = words_of(text)
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))


def same_text(text: str) -> str:
    """Normalised text for equality: case folded, single spaces."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TextCounts:
    """Frequencies of texts and tokens in the raw data.

    images  number of different images by text (`same_text`), for texts shared by more than one
    common  the tokens that are frequent enough; None if all are
    """

    images: Mapping[str, int]
    common: frozenset[str] | None

    @classmethod
    def of(cls, texts: pa.Table, vocabulary: int = 0) -> TextCounts:
        """Counts of a table of "image" (equal for equal images) and "string".

        Ties at the frequency cutoff are broken alphabetically, so the order of rows does not matter.
        """
        blocks = [texts.slice(start, BLOCK) for start in range(0, texts.num_rows, BLOCK)]
        same = [pa.array(map(same_text, block["string"].to_pylist()), pa.large_string()) for block in blocks]
        pairs = pa.table({"image": texts["image"], "text": pa.chunked_array(same, pa.large_string())})
        counts = count_distinct(pairs, "text", "image")
        several = counts.filter(pc.greater(counts["count"], 1))
        images = dict(zip(several["text"].to_pylist(), several["count"].to_pylist(), strict=True))
        return cls(images, _common_tokens(blocks, vocabulary) if vocabulary else None)

    def fault(self, text: str, *, shared_by: int, min_words: int, max_words: int) -> str:
        """Drop reason of a text, as "rule: value"; "" if it is kept. A limit of 0 is off."""
        count = len(words_of(text))
        if count < min_words or 0 < max_words < count:
            return f"length: {count} words (expected {min_words}..{max_words or 'any number'})"
        beside = self.images.get(same_text(text), 1)
        if 0 < shared_by < beside:
            return f"shared_text: {text!r} stands beside {beside:,} images (expected at most {shared_by})"
        if self.common is not None:
            rare = next((token for token in tokens_of(text) if token not in self.common), "")
            if rare:
                return f"rare_token: {rare!r} is not among the {len(self.common):,} most frequent words and pairs"
        return ""


def _common_tokens(blocks: Sequence[pa.Table], vocabulary: int) -> frozenset[str] | None:
    """The most frequent tokens; None if there are at most `vocabulary` (checked first by a cheap upper bound)."""
    words = sum(len(words_of(text)) for block in blocks for text in block["string"].to_pylist())
    if 2 * words <= vocabulary:  # tokens of which no two are alike
        return None
    tokens = Counter(token for block in blocks for text in block["string"].to_pylist() for token in tokens_of(text))
    if len(tokens) <= vocabulary:
        return None
    ordered = sorted(tokens, key=lambda token: (-tokens[token], token))
    return frozenset(ordered[:vocabulary])
