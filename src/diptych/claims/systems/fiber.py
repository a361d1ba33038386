"""FIBER's gates inside both towers against layers on top of them: what the same weights answer and find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.training import opened, untrained
from diptych.claims.verdict import Margins
from diptych.recipes.grounding.fiber import FIBER
from diptych.tasks.generation.vqa import VQA
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.scene_questions import questions

SCENES, TESTED, SMOKE_ROWS = 4000, 300, 8
STEPS, BATCH, SIDE = 300, 64, 48


@dataclass(frozen=True)
class AskedAndSought:
    """Learns from scenes of the cell's seed; the one model then answers questions about other scenes, both sides read together, and finds
    their captions by vectors of either side alone. learns=False asks before the first step."""

    recipe: FIBER
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = questions(SMOKE_ROWS if cell.smoke else SCENES, seed=cell.seed, size=SIDE).remembering()
        test = questions(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test", size=SIDE)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        asked, sought = VQA(draws=1, blind=False), Retrieval(compare="vectors", draws=1)
        answered = asked.score(asked.predict(model, test)).metrics
        found = sought.score(sought.predict(model, test)).metrics
        return {name: metric.value for name, metric in (*answered.items(), *found.items())}


def claims() -> tuple[Claim, ...]:
    fiber = replace(
        FIBER.tiny(),
        caption=0.0,
        questions=1.0,
        image_size=SIDE,
        swin_patch=8,
        swin_width=48,
        swin_depths=(2, 2),
        swin_heads=(2, 4),
        swin_window=6,
        text_width=64,
        text_layers=4,
        text_heads=4,
        text_length=20,
        fused_layers=3,
        width=64,
        pieces=400,
        queue=128,
        batch_size=BATCH,
        steps=STEPS,
        lr=1e-3,
    )
    top = replace(fiber, fusion="top", top_layers=2)
    rates = around(fiber.lr)
    shared: dict[str, Any] = {
        "refuted": "a difference whose interval lies below zero",
        "baseline": Arm("top", AskedAndSought(top), rates),
        "method": Arm("fiber", AskedAndSought(fiber), rates),
        "controls": (Arm("untrained", AskedAndSought(fiber, learns=False)),),
        "equal_budget": ("steps", "samples"),
        "data": f"{SCENES:,} scenes of two things with captions and questions, {TESTED} of the same seed to test",
        "tuning_seeds": (0,),
    }
    answers = Claim(
        slug="fiber",
        kind="paper's claim",
        sentence="At equal steps and losses, gates inside both towers answer more questions than two layers of co-attention on top",
        source="2206.07643, ablation of where to fuse: VQA v2 of fusion in the backbone against layers on top",
        metric="accuracy",
        margins=Margins(matters=0.02, equivalence=0.02),
        reported=("accuracy/colour", "accuracy/shape", "accuracy/count", "accuracy/there", "t2i_r@1", "i2t_r@1"),
        **shared,
    )
    finds = Claim(
        slug="fiber",
        name="retrieval",
        kind="paper's claim",
        sentence="The same weights, gates left out, find captions by vectors better than those of a model fused on top",
        source="2206.07643: one model for fast retrieval and fused tasks",
        metric="t2i_r@1",
        margins=Margins(matters=0.03, equivalence=0.03),
        reported=("i2t_r@1", "accuracy"),
        **shared,
    )
    return answers, finds
