"""Training on prefixes makes short ones useful: MRL against CLIP with its vectors cut to as few numbers."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.pairs import WIDTH, Drawn, Paired, sized_for
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.verdict import Margins
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.mrl import MRL
from diptych.worlds.small_pairs import SmallPairs

PAIRS, STEPS, BATCH = 6000, 400, 128
DIMS = (4, 8, 16, 32, 64)


def claims() -> tuple[Claim, ...]:
    rows = Drawn(SmallPairs(PAIRS))
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS)
    mrl = sized_for(replace(MRL.tiny(), width=WIDTH, dims=DIMS), batch_size=BATCH, steps=STEPS)
    narrow = replace(clip, width=DIMS[0])
    trained_at_width = Claim(
        slug="mrl",
        kind="paper's claim",
        sentence=f"The first {DIMS[0]} of {WIDTH} numbers of MRL's vector retrieve better than vectors of {DIMS[0]} numbers trained alone",
        source="2205.13147, whose prefixes are as good as vectors trained at that width",
        refuted="a difference whose interval lies below zero",
        baseline=Arm(f"clip of {DIMS[0]} numbers", Paired(narrow, rows, (DIMS[0],)), around(clip.lr)),
        method=Arm("mrl", Paired(mrl, rows, DIMS), around(mrl.lr)),
        controls=(Arm("untrained", Paired(mrl, rows, DIMS, learns=False)),),
        metric=f"first_{DIMS[0]}/i2t_r@1",
        margins=Margins(matters=0.02, equivalence=0.02),
        equal_budget=("steps", "samples"),
        data=f"{PAIRS:,} rendered images of two shapes, each text names both and their places; retrieval among 500",
        reported=(f"first_{DIMS[0]}/t2i_r@1", *(f"first_{d}/i2t_r@1" for d in DIMS[1:])),
    )
    cut = replace(
        trained_at_width,
        name="cut",
        kind="mechanism check",
        sentence=f"The first {DIMS[0]} of {WIDTH} numbers of a vector give a higher recall at 1 with MRL than with CLIP",
        baseline=Arm("clip", Paired(clip, rows, DIMS), around(clip.lr)),
    )
    return trained_at_width, cut
