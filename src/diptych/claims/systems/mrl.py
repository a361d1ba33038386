"""Training on prefixes makes short vectors useful: the first numbers of a vector against vectors that have no others, on real clip art."""

from __future__ import annotations

from diptych.claims.cells.learned_pairs.clipart import ASKED, OnClipart, heads
from diptych.claims.claim import Arm, Claim, around, declare

SHORT = 8
DIMS = (SHORT, 16, 32, 64, 128, 256)


def claims() -> tuple[Claim, ...]:
    alone, nested = heads(width=SHORT), heads(dims=DIMS)
    return (
        declare(
            slug="mrl",
            sentence=f"The first {SHORT} of {DIMS[-1]} numbers of heads trained by MRL retrieve better than vectors of {SHORT} numbers",
            source="2205.13147, whose prefixes are at least as good as vectors trained at that width",
            refuted="a difference whose interval lies below zero, or a recall no higher than by the first numbers of a plain vector",
            baseline=Arm(f"heads of {SHORT} numbers", OnClipart(alone, prefixes=(SHORT,)), around(alone.lr)),
            method=Arm("mrl", OnClipart(nested, prefixes=(SHORT,)), around(nested.lr)),
            controls=(
                Arm("untrained heads", OnClipart(nested, learns=False, prefixes=(SHORT,))),
                Arm("a plain vector cut short", OnClipart(heads(), prefixes=(SHORT,))),
            ),
            **ASKED
            | {
                "metric": f"first_{SHORT}/t2i_r@5",
                "equal_budget": ("steps", "samples"),
                "reported": (f"first_{SHORT}/i2t_r@5",),
            },
        ),
    )
