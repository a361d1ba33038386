"""Many texts with mistakes against few without: does size make up for noise, and does the noisy set get better as it grows?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.claim import Arm, Claim
from diptych.claims.noisy_texts import NOUNS, NoisyPairs, for_noisy_pairs, pairs_cell
from diptych.recipes.contrastive.align import ALIGN

MANY, FEW, MISMATCHED = 6000, 400, 0.3
UNSEEN = tuple(noun for noun in NOUNS if noun.split()[0] in ("yellow", "purple", "white"))
"""What the small clean set does not show: half of the colours. A curated set covers less of the world than the web does."""
BATCH, STEPS = 128, 400
SOURCES = (
    "diptych.claims.align",
    "diptych.claims.noisy_texts",
    "diptych.claims.training",
    "diptych.recipes.contrastive.align",
    "diptych.recipes.contrastive.clip",
    "diptych.recipes._shared.pairs",
    "diptych.objectives.pairs.info_nce",
)


def arm(name: str, data: NoisyPairs) -> Arm:
    """The same recipe, batch and steps, so equal pairs seen; the pairs alone differ."""
    recipe = replace(for_noisy_pairs(ALIGN.tiny()), batch_size=BATCH, steps=STEPS)
    return Arm(name, pairs_cell(recipe, data))


def claims() -> tuple[Claim, ...]:
    crossing = Claim(
        slug="align",
        sentence=f"{MANY:,} pairs, {MISMATCHED:.0%} of them mismatched, give a higher R@1 than {FEW} clean ones of half the colours",
        source="2102.05918, where 12 million noisy pairs beat the 3 million of a curated set (COCO 23.8 against 18.9)",
        refuted="a difference whose interval lies below zero; an interval around zero leaves it open",
        baseline=arm(f"clean {FEW}", NoisyPairs(FEW, avoid=UNSEEN)),
        method=arm(f"noisy {MANY}", NoisyPairs(MANY, MISMATCHED)),
        metric="test/i2t_r@1",
        budget=f"{STEPS} steps x {BATCH} pairs, same recipe",
        data="rendered images of two shapes; retrieval among 500 that show every colour",
        sources=SOURCES,
        reported=("test/t2i_r@1", "train_seconds"),
    )
    size = replace(
        crossing,
        name="size",
        sentence=f"With {MISMATCHED:.0%} of pairs mismatched, {MANY:,} of them give a higher R@1 than {FEW * 4:,} at equal pairs seen",
        source="2102.05918, noisy sets of 3, 6 and 12 million pairs (COCO 8.1, 15.8, 23.8)",
        baseline=arm(f"noisy {FEW * 4}", NoisyPairs(FEW * 4, MISMATCHED)),
        data="rendered images of two shapes, equally noisy; retrieval among 500",
    )
    return crossing, size
