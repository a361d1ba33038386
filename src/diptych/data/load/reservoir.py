"""Reservoir sampling that decides membership from each sample alone.

Reservoir sampling keeps a uniform sample of everything that has passed, and its result depends on the order of passing. Here each
sample has a number in [0, 1) that depends on (seed, uid) alone, and the reservoir holds the samples with the smallest numbers: the same
distribution, at every moment and from one to the next (a sample that was dropped never comes back), for any number of processes, and a
run that stops and goes on holds the same.

Letters: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.randomness import keyed_uniforms


def reservoir_numbers(uids: Iterable[str], seed: int) -> npt.NDArray[np.float64]:
    """[N]: the number in [0, 1) of each sample."""
    return keyed_uniforms(uids, "reservoir", seed)


def reservoir_limits(number_N: npt.NDArray[np.float64], part_N: Sequence[int], parts: int, size: int) -> tuple[float, ...]:
    """For each part: samples of the parts before it whose number is below this are in the reservoir when it begins.

    part_N  the part of each sample, -1 for none of them
    size    samples that the reservoir holds at most
    """
    part = np.asarray(part_N)
    limits = []
    for later in range(parts):
        seen = np.sort(number_N[(part >= 0) & (part < later)])
        limits.append(float(seen[size]) if len(seen) > size else 1.0)
    return tuple(limits)
