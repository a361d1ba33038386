"""Does it help that image and labels meet early? ALIF against late fusion, in two settings where the labels have something to tell.

With six shapes and a text encoder that learns beside the detector there is little for fusion to add, so that is not asked here.
"""

from __future__ import annotations

import json
from typing import Any

from diptych.claims.claim import Arm, Claim
from diptych.claims.linked_shapes import BUDGET, DATA, SOURCES, link_cell, small, with_colours
from diptych.data.graphs.label_lists import CorpusNames
from diptych.data.vocabularies import vocabulary
from diptych.worlds.links import HELD_OUT, PREDICATES, SHAPES

SHARED: dict[str, Any] = {
    "slug": "rlipv2",
    "refuted": "a difference whose interval lies below zero; an interval around zero leaves it open",
    "metric": "r@5",
    "budget": BUDGET,
    "sources": ("diptych.claims.rlipv2_fusion", *SOURCES),
    "reported": ("seen/r@5", "unseen/r@5", "train_seconds"),
}


def with_others() -> str:
    """The names of the links among those of Visual Genome, all as frequent: 212 names a step, most of which are never right."""
    known = vocabulary("vg150")
    seen = [name for name in PREDICATES if name not in HELD_OUT]
    objects, relations = ((*SHAPES, *known.objects), (*seen, *known.predicates))
    return json.dumps(CorpusNames.counted(dict.fromkeys(objects, 1), dict.fromkeys(relations, 1)).to_json())


def among_many() -> Claim:
    arms = {fusion: link_cell(small(fusion=fusion, corpus=with_others())) for fusion in ("late", "alif")}
    return Claim(
        name="fusion_many",
        sentence="With 212 names in every list, fusion in the encoder gives a higher recall at 5 than fusion behind the decoders",
        source="2308.09351: ALIF against the late fusion of 2209.01814, with lists of 500 names",
        baseline=Arm("late", arms["late"]),
        method=Arm("alif", arms["alif"]),
        data=f"{DATA}; every list holds the names of VG150 too",
        **SHARED,
    )


def with_known_texts() -> Claim:
    """48 nouns, whose vectors a trained sentence encoder gives: more for the image to be told than six shapes."""
    arms = {fusion: link_cell(small(fusion=fusion, label_encoder="vectors"), change=with_colours) for fusion in ("late", "alif")}
    return Claim(
        name="fusion_nouns",
        sentence="With 48 nouns and frozen text vectors, fusion in the encoder gives a higher recall at 5 than fusion behind the decoders",
        source="2308.09351: ALIF converges in 20 epochs where RLIP needs 50 and more",
        baseline=Arm("late", arms["late"]),
        method=Arm("alif", arms["alif"]),
        data=f"{DATA}; every shape named with its colour",
        **SHARED,
    )


def claims() -> tuple[Claim, ...]:
    return among_many(), with_known_texts()
