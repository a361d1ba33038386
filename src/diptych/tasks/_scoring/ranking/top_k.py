"""Top-k choice among options, with ties shared or given to one of them.

Letters: N cases, L options.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.tasks._scoring.captions.choices import Floats
from diptych.tasks._scoring.ranking import ranks as rk

TRUE = "true"
"""Name of the true option if no option has that name itself."""


def beats(one: float, other: float, ties: rk.Ties, *, first: bool) -> float:
    """Pairwise win of one score over another: 1 or 0; on a tie 1/2 if ties are shared, else by the tie policy. first: `one`
    precedes `other`.
    """
    if one != other:
        return float(one > other)
    return {"expected": 0.5, "pessimistic": 0.0, "optimistic": 1.0, "index": float(first)}[ties]


def share_in_first(score_L: npt.ArrayLike, option: int, depth: int, ties: rk.Ties = "expected") -> float:
    """Top-k membership of an option: 1 or 0 if no tie matters, else the fraction of the orders of the tied options.

    "index" lets the earlier option win, "optimistic" the one that is asked for, "pessimistic" all others.

    >>> share_in_first([0.5, 0.5, 0.1], 0, 1), share_in_first([0.5, 0.5, 0.1], 1, 1, "index"), share_in_first([0.5, 0.5, 0.1], 1, 2)
    (0.5, 0.0, 1.0)
    """
    score = np.asarray(score_L, np.float64)
    above, tied = int((score > score[option]).sum()), int((score == score[option]).sum())
    before = int((score[:option] == score[option]).sum())
    one = np.ones(1, np.int64)
    return float(rk.hits(above * one, tied * one, one, depth, ties, (above + before + 1) * one)[0])


def option_shares(records: pa.Table, node: str, ties: rk.Ties, depths: Sequence[int]) -> dict[tuple[str, int], Floats]:
    """Top-k membership [N] by (option name, depth) in the cases at or below a kind, NaN in others. Depths that all options reach
    are left out. If the true option varies between cases it is also listed as "true", and each option under its name even where
    it is true.
    """
    columns = {name: records.column(name).to_pylist() for name in ("kind", "names", "roles", "scores")}
    values: dict[tuple[str, int], Floats] = {}
    for row, kind in enumerate(columns["kind"]):
        if kind != node and not kind.startswith(f"{node}/"):
            continue
        names, scores = columns["names"][row], columns["scores"][row]
        options = dict(zip(names, range(len(names)), strict=True))
        options.setdefault(TRUE, columns["roles"][row].index(TRUE))
        for name, option in options.items():
            for depth in depths:
                if depth < len(scores):
                    value_N = values.setdefault((name, depth), np.full(len(records), np.nan))
                    value_N[row] = share_in_first(scores, option, depth, ties)
    return values
