"""Display of subwords: which ones begin a word, which are only parts of letters, and a name for each.

Three spellings are known. Byte pairs of GPT's kind put a sign for the space before a word ("Ġbus", "es"), those of CLIP put "</w>" after
its last piece ("bus</w>"), word pieces mark what goes on with "##" ("bus", "##es"). Letters: B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.data.text.tokenize import Tokenizer

GOES_ON = "##"
SPACE, END = "\u0120", "</w>"  # Ġ and CLIP's mark
UNKNOWN = ("<unk>", "[UNK]")
Spelling = Literal["space", "end", "pieces"]


def word_starts(tokenizer: Tokenizer, ids_BL: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True where a token begins a word. Special tokens, and signs without letters and digits, are words by themselves."""
    mark_V = _marks(tokenizer)
    if spelling(tokenizer) != "end":
        return mark_V[ids_BL]
    return np.concatenate([np.ones_like(ids_BL[:, :1], bool), mark_V[ids_BL[:, :-1]]], axis=1)


def hash_starts(tokenizer: Tokenizer, ids_BL: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True where a token does not begin with "##": words as released collators join them, which know no other spelling. Under a
    vocabulary of another spelling every token is a word."""
    return np.array([not piece.startswith(GOES_ON) for piece in _pieces(tokenizer)])[ids_BL]


@lru_cache(maxsize=8)
def _marks(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """[V], which pieces begin a word; under CLIP's spelling, which end one."""
    style, special = spelling(tokenizer), _special(tokenizer)
    marks = []
    for number, piece in enumerate(_pieces(tokenizer)):
        if style == "end":
            marks.append(number in special or piece.endswith(END))
            continue
        goes_on = piece.startswith(GOES_ON) if style == "pieces" else not piece.startswith(SPACE)
        shown = piece.removeprefix(GOES_ON) if style == "pieces" else _decoded(tokenizer, number)
        sign = "\ufffd" not in shown and not any(map(str.isalnum, shown))
        marks.append(number in special or sign or not goes_on)
    return np.array(marks)


@lru_cache(maxsize=8)
def spelling(tokenizer: Tokenizer) -> Spelling:
    """Subword convention of a vocabulary: its sign that a word begins, goes on or ends."""
    pieces = _pieces(tokenizer)
    counts: dict[Spelling, int] = {
        "space": sum(piece.startswith(SPACE) for piece in pieces),
        "end": sum(piece.endswith(END) for piece in pieces),
        "pieces": sum(piece.startswith(GOES_ON) for piece in pieces),
    }
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "pieces"


@lru_cache(maxsize=8)
def term_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Unique name of every id: the piece as people write it, with "##" before what continues a word.

    Under CLIP's spelling a piece that does not end its word is written with "##" after. Pieces that are only some bytes of a letter keep
    the vocabulary's own spelling, and so does one whose name is taken.
    """
    pieces, style = _pieces(tokenizer), spelling(tokenizer)
    special = _special(tokenizer)
    taken: set[str] = set()
    names = []
    for number, piece in enumerate(pieces):
        name = piece if number in special else _readable(tokenizer, number, piece, style)
        name = piece if name in taken or not name else name
        name = f"{name}#{number}" if name in taken else name
        taken.add(name)
        names.append(name)
    return tuple(names)


def _readable(tokenizer: Tokenizer, number: int, piece: str, style: Spelling) -> str:
    if style == "pieces":
        return piece
    text = _decoded(tokenizer, number)
    if _is_unreadable(text):
        return piece
    if style == "space":
        return text.strip() if piece.startswith(SPACE) else GOES_ON + text
    return text.strip() if piece.endswith(END) else text + GOES_ON


@lru_cache(maxsize=8)
def fragment_mask(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Mask [V] of tokens without readable text: unknown words, spaces, and pieces that are some bytes of a letter."""
    unknown = {number for name in UNKNOWN if (number := tokenizer.inner.token_to_id(name)) is not None}
    special = _special(tokenizer)
    broken = [
        number in unknown or (number not in special and _is_unreadable(_decoded(tokenizer, number)))
        for number in range(tokenizer.vocab_size)
    ]
    return np.array(broken)


def empty_text_reasons(tokenizer: Tokenizer, ids_BL: npt.NDArray[np.int64], mask_BL: npt.NDArray[np.bool_]) -> list[str]:
    """Reason that a text is empty to a model: no token beside start and end marks, or only fragments; "" for most texts."""
    inner_BL = mask_BL & ~np.isin(ids_BL, [tokenizer.pad_id, *tokenizer.prefix, *tokenizer.suffix])
    known_BL = inner_BL & ~fragment_mask(tokenizer)[ids_BL]
    return [
        "has no token" if not inner else "has no word that the vocabulary knows" if not has_known else ""
        for inner, has_known in zip(map(any, inner_BL), map(any, known_BL), strict=True)
    ]


def unknown_share(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> float:
    """Which share of the texts' tokens is the token of unknown words, or some bytes of a letter. 0 for no token at all."""
    encoded = tokenizer.encode(texts, length)
    inner_BL = encoded.mask_BL & ~np.isin(encoded.ids_BL, [tokenizer.pad_id, *tokenizer.prefix, *tokenizer.suffix])
    return float(fragment_mask(tokenizer)[encoded.ids_BL][inner_BL].mean()) if inner_BL.any() else 0.0


def _decoded(tokenizer: Tokenizer, number: int) -> str:
    text: str = tokenizer.inner.decode([number], skip_special_tokens=False)
    return text


def _is_unreadable(text: str) -> bool:
    """Some bytes of a letter, spaces, or a sign that does not print."""
    return "\ufffd" in text or not text.strip() or not text.isprintable()


def _special(tokenizer: Tokenizer) -> set[int]:
    return {number for number, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special}


def _pieces(tokenizer: Tokenizer) -> Sequence[str]:
    return [tokenizer.inner.id_to_token(number) or f"<{number}>" for number in range(tokenizer.vocab_size)]
