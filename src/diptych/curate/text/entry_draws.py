"""Seeded draws of MetaCLIP's balancing: the text drawn for each image, and the keep decision. Keyed by (seed, uid).

Letters: T texts in order of uid, I images, K matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError
from diptych.core.randomness import keyed_uniforms
from diptych.curate.text.balance import keep_by_entry, keep_probability

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

    uids: list[str]
    text_I: Ints
    stays_I: Bools
    chance_T: Floats


def draw_texts(
    uid_T: Sequence[str],
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
    matched = np.flatnonzero(np.diff(offset_T1) > 0).tolist()
    owners = [uid_T[text] for text in matched]
    first = [number_in_row for number_in_row, uid in enumerate(owners) if not number_in_row or uid != owners[number_in_row - 1]]
    uids = [owners[number_in_row] for number_in_row in first]
    spans = list(pairwise([*first, len(matched)]))

    def survives(at: Sequence[int], keys: Sequence[str]) -> Bools:
        rows = np.asarray(at, np.int64)
        if draw == "text":
            return (keyed_uniforms(keys, seed, "metaclip keep") if keep is None else keep[rows]) < chance_T[rows]
        if keep is not None:
            return keep_by_entry(entry_K, offset_T1, p_M, keep)[rows]
        entries = [entry_K[offset_T1[text] : offset_T1[text + 1]].tolist() for text in at]
        drawn = keyed_uniforms(
            (f"{key}\x1f{e}" for key, es in zip(keys, entries, strict=True) for e in es), seed, "metaclip entry"
        )
        offset_A1 = np.cumsum([0, *(len(es) for es in entries)])
        return keep_by_entry(np.array([e for es in entries for e in es], np.int64), offset_A1, p_M, drawn)

    if texts == "one":
        lots = keyed_uniforms(uids, seed, "metaclip text") if choose_T is None else choose_T[[matched[low] for low, _ in spans]]
        chosen = [matched[low + int(lot * (high - low))] for lot, (low, high) in zip(lots, spans, strict=True)]
        return EntryDraws(uids, np.array(chosen, np.int64), survives(chosen, uids), chance_T)
    number_in_row = [number - low for low, high in spans for number in range(low, high)]
    alive = survives(matched, [f"{uid}\x1f{number}" for uid, number in zip(owners, number_in_row, strict=True)])
    best = [matched[low + int(alive[low:high].argmax())] for low, high in spans]
    stays = [bool(alive[low:high].any()) for low, high in spans]
    return EntryDraws(uids, np.array(best, np.int64), np.array(stays, bool), chance_T)
