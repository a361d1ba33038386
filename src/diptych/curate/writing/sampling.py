"""Sampling of the next token.  Letters: B rows, V words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def nucleus(logit_BV: npt.NDArray[np.float64], temperature: float, top_p: float) -> npt.NDArray[np.float64]:
    """Nucleus (top-p) probabilities: the smallest set that reaches `top_p`, the most likely token always: LLaMA's rule, by which a
    token stays while those before it have at most `top_p` together."""
    scaled = logit_BV / temperature
    raw = np.exp(scaled - scaled.max(-1, keepdims=True))
    chance_BV = raw / raw.sum(-1, keepdims=True)
    order = np.argsort(-chance_BV, axis=-1, kind="stable")
    ranked = np.take_along_axis(chance_BV, order, -1)
    ranked[np.cumsum(ranked, -1) - ranked > top_p] = 0.0
    np.put_along_axis(chance_BV, order, ranked, -1)
    left: npt.NDArray[np.float64] = chance_BV / chance_BV.sum(-1, keepdims=True)
    return left


def sample_index(chance_V: npt.NDArray[np.float64], uniform: float) -> int:
    """Index sampled by inverse CDF: where the running sum passes `uniform`; never one of probability 0."""
    there = np.flatnonzero(chance_V)
    index = int(np.searchsorted(np.cumsum(chance_V[there]), uniform, side="right"))
    return int(there[min(index, len(there) - 1)])
