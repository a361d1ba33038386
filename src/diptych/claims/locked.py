"""On little data, heads over trained encoders beat towers from scratch, in a fraction of the training time."""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.training import retrieval_cell
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.locked import Locked

SOURCES = (
    "diptych.claims.locked",
    "diptych.claims.training",
    "diptych.recipes.contrastive.locked",
    "diptych.recipes._shared.frozen_pairs",
    "diptych.recipes.contrastive.clip",
    "diptych.recipes._shared.pairs",
    "diptych.models.pairs.locked",
    "diptych.objectives.pairs.info_nce",
)
PARTS = ("unseen_style", "unseen_concept", "unseen_both")


def claim() -> Claim:
    return Claim(
        slug="locked",
        sentence="Heads over frozen encoders give a higher recall at 1 on an unseen style than CLIP from scratch, in less training time",
        source="our baseline; 2111.07991 shows it for locked image towers at scale",
        refuted="a difference whose interval lies below zero",
        baseline=Arm("clip", retrieval_cell(CLIP.tiny(), parts=PARTS)),
        method=Arm("locked", retrieval_cell(Locked.tiny(), parts=PARTS)),
        metric="unseen_style/t2i_r@1",
        budget="each recipe's small preset: 72,960 pairs for clip, 76,800 for locked; seconds of training are reported",
        data="emoji",
        sources=SOURCES,
        reported=("unseen_style/i2t_r@1", "unseen_concept/t2i_r@1", "unseen_both/t2i_r@1", "train_seconds"),
    )
