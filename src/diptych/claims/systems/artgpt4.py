"""ArtGPT-4 on scenes in three styles: adapters in the language model against one linear map, and what the language model forgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import PAIRS, hosted
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.writer import BridgeGenerator
from diptych.recipes.bridges.artgpt4 import ArtGPT4
from diptych.worlds.scenes.styles import styles

SCENES, TESTED, SMOKE_ROWS = 4000, 200, 32
HOST = "small:world:styles?n=6000&seed=1"
"""The language model has read captions with styles, of other scenes."""


@dataclass(frozen=True)
class Styled:
    """Learns captions of styled scenes of the cell's seed, writes about others of the same seed.

    style        share of the captions that name the picture's style
    content      share of a picture's things, by colour and shape, that its caption names
    perplexity   of the captions as texts alone, per token; perplexity_before that of the language model as it came
    """

    recipe: ArtGPT4
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = styles(SMOKE_ROWS if cell.smoke else SCENES, seed=cell.seed).remembering()
        test = styles(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        recipe = hosted(replace(self.recipe, image_weights=PAIRS), cell, address=HOST)
        model = (opened if self.learns else untrained)(recipe, rows, cell)
        samples = [test[row] for row in range(len(test))]
        written = model.generate([sample.image for sample in samples], [""] * len(samples), max_tokens=32)
        pairs = list(zip(written, samples, strict=True))
        style = np.mean([sample.extras["style"] in text for text, sample in pairs])
        content = np.mean(
            [
                np.mean([f"{thing['colour']} {thing['label']}" in text for thing in sample.extras["things"]])
                for text, sample in pairs
            ]
        )
        texts = [sample.texts[0].string for sample in samples]
        before = perplexity(self.as_it_came(model, recipe.prepare(rows).language_path), texts)
        accuracies = {"style": float(style), "content": float(content)}
        return {**accuracies, "perplexity": perplexity(model, texts), "perplexity_before": before}

    @staticmethod
    def as_it_came(model: BridgeGenerator, folder: str) -> BridgeGenerator:
        """The same model around the language model before training."""
        language = LanguageModel.from_folder(folder).eval()
        language.to(next(model.bridge.parameters()).dtype)
        bridge = type(model.bridge)(model.bridge.encoder, model.bridge.connector, language)
        return BridgeGenerator(
            bridge,
            model.preprocess,
            model.vocabulary,
            model.template,
            "before",
            connector=model.connector_spec,
            length=model.length,
        )


def perplexity(model: BridgeGenerator, texts: list[str]) -> float:
    nll_N2 = model.text_nll(texts)
    return float(np.exp(nll_N2[:, 0].sum() / nll_N2[:, 1].sum()))


def claims() -> tuple[Claim, ...]:
    adapted = replace(ArtGPT4.tiny(), second_share=0.0, chat="{image}", template="{image}", requests=("",))
    linear = replace(adapted, adapters=False)
    return (
        declare(
            slug="artgpt4",
            sentence="With adapters in the language model captions name the style of a picture more often than with one linear map",
            source="2305.07490: adapters in the language model let MiniGPT-4 speak of mood and style",
            baseline=Arm("linear map", Styled(linear), around(linear.lr)),
            method=Arm("adapters", Styled(adapted), around(adapted.lr)),
            controls=(Arm("blind", Styled(replace(adapted, blind=True))), Arm("untrained", Styled(adapted, learns=False))),
            metric="style",
            margins=0.1,
            data=f"{SCENES:,} scenes in three styles that their captions name, {TESTED} of the same seed to test",
            reported=("content", "perplexity", "perplexity_before"),
            tuning_seeds=(0,),
            why_long="gradients run through a language model, whose text is read before and after; rates are swept on one seed",
        ),
    )
