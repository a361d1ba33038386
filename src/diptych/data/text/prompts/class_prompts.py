"""Token rows of prompts for classes, with places for context vectors: start, context, name, tail, end, padding.

    ids    <sot> *  *  *  *  red  circle  .  <eot> <pad> ...        * stands for a context vector
    tail   what follows the name, "." in CoOp (2109.01134), nothing in DenseCLIP (2112.01518)

A name that does not fit is refused and never cut. Underscores in names are spaces. A name is as many tokens long as it is by itself, also
where its last sign joins the tail ("st." and "." to ".."), as released.

Letters: K classes, L tokens, M context vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import Tokenizer

Placement = Literal["end", "middle", "front"]
"""Where the class name stands: after the context, in its middle, before it."""


@dataclass(frozen=True, slots=True)
class ClassPrompts:
    """Rows for K classes, the context before the name. `order_KL` puts it elsewhere.

    ids_KL   int64; any id stands at the places of the context
    mask_KL  True on tokens and context, False on padding
    order_KL int64: which place of the row (start, context, name, tail, ...) stands where in the prompt
    context  the first place of the context and the one after its last
    """

    ids_KL: npt.NDArray[np.int64]
    mask_KL: npt.NDArray[np.bool_]
    order_KL: npt.NDArray[np.int64]
    context: tuple[int, int]


def class_prompts(
    names: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    *,
    context: int,
    words: str = "",
    placement: Placement = "end",
    tail: str = ".",
    fitted: bool = False,
) -> ClassPrompts:
    """The prompts of these names in `length` tokens.

    context  how many context vectors; with `words` as many as these have tokens, see `context_ids`
    fitted   rows as long as the longest prompt instead of `length`
    Raises DataError for a name that does not fit, or that has no token.
    """
    if placement not in get_args(Placement):
        raise ConfigError(f"placement is {placement!r} (expected {' | '.join(get_args(Placement))})")
    if tokenizer.side != "right":
        raise ConfigError("this tokenizer pads on the left, which prompts cannot (expected one that pads on the right)")
    if context < 0:
        raise ConfigError(f"context is {context} vectors (expected 0 or more)")
    start, rows, lengths = len(tokenizer.prefix), [], []
    anything = next(
        number for number in range(3) if number not in (tokenizer.eot_id, tokenizer.pad_id)
    )  # must not look like an end
    filler = context_ids(tokenizer, words) if words else [anything] * context
    around = start + len(filler) + len(tokenizer.suffix)
    for name in names:
        spoken = name.replace("_", " ").strip()
        own = pieces(tokenizer, spoken)
        if not own:
            raise DataError(f"the class name {name!r} has no token", field="classes", expected="a name of letters")
        name_ids = pieces(tokenizer, f"{words} {spoken}{tail}" if words else f"{spoken}{tail}")
        if words and name_ids[: len(filler)] != filler:
            raise ConfigError(f"the tokenizer joins {words!r} with the name {name!r} (expected whole words)")
        name_ids = name_ids[len(filler) :] if words else name_ids
        if around + len(name_ids) > length:
            over = f"{around + len(name_ids)} tokens with {len(filler)} of context"
            raise DataError(f"the prompt of class {name!r} has {over}", field="classes", expected=f"at most {length}")
        rows.append([*tokenizer.prefix, *filler, *name_ids, *tokenizer.suffix])
        lengths.append(min(len(own), len(name_ids)))
    count = max((len(row) for row in rows), default=around) if fitted else length
    ids_KL = np.full((len(rows), count), tokenizer.pad_id, np.int64)
    mask_KL = np.zeros((len(rows), count), np.bool_)
    order_KL = np.tile(np.arange(count), (len(rows), 1))
    for k, (row, name_length) in enumerate(zip(rows, lengths, strict=True)):
        ids_KL[k, : len(row)], mask_KL[k, : len(row)] = row, True
        order_KL[k] = _prompt_order(count, start, len(filler), name_length, placement)
    return ClassPrompts(ids_KL, mask_KL, order_KL, (start, start + len(filler)))


def context_ids(tokenizer: Tokenizer, words: str) -> list[int]:
    """The tokens of the words that a context starts from. The release counts words between spaces and so cuts a word of two tokens; here
    each token is a context vector."""
    ids = pieces(tokenizer, words.replace("_", " "))
    if not ids:
        raise ConfigError(f"the words {words!r} have no token (expected words such as 'a photo of a')")
    return ids


def pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text without marks, however long."""
    room = len(text.encode()) + len(tokenizer.prefix) + len(tokenizer.suffix) + 8
    encoded = tokenizer.encode([text], room)
    ids: list[int] = encoded.ids_BL[0, encoded.mask_BL[0]].tolist()
    return ids[len(tokenizer.prefix) : len(ids) - len(tokenizer.suffix)]


def _prompt_order(count: int, start: int, context: int, name: int, placement: Placement) -> npt.NDArray[np.int64]:
    """The places of a row in the order of its prompt."""
    place_L = np.arange(count)
    before = {"end": context, "middle": context // 2, "front": 0}[placement]
    first, middle, last = place_L[start : start + before], place_L[start + before : start + context], start + context
    return np.concatenate([place_L[:start], first, place_L[last : last + name], middle, place_L[last + name :]])
