"""MetaCLIP's balancing: keep probabilities of texts from the counts of their entries (Xu et al., 2023, 2309.16671).

With c_e texts that mention entry e, and a threshold t:

    p_e = t / max(c_e, t)                       a text with only entry e is kept with this probability
    P   = 1 - prod over its entries (1 - p_e)   it is kept if any of its entries keeps it

t is not a cap: a frequent entry is also kept through the rare entries of its texts. To transfer t between pools, use the *tail
share*, the fraction of all matches that falls on entries with fewer than t; 20,000 on 400 million pairs left 6 % in the tail.
Letters: M entries, N texts, K matches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, ShapeError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint64]


def entry_probability(count_M: Counts, t: int) -> Floats:
    """p_e = t / max(c_e, t)."""
    if t < 1:
        raise ConfigError(f"t is {t} (expected at least 1)")
    return t / np.maximum(count_M.astype(np.float64), t)


def keep_probability(entry_K: npt.NDArray[np.integer], offset_N1: npt.NDArray[np.integer], p_M: Floats) -> Floats:
    """Keep probability of every text, whose entries are entry_K[offset[n]:offset[n+1]]; 0 for a text without any. [N]"""
    with np.errstate(divide="ignore"):
        lost_K = np.log1p(-p_M[entry_K])  # -inf where p is 1: such a text is always kept
    # sums by text, not differences of one running sum, which would mix infinities
    out_N = np.zeros(len(offset_N1) - 1)
    some = np.flatnonzero(np.diff(offset_N1))
    if len(some):
        out_N[some] = -np.expm1(np.add.reduceat(lost_K, offset_N1[some]))
    return out_N


def keep_by_entry(
    entry_K: npt.NDArray[np.integer], offset_N1: npt.NDArray[np.integer], p_M: Floats, uniform_K: Floats
) -> npt.NDArray[np.bool_]:
    """Keep mask of texts, bool [N]: True if the number in [0, 1) drawn for any entry is below that entry's p. This is the
    published sampling; its expectation is `keep_probability`. The caller passes the numbers: `rng.random(len(entry_K))`.
    """
    if uniform_K.shape != entry_K.shape:
        raise ShapeError(f"uniform_K must be [{len(entry_K)}], a number a match; got {list(uniform_K.shape)}")
    saved_K = uniform_K < p_M[entry_K]
    out_N = np.zeros(len(offset_N1) - 1, bool)
    some = np.flatnonzero(np.diff(offset_N1))
    if len(some):
        out_N[some] = np.logical_or.reduceat(saved_K, offset_N1[some])
    return out_N


def share_below(count_M: Counts, t: int) -> float:
    """Tail share p(t): fraction of all matches that falls on entries with fewer than t."""
    total = int(count_M.sum())
    return float(count_M[count_M < t].sum()) / total if total else 0.0


def threshold_for(count_M: Counts, share: float) -> int:
    """Threshold t(p): the entry count at which the cumulative share of matches, by ascending count, is nearest to `share`. At
    least 1.

    share  from 0, the count of the rarest entry, to 1, the count of the most frequent one: then every match is kept

    >>> threshold_for(np.array([1, 1, 2, 4, 12], np.uint64), 0.2)
    2
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"tail share is {share} (expected from 0 to 1)")
    counts = np.sort(count_M[count_M > 0])
    if not len(counts):
        return 1
    running = np.cumsum(counts.astype(np.float64)) / float(counts.sum())
    return int(counts[np.argmin(np.abs(running - share))])
