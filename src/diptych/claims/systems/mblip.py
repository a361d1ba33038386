"""mBLIP on pairs of shapes with captions in three languages: a Q-Former that is aligned anew against one from scratch.

What stands before the question is made once, as BLIP-2 was: image encoder, language models, and the Q-Former that was trained before the
English one, all on pictures of a seed that no verdict draws. Seeds vary the pictures, the fresh weights and the order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diptych.claims.cell import Cell, Scores, Spending
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.core.config import to_plain, with_changes
from diptych.core.grouped_fields import out_of_groups
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes.bridges.mblip import MBLIP
from diptych.worlds.pair_languages import noun_in, pair_languages
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.scenes.languages import NAMES, REQUEST, TAGS
from diptych.worlds.small_pairs import SIDE, Split

PAIRS, TESTED, SMOKE_ROWS = 6000, 200, 24
STEPS, ENGLISH_STEPS, TIMES = 80, 1500, 5
FORMAT = 1
ELSEWHERE = 1
"""The seed of what is made once."""
HOST = f"small:world:pair_languages?n={PAIRS}&seed={ELSEWHERE}"
"""The new language model has read three languages, of other pictures; the first one the English of the same."""
IMAGES = f"small:world:asked_pairs?n={PAIRS}&seed={ELSEWHERE}"
"""The image encoder learned from texts that name places, and sees a cell of a picture as a patch."""


@dataclass(frozen=True)
class Realigned:
    """Learns captions of pictures of the cell's seed, one language an image, writes about others of the same seed in every language.

    english  whether it begins with the Q-Former that was trained before an English language model, for `ENGLISH_STEPS` that are no part of
             what is held equal
    others   share of a picture's things, by colour and shape, that captions name, mean over the two languages that are not English
    """

    recipe: MBLIP
    english: bool = False
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn("train", PAIRS, cell.seed, cell)
        test = drawn("test", TESTED, cell.seed, cell)
        recipe = hosted(replace(self.recipe, image_weights=IMAGES), cell, address=HOST)
        if self.english:
            recipe = replace(recipe, former_weights=str(english_former(recipe, cell)))
        if cell.rate is not None:  # of every part, in proportion
            times = cell.rate / recipe.lr
            rates = recipe.alignment
            recipe = with_changes(recipe, {"visual_lr": times * rates.visual_lr, "warm_lr": times * rates.warm_lr})
        model = (opened if self.learns else untrained)(recipe, rows, replace(cell, folder=cell.folder / "whole"))
        samples = [test[row] for row in range(len(test))]
        shares_by_tag = {}
        for tag in TAGS:
            asked = [REQUEST.format(language=NAMES[tag])] * len(samples)
            written = model.generate([sample.image for sample in samples], asked, max_tokens=32)
            shares = []
            for text, sample in zip(written, samples, strict=True):
                shares.append(np.mean([noun_in(noun, tag) in text for noun in sample.extras["things"]]))
            shares_by_tag[tag] = float(np.mean(shares))
        return {"others": (shares_by_tag["qaa"] + shares_by_tag["qab"]) / 2, **shares_by_tag}


def drawn(split: Split, count: int, seed: int, cell: Cell) -> RenderedDataset:
    """So many pictures of a seed; few in a smoke test."""
    return pair_languages(SMOKE_ROWS if cell.smoke else count, seed=seed, split=split).remembering()


def english_former(recipe: MBLIP, cell: Cell) -> Path:
    """The model folder of the bridge whose Q-Former was trained before the English language model: made once for all seeds and arms."""
    rows = drawn("train", PAIRS, ELSEWHERE, cell)
    changes = {
        "image_weights": recipe.prepare(rows).image_folder,  # the very encoder, whatever language each stage reads
        "languages": ("en",),
        "language": "en",
        "adapter_rank": 0,
        "warm_share": 0.0,
        "steps": ENGLISH_STEPS,
        "lr": MBLIP.tiny().lr,
        "visual_lr": MBLIP.tiny().lr,
    }
    first = with_changes(recipe, changes)
    alone = replace(cell, folder=cell.folder / "english", seed=ELSEWHERE, rate=None, share=1.0, spending=Spending())
    settings = {name: value for name, value in to_plain(out_of_groups(first)).items() if not name.endswith("_weights")}
    key = [FORMAT, rows.fingerprint, IMAGES, settings, cell.size]
    return cached_model("formers", key, lambda: opened(first, rows, alone).save, seed=ELSEWHERE)


def claims() -> tuple[Claim, ...]:
    fresh = replace(MBLIP.tiny(), small_image_size=SIDE, small_image_steps=1500, steps=STEPS)
    english = Realigned(with_changes(fresh, {"languages": ("en",)}), english=True)
    rates = around(fresh.lr)
    return (
        declare(
            slug="mblip",
            sentence="A Q-Former that was trained before an English language model names more in two new languages, after equal steps "
            "before the new one, than one from scratch",
            source="2307.06930: re-aligning BLIP-2 takes a small part of what training it took",
            baseline=Arm("from scratch", Realigned(fresh), rates),
            method=Arm("aligned anew", Realigned(fresh, english=True), rates),
            controls=(
                Arm("blind", Realigned(replace(fresh, blind=True))),
                Arm("English alone", english),
                Arm("untrained", Realigned(fresh, english=True, learns=False)),
            ),
            bounds=(Arm(f"from scratch, {TIMES} times as long", Realigned(replace(fresh, steps=TIMES * STEPS))),),
            metric="others",
            margins=0.05,
            equal_budget=("steps", "samples", "trained_parameters"),
            data=f"{PAIRS:,} images of two shapes, each with a caption in one of three languages, {TESTED} of the same seed to test",
            reported=TAGS,
        ),
    )
