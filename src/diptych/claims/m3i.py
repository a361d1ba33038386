"""All in one stage: a few labels, texts and other views together against the best of them alone, which here are the texts."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.claim import Arm, Claim
from diptych.claims.noisy_texts import for_noisy_pairs
from diptych.claims.probed_pictures import PROBED, TESTED, probed_cell
from diptych.recipes.contrastive.m3i import M3I

PAIRS, BATCH, STEPS, LABELLED = 6000, 128, 300, 0.2
SOURCES = (
    "diptych.claims.m3i",
    "diptych.claims.probed_pictures",
    "diptych.claims.noisy_texts",
    "diptych.claims.training",
    "diptych.recipes.contrastive.m3i",
    "diptych.recipes._shared.pairs",
    "diptych.models.pairs.mixed_image_encoder",
    "diptych.models.towers.dense_vit",
    "diptych.models.layers.companions",
    "diptych.objectives.pairs.mutual_information",
    "diptych.objectives.pairs.info_nce",
    "diptych.data.media.views",
)


def all_in_one() -> M3I:
    """Texts for all, labels for a fifth, the teacher's view for all; two images in each input."""
    sized = for_noisy_pairs(M3I.tiny())
    return replace(sized, image_tower="dense_micro", batch_size=BATCH, steps=STEPS, labelled=LABELLED)


def texts_alone() -> M3I:
    """The same tower and budget on texts alone, unmixed: CLIP in the same form."""
    return replace(all_in_one(), weight_class=0.0, weight_view=0.0, weight_patch=0.0, mixed=False)


def claims() -> tuple[Claim, ...]:
    mixed = Claim(
        slug="m3i",
        sentence="With labels for a fifth of the pictures, a probe reads more off M3I than off texts alone",
        source="2211.09807: one stage of all targets beats each kind of pre-training alone; sizes, weights and mixture are our reading",
        refuted="a difference whose interval lies below zero; an interval around zero leaves it open",
        baseline=Arm("texts alone", probed_cell(texts_alone(), PAIRS), shared=True),
        method=Arm("m3i", probed_cell(all_in_one(), PAIRS)),
        metric="probe",
        budget=f"{STEPS} steps x {BATCH} pictures, same towers and learning rate; M3I also has {LABELLED:.0%} of the labels and a teacher",
        data=f"{PAIRS:,} rendered pictures of two shapes; probe on {PROBED:,}, test on {TESTED}, 24 classes (the first thing's noun)",
        sources=SOURCES,
        reported=("i2t_r@1", "t2i_r@1", "train_seconds"),
    )
    whole = replace(
        mixed,
        name="whole",
        sentence="With whole images in place of mixtures, a probe reads more off labels, texts and views together than off texts",
        method=Arm("unmixed", probed_cell(replace(all_in_one(), mixed=False), PAIRS)),
    )
    return mixed, whole
