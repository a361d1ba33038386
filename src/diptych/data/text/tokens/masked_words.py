"""Masks words of texts for masked language modelling (BERT).  Letters: B batch, L tokens, M hidden places per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MaskedWords:
    """ids_BL      token ids with some replaced by random ones
    hidden_BL   True where a mask stands in place of the token
    place_BM    positions that are asked for; 0 if there are fewer than M
    word_BM     the ids that stood there, -1 if there is nothing to ask
    """

    ids_BL: Tensor
    hidden_BL: Tensor
    place_BM: Tensor
    word_BM: Tensor


def most_masked(length: int, share: float) -> int:
    """M for texts of `length` tokens."""
    return max(1, round(share * length))


def mask_words(
    ids_BL: Tensor,
    mask_BL: Tensor,
    rngs: Sequence[np.random.Generator],
    *,
    special: Sequence[int],
    vocab_size: int,
    share: float = 0.15,
    starts_BL: Tensor | None = None,
    padding_counts: bool = False,
    padding_drawn: bool = True,
    each: bool = False,
) -> MaskedWords:
    """Asks for `share` of the words of each text, at least one if it has any: 80 % are hidden behind a mask, 10 % replaced by a
    random word, 10 % left as they are. Exactly that share, as in BERT (later code draws `each` word by itself, so that some texts lose
    none). `special` ids are never asked for, and padding neither. Each row has a generator of its own.

    starts_BL       True where a token begins a word (`whole_words.py`): words are then asked for with all their pieces, in a random
                    order until the share of tokens is reached; one that would go beyond it is passed over, unless none would do
    padding_counts  the share is of the whole row and padding is drawn with the words, though never asked for: so the collator of
                    transformers does it for texts that are padded beforehand. A text may then be asked for nothing
    padding_drawn   with padding_counts; False: the share is of the whole row and all of it is drawn from the text, as where that
                    collator leaves out the vocabulary's padding: of a short text most words are asked for
    each            each word by its own chance, `share`, as ALBEF's code has it: a text may be asked for nothing or for all of
                    it, and M is the most that any text of the batch is asked for, 1 at least. Not with words of several pieces or padding
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of masked words is {share} (expected above 0 and below 1)")
    if each and (starts_BL is not None or padding_counts):
        raise ConfigError(
            "each word by its own chance goes with single tokens alone (expected no starts_BL and no padding_counts)"
        )
    ids, real = ids_BL.numpy().copy(), mask_BL.numpy() & ~np.isin(ids_BL.numpy(), special)
    padding = ~mask_BL.numpy() if padding_counts and padding_drawn else np.zeros_like(real)
    starts = np.ones_like(real) if starts_BL is None else starts_BL.numpy()
    hidden = np.zeros(ids.shape, np.bool_)
    most = ids.shape[1] if each else most_masked(ids.shape[1], share)
    position_BM, word = np.zeros((len(ids), most), np.int64), np.full((len(ids), most), -1, np.int64)
    for row, rng in enumerate(rngs):
        words = np.flatnonzero(real[row])
        if not len(words):
            continue
        count = max(1, round(share * (ids.shape[1] if padding_counts else len(words))))
        if each:
            chosen = words[rng.random(len(words)) < share]
        elif starts_BL is None and not padding_counts:
            chosen = np.sort(rng.permutation(words)[: min(most, count)])
        else:
            units = _units(np.flatnonzero(real[row] | padding[row]), starts[row] | padding[row])
            chosen = _draw_words(units, count, most, rng)
            chosen = chosen[real[row, chosen]]
        position_BM[row, : len(chosen)], word[row, : len(chosen)] = chosen, ids[row, chosen]
        dice = rng.random(len(chosen))
        hidden[row, chosen] = dice < 0.8
        swapped = chosen[(dice >= 0.8) & (dice < 0.9)]
        ids[row, swapped] = rng.integers(vocab_size, size=len(swapped))
    if each:
        most = max(1, int((word >= 0).sum(1).max(initial=0)))
        position_BM, word = position_BM[:, :most], word[:, :most]
    return MaskedWords(*(torch.from_numpy(part) for part in (ids, hidden, position_BM, word)))


def _units(positions: npt.NDArray[np.int64], starts_L: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """The places word by word."""
    begins = starts_L[positions] | (np.diff(positions, prepend=-2) > 1)
    return np.split(positions, np.flatnonzero(begins)[1:])


def _draw_words(units: list[npt.NDArray[np.int64]], count: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Places of words in a random order, as many as fit into `count`, sorted. Where none fits, the first of them, cut at `most`."""
    order = rng.permutation(len(units))
    taken: list[npt.NDArray[np.int64]] = []
    room = count
    for at in order:
        if len(units[at]) <= room:
            taken.append(units[at])
            room -= len(units[at])
        if not room:
            break
    return np.sort(np.concatenate(taken or [units[order[0]]])[:most])
