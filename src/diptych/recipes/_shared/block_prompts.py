"""Shared by both PTP recipes: which caption and region a step draws, and the prompt with block positions of the augmented
picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.load.batch import choose_text, pixels
from diptych.data.media.augment.boxed_views import Boxed, Pixels, mirrored
from diptych.data.text.captions.cleaning import cleaned
from diptych.data.text.captions.sides import mentions_side, swapped_sides
from diptych.data.text.prompts.position_prompts import append_prompt, append_prompt_uncut, block_of, prompt
from diptych.recipes._shared.pairs import B, F, M, PairRecipe


@dataclass(frozen=True, kw_only=True)
class BlockPromptRecipe(PairRecipe[M, B, F]):
    """Texts of Position-guided Text Prompt (PTP, Wang et al., 2022, arXiv 2212.09737).

    prompts      "moved": of the picture as it is shown; "original": of the picture as it is stored; "none": captions alone
    regions      at most so many of a picture's regions, the first ones, are drawn from
    attributes   words that stand before the label of a region: published 0, a detector's label alone
    caption_words, prompt_words, words_alone   of a caption with prompt, of the prompt, of a caption alone
    captions     "one" text a step, or "two": the last one and another, as the first released loader has it for COCO; that one leaves out
                 the blank between them, so that a caption without a stop runs into the next ("glued")
    """

    prompts: Literal["moved", "original", "none"] = "moved"
    regions: int = 10
    attributes: int = 0
    caption_words: int = 22
    prompt_words: int = 8
    words_alone: int = 30
    captions: Literal["one", "two", "glued"] = "one"

    def __post_init__(self) -> None:
        if self.prompts not in ("moved", "original", "none"):
            raise ConfigError(f"prompts is {self.prompts!r} (expected moved | original | none)")
        if self.captions not in ("one", "two", "glued"):
            raise ConfigError(f"captions is {self.captions!r} (expected one | two | glued)")
        if self.regions < 1 or self.attributes < 0:
            raise ConfigError(f"regions is {self.regions}, attributes {self.attributes} (expected 1 or more, 0 or more)")

    def before_flip(self, picture: Boxed, draw: Draw) -> Boxed:
        """First transform of the picture and the box; the identity, unless the recipe crops."""
        return picture

    def after_flip(self, picture: Boxed, draw: Draw) -> Boxed:
        """Last transform of the picture; the identity, unless the recipe augments."""
        return picture

    def view_with_prompt(self, draw: Draw) -> tuple[Pixels, str]:
        """The picture of a draw and its text: caption, region, crop, flip and augmentation are drawn in this order."""
        caption = self._caption(draw)
        region = self._region(draw)
        image_HWC = pixels(draw)
        height, width = image_HWC.shape[:2]
        original = None if region is None else block_of(region.box, width, height)
        picture = self.before_flip((image_HWC, region.box if region else None), draw)
        name = "" if region is None else self._name(region)
        if self.flip and draw.rng.random() < 0.5:
            says_side = mentions_side(caption) or mentions_side(name)
            if not says_side or self.flip_sides != "keep":
                picture = mirrored(picture)
            if says_side and self.flip_sides == "swap":
                caption, name = swapped_sides(caption), swapped_sides(name)
        shown_HWC, box = self.after_flip(picture, draw)
        if region is None:
            return shown_HWC, cleaned(caption, self.words_alone)
        if self.prompts == "original":
            return shown_HWC, append_prompt_uncut(caption, prompt(original, name), words=self.words_alone)
        moved = None if box is None else block_of(box, shown_HWC.shape[1], shown_HWC.shape[0])
        block_prompt = prompt(moved, name)
        return shown_HWC, append_prompt(caption, block_prompt, caption_words=self.caption_words, prompt_words=self.prompt_words)

    def _caption(self, draw: Draw) -> str:
        texts = [text.string for text in draw.sample.positives(self.language)]
        if self.captions != "one" and len(texts) > 1:
            between = " " if self.captions == "two" else ""
            return f"{texts[-1]}{between}{texts[int(draw.rng.integers(len(texts) - 1))]}"
        return choose_text(draw, self.language).string

    def _region(self, draw: Draw) -> Region | None:
        regions = draw.sample.regions[: self.regions] if self.prompts != "none" else ()
        return regions[int(draw.rng.integers(len(regions)))] if regions else None

    def _name(self, region: Region) -> str:
        return " ".join((*region.attributes[: self.attributes], region.label))

    def texts_of(self, sample: Sample) -> list[str]:
        """Captions, and with them every prompt that may follow one: its words are in a vocabulary that is learned."""
        texts = list(super().texts_of(sample))
        if self.prompts == "none":
            return texts
        prompts = [prompt(None if block == 9 else block, self._name(region)) for region in sample.regions for block in range(10)]
        return [cleaned(text) for text in (*texts, *prompts)]
