"""Phrases of a caption about a person: clothes, hair, shoes, belongings, gender and age.

A noun phrase counts that has a noun of the keyword sets; a keyword that the tagger took for no noun counts by itself.
"""

from __future__ import annotations

from functools import lru_cache

from diptych.data.text.english.phrases import NOUNS, noun_phrases
from diptych.data.text.english.tagger import tag

KEYWORDS: dict[str, str] = {
    "person": "man woman boy girl lady gentleman guy male female person pedestrian child kid adult teenager youth mother father student",
    "head": "hair ponytail bun beard hat cap hood helmet scarf mask glasses sunglasses headband earphones headphones",
    "upper": "shirt t-shirt tee top blouse sweater sweatshirt hoodie jacket coat windbreaker overcoat vest suit dress polo tank jersey "
    "cardigan blazer uniform pullover jumper sleeve sleeves tie",
    "lower": "trousers pants jeans shorts skirt leggings slacks bottoms bottom tights stockings socks capris khakis",
    "shoes": "shoe shoes sneaker sneakers boot boots sandal sandals heel heels slipper slippers loafers flats footwear",
    "belongings": "bag backpack rucksack handbag purse satchel suitcase luggage briefcase umbrella phone cellphone bicycle bike "
    "stroller cart gloves book bottle camera",
}
"""What is worn or carried, by the attributes of SYNTH-PEDES."""
_KNOWN = frozenset(word for words in KEYWORDS.values() for word in words.split())


@lru_cache(maxsize=65536)
def attribute_phrases(caption: str) -> tuple[tuple[int, int], ...]:
    """Where each phrase begins and ends in the caption, in order; articles in front are not part of it.

    >>> caption = "A man with short black hair wears a red t-shirt, blue trousers and white shoes near a wall."
    >>> [caption[begin:end] for begin, end in attribute_phrases(caption)]
    ['man', 'short black hair', 'red t-shirt', 'blue trousers', 'white shoes']
    """
    words = tag(caption)
    spans = []
    for phrase in noun_phrases(words):
        inner = list(phrase.words)
        while len(inner) > 1 and inner[0].tag in ("DET", "NUM", "PRON"):
            inner = inner[1:]
        if any(word.lower in _KNOWN for word in inner if word.tag in NOUNS):
            spans.append((inner[0].start, inner[-1].stop))
    covered = {position for begin, end in spans for position in range(begin, end)}
    spans += [(word.start, word.stop) for word in words if word.lower in _KNOWN and word.start not in covered]
    return tuple(sorted(spans))
