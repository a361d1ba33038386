"""Patches that know what they show: TIPS against CLIP by a linear probe that finds shapes, at equal steps and at equal compute."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.pairs import clean_rows, drawn, retrieved, sized_for
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.training import opened, untrained
from diptych.claims.verdict import Margins
from diptych.recipes.contrastive.tips import TIPS
from diptych.tasks.pairs.dense_probe import DenseProbe
from diptych.worlds.small_pairs import SmallPairs

PAIRS = SmallPairs(6000, captioned=True, wrong=0.0, regions=True)
PROBED, STEPS, BATCH, TIMES = 1000, 2000, 32, 3


@dataclass(frozen=True)
class Segmented:
    """Trains on pictures whose captions name the things, then a linear probe finds shapes (four and the background) in the patches."""

    recipe: TIPS
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        train, test = drawn(PAIRS, cell), clean_rows(cell, captioned=True, wrong=0.0, regions=True)
        model = (opened if self.learns else untrained)(self.recipe, train, cell)
        probe = DenseProbe(train=train.select(range(min(len(train), PROBED))), draws=1)
        scores = {name: metric.value for name, metric in probe.score(probe.predict(model, test)).metrics.items()}
        return {**scores, "r@1": retrieved(model, test)["r@1"]}


def small(steps: int = STEPS) -> TIPS:
    return sized_for(
        TIPS.tiny(),
        image_tower="dense_micro",
        batch_size=BATCH,
        steps=steps,
        crop=(0.9, 1.0),
        local_size=24,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        synthetic=("synthetic",),
    )


def as_clip(recipe: TIPS) -> TIPS:
    """One token, raw texts, no self-supervision: CLIP with the same tower."""
    return replace(recipe, alpha=0.0, beta=0.0, two_tokens=False)


def claims() -> tuple[Claim, ...]:
    tips = small()
    equal_steps = Claim(
        slug="tips",
        kind="paper's claim",
        sentence="At equal steps a linear probe finds shapes better in the patches of TIPS than in those of CLIP",
        source="2410.16512: Pascal VOC mIoU of a linear probe 64.4 for CLIP, 75.9 with both self-supervised terms; scenes are ours",
        refuted="a difference whose interval lies below zero, or patches no better than those of the untrained tower",
        baseline=Arm("clip", Segmented(as_clip(tips)), around(tips.lr)),
        method=Arm("tips", Segmented(tips), around(tips.lr)),
        controls=(Arm("untrained", Segmented(as_clip(tips), learns=False)),),
        metric="miou",
        margins=Margins(matters=0.02, equivalence=0.02),
        equal_budget=("steps", "samples"),
        data=f"{PAIRS.count:,} pictures of two shapes; probe on {PROBED:,}, tested on 500; four shapes and the background",
        reported=("pixel_accuracy", "r@1"),
    )
    return equal_steps, replace(
        equal_steps,
        name="compute",
        sentence=f"Also where CLIP trains {TIMES} times as long, a linear probe finds shapes better in the patches of TIPS",
        baseline=Arm("clip, longer", Segmented(as_clip(small(TIMES * STEPS))), around(tips.lr)),
        equal_budget=("cpu_seconds",),
        why_long=f"the baseline trains {TIMES} times as long, and a step of TIPS reads masked and small views as well",
    )
