"""MiniGPT-4 on scenes with careless captions: a short second stage on clean descriptions against more of the first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import PAIRS, hosted
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.recipes.bridges.minigpt4 import MiniGPT4
from diptych.worlds.scenes.descriptions import descriptions

SCENES, DETAILED, TESTED, SMOKE_ROWS, TOKENS = 6000, 200, 200, 32, 48
HOST = "small:world:descriptions?n=6000&seed=1&detailed=6000"
"""The language model has read careless captions and clean descriptions of other scenes."""


@dataclass(frozen=True)
class SceneDescriptions:
    """Learns from scenes of the cell's seed, of which few are described, and describes others of the same seed.

    failed   share of the texts that are empty, that repeat a run of three words, or that do not end within `TOKENS` tokens
    content  share of a picture's things, by colour and shape, that its text names
    sound    content of the texts that did not fail, failed ones counted as naming nothing
    """

    recipe: MiniGPT4
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        count = SMOKE_ROWS if cell.smoke else SCENES
        rows = descriptions(count, seed=cell.seed, detailed=min(DETAILED, count // 2)).remembering()
        test = descriptions(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        recipe = hosted(replace(self.recipe, image_weights=PAIRS), cell, address=HOST)
        model = (opened if self.learns else untrained)(recipe, rows, cell)
        samples = [test[row] for row in range(len(test))]
        written = model.generate([sample.image for sample in samples], [""] * len(samples), max_tokens=TOKENS)
        failed = np.array([fails(text, len(model.vocabulary.pieces(text))) for text in written])
        nouns = [{f"{thing['colour']} {thing['label']}" for thing in sample.extras["things"]} for sample in samples]
        pairs = zip(written, nouns, strict=True)
        content = np.array([np.mean([noun in text.lower() for noun in wanted]) for text, wanted in pairs])
        sound = np.where(failed, 0.0, content)
        return {"sound": float(sound.mean()), "failed": float(failed.mean()), "content": float(content.mean())}


def fails(text: str, tokens: int) -> bool:
    """True if a text is empty, repeats a run of three words, or was cut off at `TOKENS` tokens."""
    words = text.split()
    runs = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
    return not words or len(set(runs)) < len(runs) or tokens >= TOKENS


def claims() -> tuple[Claim, ...]:
    both = MiniGPT4.tiny()
    first = replace(both, second_share=0.0)
    rates = around(both.lr)
    return (
        declare(
            slug="minigpt4",
            sentence="Asked in a chat, a model with a short second stage on clean descriptions names more of a picture in texts that "
            "do not fail than one that saw more careless captions instead",
            source="2304.10592, table 4: a third of the texts fail after the first stage, about a fiftieth after the second",
            baseline=Arm("first stage alone", SceneDescriptions(first), rates),
            method=Arm("both stages", SceneDescriptions(both), rates),
            controls=(
                Arm("blind", SceneDescriptions(replace(both, blind=True))),
                Arm("untrained", SceneDescriptions(both, learns=False)),
            ),
            metric="sound",
            margins=0.1,
            equal_budget=("steps", "trained_parameters"),
            data=f"{SCENES:,} scenes with a careless caption, {DETAILED} of them described, {TESTED} of the same seed to test",
            reported=("failed", "content"),
            tuning_seeds=(0,),
            why_long="a language model of four layers writes what is scored: a cell takes eighty to ninety seconds",
        ),
    )
