"""More data came: grow the model, begin a larger one anew, or go on with the small one? At equal compute, the search included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diptych.claims.claim import Arm, Claim
from diptych.claims.noisy_texts import NoisyPairs, for_noisy_pairs, pairs_cell
from diptych.recipes.contrastive.growclip import GrowCLIP
from diptych.train.halving import rungs

PAIRS, FIRST, BATCH = 6000, 1 / 3, 128
BEFORE, AFTER = 250, 250
CANDIDATES, TRIAL = 4, 10
SEARCH = sum(models * steps for models, steps in rungs(CANDIDATES, TRIAL))
SOURCES = (
    "diptych.claims.growclip",
    "diptych.claims.noisy_texts",
    "diptych.claims.training",
    "diptych.recipes.contrastive.growclip",
    "diptych.recipes.contrastive.clip",
    "diptych.recipes._shared.pairs",
    "diptych.models.pairs.growing_encoder",
    "diptych.models.towers.growth",
    "diptych.train.halving",
    "diptych.objectives.pairs.info_nce",
)


def arm(name: str, **changes: Any) -> Arm:
    """The same pictures, tower width, batch and learning rate; layers, parts of the data and steps are what differs."""
    small = replace(for_noisy_pairs(GrowCLIP.tiny()), batch_size=BATCH, wider=0, budget=2.0, trial=TRIAL, candidates=CANDIDATES)
    return Arm(name, pairs_cell(replace(small, **changes), NoisyPairs(PAIRS)), shared=True)


def grown() -> Arm:
    """One layer a tower on a third of the data, then up to two blocks more on all of it."""
    return arm("grown", layers=(1, 1, 0), more=(1, 1, 1), parts=(FIRST, 1.0), shares=(BEFORE, AFTER), steps=BEFORE + AFTER)


def claims() -> tuple[Claim, ...]:
    against_new = Claim(
        slug="growclip",
        sentence="When more data come, growing the model beats beginning the larger one anew with the same compute from then on",
        source="2308.11331 (+1.2 image to text recall on Flickr30k against other growing methods); search and sizes are our reading",
        refuted="a difference whose interval lies below zero; an interval around zero leaves it open",
        baseline=arm("anew", layers=(2, 2, 0), parts=(1.0,), steps=AFTER + SEARCH),
        method=grown(),
        metric="test/i2t_r@1",
        budget=f"from the growth on {AFTER + SEARCH} steps x {BATCH} pairs: {AFTER} and {SEARCH} of the search of {CANDIDATES} shapes, or "
        f"{AFTER + SEARCH} of a new model of two layers a tower. The {BEFORE} steps of the small model before do not count",
        data=f"{PAIRS:,} rendered pairs of two shapes, a third of which came first",
        sources=SOURCES,
        reported=("test/t2i_r@1", "train_seconds"),
    )
    against_fixed = replace(
        against_new,
        name="fixed",
        sentence="When more data come, growing the model beats going on with the small one with the same compute from then on",
        baseline=arm(
            "fixed",
            layers=(1, 1, 0),
            more=(0, 0, 0),
            parts=(FIRST, 1.0),
            shares=(BEFORE, 2 * (AFTER + SEARCH)),
            steps=BEFORE + 2 * (AFTER + SEARCH),
        ),
        budget=f"{BEFORE} steps x {BATCH} pairs of the small model for both; then {AFTER} and {SEARCH} of the search, or twice as many "
        "steps of the small model, which has half the blocks",
    )
    return against_new, against_fixed
