"""Seeded draws of MetaCLIP's balancing: the text drawn for each image, and the keep decision. Keyed by (seed, uid).

Letters: T texts in order of uid, I images, K matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.errors import ShapeError
from diptych.core.randomness import keyed_uniforms
from diptych.curate.engine.verdicts import StringColumn
from diptych.curate.text.balance import keep_by_entry, keep_probability
from diptych.data.ragged import starts_of_runs

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EntryDraws:
    """uids      images with a match, in order
    text_I    index of the text drawn for each image
    stays_I   True if the image is kept
    chance_T  P of every text, 0 without a match
    """

    uids: Sequence[str]
    text_I: Ints
    stays_I: Bools
    chance_T: Floats


def draw_texts(
    uid_T: Sequence[str] | pa.Array,
    entry_K: Ints,
    offset_T1: Ints,
    p_M: Floats,
    *,
    seed: int = 0,
    texts: Literal["one", "any"] = "one",
    draw: Literal["text", "entry"] = "text",
    choose_T: Floats | None = None,
    keep: Floats | None = None,
) -> EntryDraws:
    """Draws one text for each image, and decides whether the image is kept.

    uid_T               owns each text; texts of one image are neighbours
    entry_K, offset_T1  the entries of text i are entry_K[offset[i]:offset[i+1]]
    p_M                 of each entry: `entry_probability`
    seed                seed of the draws, which are keyed by uid
    texts, draw         as in `MetaCLIP`
    choose_T, keep      numbers in [0, 1) to draw with, in place of the seed's. choose_T: for texts "one", that of an image's first text
                        that matches says which of those that match is judged. keep: what is below P or p stays; [T], a number a
                        text, for draw "text", [K], one a match, for draw "entry"
    """
    expected = len(uid_T) if draw == "text" else len(entry_K)
    for name, given, size in (("choose_T", choose_T, len(uid_T)), ("keep", keep, expected)):
        if given is not None and given.shape != (size,):
            raise ShapeError(f"{name} must be [{size}] numbers for draw {draw!r}, got {list(given.shape)}")
    chance_T = keep_probability(entry_K, offset_T1, p_M)
    matched_A = np.flatnonzero(np.diff(offset_T1) > 0)
    owners = pa.array(uid_T, pa.string()).take(pa.array(matched_A))
    low_I = np.flatnonzero(starts_of_runs(owners))
    count_I = np.diff(low_I, append=len(matched_A))
    uids = StringColumn(owners.take(pa.array(low_I)))

    def survives(text_A: Ints, keys: Iterable[str]) -> Bools:
        if draw == "text":
            return (keyed_uniforms(keys, seed, "metaclip keep") if keep is None else keep[text_A]) < chance_T[text_A]
        if keep is not None:
            return keep_by_entry(entry_K, offset_T1, p_M, keep)[text_A]
        offset_A1 = np.concatenate([[0], np.cumsum(np.diff(offset_T1)[text_A])])
        own_K = entry_K[np.arange(offset_A1[-1]) + np.repeat(offset_T1[text_A] - offset_A1[:-1], np.diff(offset_A1))]
        entries = (own_K[start:end].tolist() for start, end in pairwise(offset_A1))
        drawn = keyed_uniforms(
            (f"{key}\x1f{e}" for key, es in zip(keys, entries, strict=True) for e in es), seed, "metaclip entry"
        )
        return keep_by_entry(own_K, offset_A1, p_M, drawn)

    if texts == "one":
        lot_I = keyed_uniforms(uids, seed, "metaclip text") if choose_T is None else choose_T[matched_A[low_I]]
        text_I = matched_A[low_I + (lot_I * count_I).astype(np.int64)]
        return EntryDraws(uids, text_I, survives(text_I, uids), chance_T)
    number_A = np.arange(len(matched_A)) - np.repeat(low_I, count_I)
    alive_A = survives(matched_A, (f"{uid}\x1f{number}" for uid, number in zip(StringColumn(owners), number_A, strict=True)))
    first_I = np.minimum.reduceat(np.where(alive_A, number_A, len(number_A)), low_I) if len(low_I) else low_I
    stays_I = first_I < count_I
    return EntryDraws(uids, matched_A[low_I + np.where(stays_I, first_I, 0)], stays_I, chance_T)
