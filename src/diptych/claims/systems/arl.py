"""Does a graph of entities, aligned with images and read beside texts, help to say what is hidden in a text?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diptych.claims.cells.domains.masked_findings import TESTED, MaskedFindings
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.domains.arl import ARL

PICTURES, STEPS, BATCH = 800, 120, 32


def claims() -> tuple[Claim, ...]:
    whole = ARL.tiny()
    learning = replace(whole.learning, weight_patches=0.0, hidden=0.3)
    graph = replace(whole.entity_graph, entity_width=32)
    towers: dict[str, Any] = {
        "image_tower": "vit_micro",
        "image_size": 48,
        "text_tower": "bert_micro",
        "text_length": 12,
        "pieces": 256,
    }
    small: dict[str, Any] = {**towers, "width": 64, "fusion_layers": 1, "batch_size": BATCH, "steps": STEPS, "warmup": 10.0}
    method = replace(whole, **small, learning=learning, entity_graph=graph)
    plain = replace(method, entity_graph=replace(graph, aligns=False, reasons=False))
    shuffled = replace(method, entity_graph=replace(graph, shuffled_graph=True))
    return (
        declare(
            slug="arl",
            sentence="At equal steps, alignment with a graph of entities and reasoning over it guess more hidden findings than the same "
            "fusion without knowledge",
            source="2209.07118, which injects UMLS; here findings and zones of rendered chests",
            baseline=Arm("without knowledge", MaskedFindings(plain, PICTURES), around(3e-3)),
            method=Arm("align and reason", MaskedFindings(method, PICTURES), around(3e-3)),
            controls=(
                Arm("untrained", MaskedFindings(method, PICTURES, learns=False)),
                Arm("shuffled graph", MaskedFindings(shuffled, PICTURES)),
            ),
            metric="guessed",
            margins=0.03,
            data=f"{PICTURES:,} rendered chests of 48 pixels with at most one lesion; {TESTED} findings of others are asked for",
            reported=("another_picture",),
            seeds=3,
            tuning_seeds=(0,),
        ),
    )
