"""All in one stage: a few labels, texts and other views together against the best of them alone, which here are the texts."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.cells.learned_pairs.probed import Probed, RawPixels
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.m3i import M3I
from diptych.worlds.small_pairs import SmallPairs

PAIRS, LABELLED, CROP = SmallPairs(6000), 0.2, (0.6, 1.0)
"""Both arms see crops, so that the teacher's other view is another one."""


def claims() -> tuple[Claim, ...]:
    ours = replace(M3I.tiny(), teacher_view="other", class_scale="own", labelled=LABELLED)
    mixed = sized_for(ours, image_tower="dense_micro", batch_size=128, steps=300, crop=CROP)
    texts = replace(mixed, weight_class=0.0, weight_view=0.0, weight_patch=0.0, mixed=False)  # CLIP in the same form
    labels = replace(mixed, weight_text=0.0, weight_view=0.0, weight_patch=0.0, mixed=False)
    main = declare(
        slug="m3i",
        sentence="With labels for a fifth of the pictures, a probe reads more off M3I's image tower than off that of texts alone",
        source="2211.09807: one stage of all targets beats each kind of pre-training alone; sizes, weights and mixture are our reading",
        baseline=Arm("texts alone", Probed(texts, PAIRS), around(mixed.lr)),
        method=Arm("m3i", Probed(mixed, PAIRS, LABELLED), around(mixed.lr)),
        controls=(
            Arm("untrained", Probed(texts, PAIRS, learns=False)),
            Arm("raw pixels", RawPixels()),
            Arm("labels alone", Probed(labels, PAIRS, LABELLED)),
        ),
        metric="probe",
        margins=0.02,
        data=f"{PAIRS.count:,} rendered pictures of two shapes, cropped, the teacher's crop another one; probe on 1,500, test on 500, "
        "24 classes (the first thing's noun)",
        reported=("i2t_r@1", "t2i_r@1"),
        tuning_seeds=(0, 1),
    )
    return (main,)
