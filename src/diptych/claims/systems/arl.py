"""Does a graph of entities, aligned with images and read beside texts, help to say what is hidden in a text?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.masked_findings import TESTED, MaskedFindings
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.verdict import Margins
from diptych.recipes.domains.arl import ARL

PICTURES, STEPS, BATCH = 2000, 400, 32


def claims() -> tuple[Claim, ...]:
    whole = ARL.tiny()
    learning = replace(whole.learning, weight_patches=0.0)
    small = {"image_tower": "vit_micro", "image_size": 48, "width": 64, "text_length": 24, "pieces": 256}
    method = replace(whole, **small, learning=learning, batch_size=BATCH, steps=STEPS)
    graph = method.entity_graph
    plain = replace(method, entity_graph=replace(graph, aligns=False, reasons=False))
    shuffled = replace(method, entity_graph=replace(graph, shuffled_graph=True))
    return (
        Claim(
            slug="arl",
            kind="paper's claim",
            sentence="At equal steps, alignment with a graph of entities and reasoning over it guess more hidden findings than the same fusion "
            "without knowledge",
            source="2209.07118, which injects UMLS; here findings and zones of rendered chests",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("without knowledge", MaskedFindings(plain, PICTURES), around(1e-3)),
            method=Arm("align and reason", MaskedFindings(method, PICTURES), around(1e-3)),
            controls=(
                Arm("untrained", MaskedFindings(method, PICTURES, learns=False)),
                Arm("another picture", MaskedFindings(method, PICTURES, blind=True)),
                Arm("shuffled graph", MaskedFindings(shuffled, PICTURES)),
            ),
            metric="guessed",
            margins=Margins(matters=0.03, equivalence=0.03),
            equal_budget=("steps", "samples"),
            data=f"{PICTURES:,} rendered chests of 48 pixels with at most one lesion; {TESTED} findings of others are asked for",
            tuning_seeds=(0,),
        ),
    )
