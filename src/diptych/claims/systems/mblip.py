"""mBLIP on pairs of shapes with captions in three languages: a Q-Former that is aligned anew against one from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell, Scores, Spending
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.training import opened, trained, untrained
from diptych.claims.verdict import Margins
from diptych.recipes.bridges.mblip import MBLIP
from diptych.worlds.pair_languages import noun_in, pair_languages
from diptych.worlds.scenes.languages import NAMES, REQUEST, TAGS
from diptych.worlds.small_pairs import SIDE

PAIRS, TESTED, SMOKE_ROWS, ENGLISH_STEPS = 6000, 200, 24, 1500
HOST = "small:world:pair_languages?n=6000&seed=1"
"""The new language model has read three languages, of other pictures; the first one the English of the same."""
IMAGES = "small:world:asked_pairs?n=6000&seed=1"
"""The image encoder learned from texts that name places, and sees a cell of a picture as a patch."""


@dataclass(frozen=True)
class Realigned:
    """Learns captions of pictures of the cell's seed, one language an image, writes about others of the same seed in every language.

    english  steps in which the Q-Former is trained before an English language model first; they are no part of what is held equal
    others   share of a picture's things, by colour and shape, that captions name, mean over the two languages that are not English
    """

    recipe: MBLIP
    english: int = 0
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = pair_languages(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed).remembering()
        test = pair_languages(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        recipe = hosted(replace(self.recipe, image_weights=IMAGES), cell, address=HOST)
        if self.english:
            first = replace(
                recipe, languages=("en",), language="en", adapter_rank=0, warm_share=0.0, steps=self.english, visual_lr=recipe.lr
            )
            part = replace(cell.part("english"), share=1.0, spending=Spending())
            recipe = replace(recipe, former_weights=str(trained(first, rows, part).path))
        whole = replace(cell, folder=cell.folder / "whole")
        model = (opened if self.learns else untrained)(recipe, rows, whole)
        samples = [test[row] for row in range(len(test))]
        found = {}
        for tag in TAGS:
            asked = [REQUEST.format(language=NAMES[tag])] * len(samples)
            written = model.generate([sample.image for sample in samples], asked, max_tokens=32)
            shares = []
            for text, sample in zip(written, samples, strict=True):
                shares.append(np.mean([noun_in(noun, tag) in text for noun in sample.extras["things"]]))
            found[tag] = float(np.mean(shares))
        return {"others": (found["qaa"] + found["qab"]) / 2, **found}


def claims() -> tuple[Claim, ...]:
    fresh = replace(MBLIP.tiny(), small_image_size=SIDE, small_image_steps=1500)
    short = replace(fresh, steps=fresh.steps // 2)
    rates = around(fresh.lr)
    english = Realigned(replace(short, languages=("en",)), english=ENGLISH_STEPS)
    return (
        Claim(
            slug="mblip",
            kind="paper's claim",
            sentence="A Q-Former that was trained before an English language model names more in two new languages, after equal steps "
            "before the new one, than one from scratch",
            source="2307.06930: re-aligning BLIP-2 takes a small part of what training it took",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("from scratch", Realigned(short), rates),
            method=Arm("aligned anew", Realigned(short, english=ENGLISH_STEPS), rates),
            controls=(
                Arm("blind", Realigned(replace(short, blind=True))),
                Arm("English alone", english),
                Arm("untrained", Realigned(short, learns=False)),
            ),
            metric="others",
            margins=Margins(matters=0.05, equivalence=0.05),
            equal_budget=("steps", "samples", "trained_parameters"),
            data=f"{PAIRS:,} rendered images of two shapes, each with a caption in one of three languages, {TESTED} of the same seed to test",
            reported=TAGS,
            tuning_seeds=(0,),
            why_long="a Q-Former is trained before one language model first, then before another; rates are swept on one seed",
        ),
    )
