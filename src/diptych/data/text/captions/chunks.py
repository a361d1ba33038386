"""A long caption in chunks of a few sentences, each short enough to be read whole (SyViC, 2023, arXiv 2303.17590)."""

from __future__ import annotations

import numpy as np


def caption_parts(caption: str) -> list[str]:
    """Parts of a caption between full stops, stripped; empty parts are dropped."""
    return [piece.strip() for piece in caption.split(".") if piece.strip()]


def chunks(caption: str, *, sentences: int = 4) -> list[str]:
    """This many sentences a chunk, joined by ". "; the last chunk may have fewer, a caption without a word none.

    >>> chunks("A cup. A box. It is red. It is blue. A dog.")
    ['A cup. A box. It is red. It is blue', 'A dog']
    """
    parts = caption_parts(caption)
    return [". ".join(parts[start : start + sentences]).strip() for start in range(0, len(parts), sentences)]


def drop_sentences(caption: str, rng: np.random.Generator, *, keep: float = 0.7, about: float = 0.0) -> str:
    """The first sentence, and each further one in a share of cases.

    about  this many sentences in the mean instead: each, the first too, stays in about / n of the cases, n the pieces between full stops
           and at the ends, as released for captions of actions, where about is 7; where none stays, the first does
    """
    parts = caption_parts(caption)
    if not about:
        return ". ".join(piece for position, piece in enumerate(parts) if not position or rng.random() < keep)
    share = about / len(caption.split("."))
    return ". ".join([piece for piece in parts if rng.random() < share] or parts[:1])
