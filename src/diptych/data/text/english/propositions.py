"""Rule-based decomposition of a long text into simple statements."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from diptych.data.text.captions.sentences import sentences
from diptych.data.text.english.tagger import tag

JOINT = re.compile(
    r"(?P<turn>\s*[;:]\s+|,?\s+(?:but|while|whereas|although)\s+)|,?\s+and\s+|,\s+|"
    r",?\s+(?:who|which|that)\s+(?=(?:is|are|was|were|has|have)\b)"
)
LEAST = 3
"""Words on both sides of "but", "while" or a semicolon that make statements of them."""
SPEAKS = frozenset({"VERB", "AUX"})
THING = re.compile(r"(?:an?|no|the|one|two|three|some|another)\s", re.IGNORECASE)
LEAD = re.compile(r"^(?:there\s+(?:is|are)|(?:you|we)\s+can\s+see)\s+", re.IGNORECASE)


@lru_cache(maxsize=65536)
def propositions(text: str, most: int = 0) -> tuple[str, ...]:
    """The statements of a text in order, one at least; beyond `most` (0: no bound) they are left out.

    Sentences are cut at conjunctions, commas and relative pronouns, wherever what stands on both sides holds a verb, or the sentence says
    what there is: "there is a dog and no cat" is two statements. "But", "while" and semicolons cut what has three words on both sides.

    >>> propositions("There is a red ball and no blue star. The dog sits, but the cat is asleep.")
    ('There is a red ball', 'There is no blue star', 'The dog sits', 'the cat is asleep')
    >>> propositions("a black and white cat")
    ('a black and white cat',)
    """
    pieces: list[str] = []
    for sentence in sentences(text):
        pieces += _cut(sentence.rstrip(".!? "))
    whole = tuple(pieces) or (text.strip(),)
    return whole[:most] if most else whole


def _cut(sentence: str) -> Sequence[str]:
    lead = LEAD.match(sentence)
    opening = lead.group() if lead else ""
    pieces, start = list[str](), len(opening)
    for joint in JOINT.finditer(sentence, len(opening)):
        piece, rest = sentence[start : joint.start()], sentence[joint.end() :]
        turns = joint["turn"] is not None and min(len(piece.split()), len(rest.split())) >= LEAST
        if turns or (_stands(piece, opening) and _stands(rest, opening)):
            pieces.append(piece)
            start = joint.end()
    pieces.append(sentence[start:])
    return [piece if number and not _lists(piece) else f"{opening}{piece}" for number, piece in enumerate(pieces)]


def _stands(piece: str, opening: str) -> bool:
    """True where a piece is a statement of its own: it has a verb, or it is a further thing of a sentence that says what there is."""
    return _speaks(piece) or (bool(opening) and _lists(piece))


def _lists(piece: str) -> bool:
    """True where a piece is a noun phrase without a verb."""
    return THING.match(piece) is not None and not _speaks(piece)


def _speaks(piece: str) -> bool:
    return any(word.tag in SPEAKS for word in tag(piece))
