"""Two blocks of width 64 on either side: the towers of claims on rendered scenes, with which a cell takes about a minute on one core."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.models.outputs import Tower
from diptych.models.towers import image_tower, text_tower
from diptych.recipes.clip import CLIP
from diptych.recipes.pairs import PairRecipe

LAYERS, HEADS, WIDTH = 2, 4, 64


@dataclass(frozen=True, kw_only=True)
class SmallTowers(PairRecipe):
    """Stands before a recipe among the bases of a class, and gives it these towers."""

    def towers(self) -> tuple[Tower, Tower]:
        size = {"width": WIDTH, "layers": LAYERS, "heads": HEADS}
        image = image_tower("vit_tiny", image_size=self.image_size, **size)
        return image, text_tower("text_tiny", vocab_size=self.words().vocab_size, length=self.text_length, **size)


@dataclass(frozen=True, kw_only=True)
class SmallCLIP(SmallTowers, CLIP):
    """CLIP with small towers."""
