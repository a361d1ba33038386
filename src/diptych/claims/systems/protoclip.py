"""Clusters as further targets: ProtoCLIP against CLIP, by what a linear probe reads off the image embeddings."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.pairs import sized_for
from diptych.claims.cells.probed import Probed, RawPixels
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.verdict import Margins
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.protoclip import ProtoCLIP
from diptych.worlds.small_pairs import SmallPairs

PAIRS, BATCH, STEPS = SmallPairs(6000), 32, 800


def claims() -> tuple[Claim, ...]:
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS)
    clusters = replace(
        ProtoCLIP.tiny(), clusters=200, episode=64 * BATCH, lit_share=0.0
    )  # about ten samples a cluster, as published
    protoclip = sized_for(clusters, batch_size=BATCH, steps=STEPS)
    return (
        Claim(
            slug="protoclip",
            kind="paper's claim",
            sentence="At equal steps a linear probe reads more off ProtoCLIP's image embeddings than off CLIP's",
            source="2206.10996: ImageNet linear 49.4 for CLIP and 55.2 for ProtoCLIP after 32 epochs of CC2.5M; this size is ours",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("clip", Probed(clip, PAIRS), around(clip.lr)),
            method=Arm("protoclip", Probed(protoclip, PAIRS), around(protoclip.lr)),
            controls=(Arm("untrained", Probed(clip, PAIRS, learns=False)), Arm("raw pixels", RawPixels())),
            metric="probe",
            margins=Margins(matters=0.02, equivalence=0.02),
            equal_budget=("steps", "samples"),
            data=f"{PAIRS.count:,} rendered pictures of two shapes; probe on 1,500, test on 500, 24 classes (the first thing's noun)",
            reported=("i2t_r@1", "t2i_r@1"),
        ),
    )
