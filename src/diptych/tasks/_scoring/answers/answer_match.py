"""Answer normalisation and VQA accuracy, as in the VQA evaluation code (Antol et al., 2015).

The order is part of the protocol: punctuation, lower case, number words to digits, removal of articles, restoring of
contractions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    word: str(number)
    for number, words in enumerate(("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
    for word in words.split()
}
_ONE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd it'll ma'am "
    "mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd "
    "someone'll someone's something'd something'll that's there'd there're there's they'd they'll they're they've 'twas wasn't we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've "
    "wouldn't y'all you'd you'll you're you've"
)
_TWO = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've there'd've "
    "they'd've we'd've who'd've wouldn't've you'd've"
)
CONTRACTIONS = {whole.replace("'", ""): whole for whole in _ONE.split()}
for _whole in _TWO.split():
    _first, _, _rest = _whole.partition("'")
    CONTRACTIONS |= {_first + _rest: _whole, f"{_first}'{_rest.replace(chr(39), '')}": _whole}
CONTRACTIONS |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at") | {"somebody'd": "somebodyd"}
CONTRACTIONS |= dict.fromkeys(("yall'll", "y'allll"), "y'all'll")
CONTRACTIONS |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")

_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
NEEDED = 3
"""Number of annotators who must agree for full accuracy."""


def normalised(answer: str) -> str:
    """Normalised answer for comparison: punctuation, number words, articles and contractions as the VQA evaluation has them.

    >>> normalised("The two dogs, dont you think?")
    "2 dogs don't you think"
    """
    words = strip_punctuation(answer).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def strip_punctuation(answer: str) -> str:
    """Strips punctuation: a mark next to a space, or any mark if the answer has a number such as 1,000, is deleted; others become
    spaces. Full stops are deleted except before a digit."""
    text = answer
    loose = _THOUSANDS.search(answer) is not None
    for mark in MARKS:
        beside = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside or loose else " ")
    return _PERIOD.sub("", text, count=32)  # the released code stops after 32


def trimmed(answer: str) -> str:
    """Strips surrounding whitespace; newlines and tabs become spaces."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(answer: str, people: Sequence[str], *, always: bool = False) -> float:
    """VQA accuracy of an answer: over each annotator, min(1, matches among the others / 3); the mean.

    people  answers of the annotators, ten in the published data; with fewer than four, one match is enough
    always  normalise also if all annotators agree; the released code does not, so there the answer must equal theirs exactly
    """
    given, own = [trimmed(person) for person in people], trimmed(answer)
    if always or len(set(given)) > 1:
        given, own = [normalised(person) for person in given], normalised(own)
    if len(given) <= NEEDED:
        return float(own in given)
    shares = [
        min(1.0, sum(other == own for index, other in enumerate(given) if index != row) / NEEDED) for row in range(len(given))
    ]
    return sum(shares) / len(shares)
