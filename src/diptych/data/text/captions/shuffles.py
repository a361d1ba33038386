"""Words of a caption in another order: the wrong captions of ARO (2210.01936) and SNARE (2308.12898).

All work on tokens and draw from a generator that is given, so that the same caption is shuffled the same way in every run. The published
files draw from the process's generator and differ from run to run.

Letters: none; words are lists of strings, `kinds` the part of speech of each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
NOUN: Collection[str] = ("NOUN", "PROPN")
ADJECTIVE: Collection[str] = ("ADJ",)
VERB: Collection[str] = ("VERB", "AUX")
"""With the forms of be, have and do, as Penn's VB tags have them. `kinds_of` takes modals out, which have a tag of their own there."""
MODALS = frozenset(["can", "could", "may", "might", "must", "shall", "should", "will", "would", "ca", "wo"])


class SupportsPermutation(Protocol):
    """A random generator of numpy, new or old."""

    def permutation(self, x: Any, /) -> Any: ...


PENN = {"NN": "NOUN", "JJ": "ADJ", "VB": "VERB"}
"""What tags of the Penn Treebank begin with, by which the published code sorts words: "someone" is a noun there, a modal no verb."""


def kinds_of(words: Sequence[str], tags: Sequence[str], penn: Sequence[str] = ()) -> list[str]:
    """The tags with modals apart from other auxiliaries; of words that have a tag of the Penn Treebank its kind, or "OTHER"."""
    if not penn:
        penn = [""] * len(words)
    return [
        PENN.get(fine[:2], "OTHER") if fine else "MODAL" if word.lower() in MODALS and tag == "AUX" else tag
        for word, tag, fine in zip(words, tags, penn, strict=True)
    ]


def shuffled_classes(
    words: Sequence[str], kinds: Sequence[str], classes: Sequence[Collection[str]], rng: SupportsPermutation
) -> list[str]:
    """The words of each class among themselves, class by class; all others stay.

    >>> import numpy as np
    >>> shuffled_classes(["a", "red", "cup", "and", "box"], ["DET", "ADJ", "NOUN", "CONJ", "NOUN"], [NOUN], np.random.default_rng(3))
    ['a', 'red', 'box', 'and', 'cup']
    """
    out = list(words)
    for members in classes:
        _permute(out, [position for position, kind in enumerate(kinds) if kind in members], rng)
    return out


def shuffled_others(
    words: Sequence[str], kinds: Sequence[str], classes: Sequence[Collection[str]], rng: SupportsPermutation
) -> list[str]:
    """The words of no class among themselves."""
    out = list(words)
    _permute(out, [position for position, kind in enumerate(kinds) if not any(kind in members for members in classes)], rng)
    return out


def shuffled(words: Sequence[str], rng: SupportsPermutation) -> list[str]:
    """All words."""
    out = list(words)
    _permute(out, list(range(len(out))), rng)
    return out


def shuffled_within_trigrams(words: Sequence[str], rng: SupportsPermutation) -> list[str]:
    """Every three words among themselves, from the first on."""
    out: list[str] = []
    for three in _trigrams(words):
        out += [three[int(position)] for position in rng.permutation(len(three))]
    return out


def shuffled_trigrams(words: Sequence[str], rng: SupportsPermutation) -> list[str]:
    """Three words stay together; the threes are shuffled, and so is what is left over at the end."""
    threes = _trigrams(words)
    return [word for position in rng.permutation(len(threes)) for word in threes[int(position)]]


def _permute(words: list[str], positions: Sequence[int], rng: SupportsPermutation) -> None:
    permuted = [words[positions[int(at)]] for at in rng.permutation(len(positions))]
    for position, word in zip(positions, permuted, strict=True):
        words[position] = word


def _trigrams(words: Sequence[T]) -> list[Sequence[T]]:
    return [words[start : start + 3] for start in range(0, len(words), 3)]
