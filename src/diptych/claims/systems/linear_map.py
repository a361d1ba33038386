"""One matrix in closed form between two frozen encoders, against towers trained from scratch that read the same pairs many times."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.retrieved import Retrieved
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.models.pairs.frozen.linear_map import LinearPair
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.linear_map import LinearMap
from diptych.recipes.contrastive.locked import Locked

STEPS = 240
PARTS = ("unseen_style", "unseen_concept", "unseen_both")


@dataclass(frozen=True)
class Solved:
    """Has no learning rate: what is swept in its place is the penalty of ridge."""

    recipe: LinearMap
    parts: tuple[str, ...]

    def __call__(self, cell: Cell) -> Scores:
        recipe = self.recipe if cell.rate is None else replace(self.recipe, penalty=cell.rate)
        return Retrieved(recipe, self.parts)(replace(cell, rate=None))


@dataclass(frozen=True, kw_only=True)
class AnyMatrix(LinearMap):
    """A matrix drawn at random in place of the solution: what the encoders give without any pair."""

    def model(self) -> LinearPair:
        model = super().model()
        assert model.moved.map_DE is not None
        nn.init.normal_(model.moved.map_DE)
        return model


def claims() -> tuple[Claim, ...]:
    clip, linear, locked = (
        replace(CLIP.tiny(), steps=STEPS),
        LinearMap.tiny(),
        replace(Locked.tiny(), steps=STEPS),
    )
    return (
        declare(
            slug="linear_map",
            sentence="One matrix between frozen encoders gives a higher recall at 1 on an unseen style than CLIP from scratch",
            source="our baseline; 2209.15162 shows that a linear map joins frozen encoders, for captions. What the encoders were trained "
            "on before counts as nothing here",
            baseline=Arm("clip", Retrieved(clip, PARTS), around(clip.lr)),
            method=Arm("one matrix", Solved(linear, PARTS), around(linear.penalty)),
            controls=(Arm("any matrix", Retrieved(AnyMatrix(), PARTS, learns=False)),),
            bounds=(Arm("heads trained with negatives", Retrieved(locked, PARTS)),),
            metric="unseen_style/t2i_r@1",
            tuned_by="unseen_concept/t2i_r@1",
            margins=0.02,
            equal_budget=("labelled", "trusted"),
            data=f"emoji; CLIP reads {STEPS} batches of {clip.batch_size}, the matrix every pair once",
            reported=("unseen_style/i2t_r@1", "unseen_concept/t2i_r@1", "unseen_both/t2i_r@1"),
            tuning_seeds=(0,),
            why_long="CLIP from scratch on emoji is the baseline: a cell of it takes minutes; rates and penalties are swept on one seed",
        ),
    )
