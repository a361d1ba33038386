"""Training on prefixes makes short ones useful: prefixes of MRL against vectors trained at each width, and what the full width pays."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import WIDTH, Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.mrl import MRL
from diptych.worlds.small_pairs import SmallPairs

PAIRS, STEPS, BATCH = 6000, 400, 128
DIMS = (4, 8, 16, 32, 64)


def claims() -> tuple[Claim, ...]:
    rows = SeededPairs(SmallPairs(PAIRS))
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS)
    mrl = sized_for(replace(MRL.tiny(), width=WIDTH, dims=DIMS), batch_size=BATCH, steps=STEPS)

    def at(width: int) -> Claim:
        """The first numbers of MRL against vectors that have no others."""
        return declare(
            slug="mrl",
            name="" if width == DIMS[0] else f"first_{width}",
            sentence=f"The first {width} of {WIDTH} numbers of MRL's vector retrieve better than vectors of {width} numbers trained alone",
            source="2205.13147, whose prefixes are at least as good as vectors trained at that width",
            baseline=Arm(f"clip of {width} numbers", Paired(replace(clip, width=width), rows, (width,)), around(clip.lr)),
            method=Arm("mrl", Paired(mrl, rows, DIMS), around(mrl.lr)),
            controls=(Arm("untrained", Paired(mrl, rows, DIMS, learns=False)),),
            metric=f"first_{width}/i2t_r@1",
            margins=0.02,
            data=f"{PAIRS:,} rendered images of two shapes, each text names both and their places; retrieval among 500",
            reported=(f"first_{width}/t2i_r@1", *(f"first_{d}/i2t_r@1" for d in DIMS if d != width)),
            tuning_seeds=(0, 1),
        )

    full = replace(
        at(WIDTH),
        name="full",
        sentence=f"At its full width of {WIDTH} numbers, MRL's vector retrieves no worse than CLIP's",
        source="2205.13147, whose vectors of full width are as good as those trained alone",
    )
    return at(DIMS[0]), at(DIMS[-2]), full
