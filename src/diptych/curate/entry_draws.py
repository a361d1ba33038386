"""The draws of MetaCLIP's balance: which text of an image is judged, and whether it stays. Keyed by (seed, uid), so order-free.

Letters: T texts in order of uid, I images, K matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.core.randomness import keyed_uniforms
from diptych.curate.balance import keep_probability

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """uids      images with a match, in order
    text_I    the text that stands for each
    stays_I   whether it stays
    chance_T  P of every text, 0 without a match
    """

    uids: list[str]
    text_I: Ints
    stays_I: Bools
    chance_T: Floats


def judged(
    uid_T: Sequence[str],
    entry_K: Ints,
    offset_T1: Ints,
    p_M: Floats,
    *,
    seed: int,
    texts: Literal["one", "any"] = "one",
    draw: Literal["text", "entry"] = "text",
) -> Judged:
    """`uid_T` owns each text; texts of one image are neighbours. The entries of text i are entry_K[offset[i]:offset[i+1]]."""
    chance_T = keep_probability(entry_K, offset_T1, p_M)
    matched = np.flatnonzero(np.diff(offset_T1) > 0).tolist()
    owners = [uid_T[text] for text in matched]
    first = [place for place, uid in enumerate(owners) if not place or uid != owners[place - 1]]
    uids = [owners[place] for place in first]
    spans = list(pairwise([*first, len(matched)]))

    def survives(at: Sequence[int], keys: Sequence[str]) -> Bools:
        if draw == "text":
            return keyed_uniforms(keys, seed, "metaclip keep") < chance_T[np.asarray(at, np.int64)]
        entries = [entry_K[offset_T1[text] : offset_T1[text + 1]].tolist() for text in at]
        drawn = keyed_uniforms(
            (f"{key}\x1f{e}" for key, es in zip(keys, entries, strict=True) for e in es), seed, "metaclip entry"
        )
        saved = drawn < p_M[np.array([e for es in entries for e in es], np.int64)]
        ends = np.cumsum([len(es) for es in entries])
        return np.array([saved[end - len(es) : end].any() for es, end in zip(entries, ends, strict=True)], bool)

    if texts == "one":
        lots = keyed_uniforms(uids, seed, "metaclip text")
        chosen = [matched[low + int(lot * (high - low))] for lot, (low, high) in zip(lots, spans, strict=True)]
        return Judged(uids, np.array(chosen, np.int64), survives(chosen, uids), chance_T)
    place = [number - low for low, high in spans for number in range(low, high)]
    alive = survives(matched, [f"{uid}\x1f{number}" for uid, number in zip(owners, place, strict=True)])
    best = [matched[low + int(alive[low:high].argmax())] for low, high in spans]
    stays = [bool(alive[low:high].any()) for low, high in spans]
    return Judged(uids, np.array(best, np.int64), np.array(stays, bool), chance_T)
