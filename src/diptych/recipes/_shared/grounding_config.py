"""Configurations of DesCo's training: queries of captions, views of pictures, and rates of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.data.graphs.transforms import DetectionTransform, RandomHorizontalFlip, RandomShortSideResize, SquareResize
from diptych.data.text.descriptions.description_queries import WORDS
from diptych.models.detection.images import DetectionPreprocess


@dataclass(frozen=True, slots=True)
class CaptionMix:
    """Shares of captions that become descriptions, for captions with marked phrases.

    written, nouns   shares of captions that are shuffled with what was written about them, and that become descriptions of their nouns;
                  the others stay (published for GLIP: 0.5, 0.4). A caption about which nothing was written stays, too
    noun_words, every_piece   of descriptions of nouns (`NounQueries`)
    describe      share of the shuffled captions that hold descriptions (published 0.8)
    """

    written: float = 0.5
    nouns: float = 0.4
    noun_words: int = WORDS
    every_piece: bool = True
    describe: float = 0.8

    def __post_init__(self) -> None:
        if min(self.written, self.nouns) < 0 or self.written + self.nouns > 1:
            raise ConfigError(f"written is {self.written}, nouns {self.nouns} (expected shares that add up to 1 at most)")


@dataclass(frozen=True, slots=True)
class GroundingViews:
    """Sizes of the pictures of a grounding detector.

    longest      pixels of the long side at most
    square       whether a picture is squeezed to a square of `image_size` when evaluated
    short_sides  of the short side in training, of which one is drawn
    mirror       share of the pictures that are mirrored in training
    """

    longest: int = 1333
    square: bool = False
    short_sides: tuple[int, ...] = (480, 560, 640, 720, 800)
    mirror: float = 0.5

    def training(self, image_size: int, *, mirror: float) -> DetectionTransform:
        """The view that a picture is trained on; `mirror` is the share of this query, 0 where its text names a side."""
        flip = RandomHorizontalFlip(share=mirror)
        if self.square:
            return SquareResize(size=image_size, mirror=flip)
        return RandomShortSideResize(shorts=self.short_sides, longest=self.longest, mirror=flip)

    def deployed(self, image_size: int) -> DetectionPreprocess:
        """Preprocessing of the deployed model."""
        if self.square:
            return DetectionPreprocess(image_size, longest=0, square=True)
        return DetectionPreprocess(image_size, longest=self.longest)


@dataclass(frozen=True, slots=True)
class DetectorRates:
    """Rates of the parts of a grounding detector, and when they fall.

    text_lr      learning rate of the text encoder, as a share of lr
    bias_lr      of what is called a bias (tables of them too), as a factor
    decay        weight decay is on "all" but those, norms too, as released, or on "matrices" alone
    lr_drops     shares of the run after which the learning rate is a tenth
    decay_drops  likewise the weight decay, in FIBER's release at .667 of each drop of the rate
    average      decay of the weight average that is kept; 0: none
    """

    text_lr: float = 0.2
    bias_lr: float = 2.0
    decay: Literal["all", "matrices"] = "all"
    lr_drops: tuple[float, ...] = (0.67, 0.89)
    decay_drops: tuple[float, ...] = ()
    average: float = 0.999
