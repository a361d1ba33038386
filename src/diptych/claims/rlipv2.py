"""Relation names that training never had are found, when their words were seen in other names: RLIPv2 on linked shapes."""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.linked_shapes import BUDGET, DATA, SOURCES, link_cell, small
from diptych.worlds.links import HELD_OUT


def claim() -> Claim:
    """Words of a name meet in a text encoder; a table of free vectors has nothing to say about a name it never saw."""
    return Claim(
        slug="rlipv2",
        sentence="Links whose two-word names never occur in training are found, when both words were seen in other names",
        source="2308.09351, zero-shot detection of relations (HICO-DET without fine-tuning: 23.29 mAP with Swin-L)",
        refuted="a recall no higher than that of one free vector a name, which cannot know an unseen one",
        baseline=Arm("table", link_cell(small(label_encoder="table", table_names=HELD_OUT))),
        method=Arm("words", link_cell(small())),
        metric="unseen/r@5",
        budget=BUDGET,
        data=DATA,
        sources=("diptych.claims.rlipv2", *SOURCES),
        reported=("seen/r@5", "r@5", "train_seconds"),
    )
