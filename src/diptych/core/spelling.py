"""Lists in words: pieces between commas, where brackets and quotes hold a piece together."""

from __future__ import annotations


def split_commas(words: str) -> list[str]:
    """The pieces between commas; a comma within brackets or quotes separates nothing.

    >>> split_commas("ks=[20,50],label='a, b',draws=10")
    ['ks=[20,50]', "label='a, b'", 'draws=10']
    """
    pieces, depth, quote = [""], 0, ""
    for before, letter in zip(f" {words}", words, strict=False):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in "=,[{ :":  # an apostrophe within a word opens nothing
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not quote and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces
