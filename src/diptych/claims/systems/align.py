"""Many texts with mistakes against few without: does size make up for noise, and does the noisy set get better as it grows?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.align import ALIGN
from diptych.worlds.small_pairs import SmallPairs

MANY, FEWER, FEW, MISMATCHED = 6000, 1600, 200, 0.3


def claims() -> tuple[Claim, ...]:
    recipe = sized_for(ALIGN.tiny(), batch_size=128, steps=400)

    def arm(name: str, pairs: SmallPairs) -> Arm:
        """The same recipe, batch and steps, so equal pairs seen, of the same nouns; number and noise alone differ."""
        return Arm(name, Paired(recipe, SeededPairs(pairs)), around(recipe.lr))

    crossing = declare(
        slug="align",
        sentence=f"{MANY:,} pairs, {MISMATCHED:.0%} of them mismatched, give a higher R@1 than {FEW} clean ones of the same world",
        source="2102.05918, where 12 million noisy pairs beat the 3 million of a curated set (COCO 23.8 against 18.9); the ratio is ours",
        baseline=arm(f"clean {FEW}", SmallPairs(FEW)),
        method=arm(f"noisy {MANY}", SmallPairs(MANY, MISMATCHED)),
        controls=(Arm("untrained", Paired(recipe, SeededPairs(SmallPairs(MANY)), learns=False)),),
        metric="test/i2t_r@1",
        margins=0.02,
        equal_budget=("steps", "samples", "trained_parameters"),
        data="rendered images of two shapes, all colours in both sets; retrieval among 500",
        reported=("test/t2i_r@1", "rows"),
    )
    size = replace(
        crossing,
        name="size",
        kind="mechanism check",
        sentence=f"With {MISMATCHED:.0%} of pairs mismatched, {MANY:,} of them give a higher R@1 than {FEWER:,} at equal pairs seen",
        source="2102.05918, noisy sets of 3, 6 and 12 million pairs (COCO 8.1, 15.8, 23.8)",
        baseline=arm(f"noisy {FEWER}", SmallPairs(FEWER, MISMATCHED)),
        data="rendered images of two shapes, equally noisy; retrieval among 500",
    )
    return crossing, size
