"""NegCLIP: hard negatives, captions with shuffled words and similar images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import Tensor

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError
from diptych.data.text.captions.negative_texts import NegativeBatch, sample_texts
from diptych.data.text.english.swaps import EVERY, RELEASED, SWAPS, Swap, swaps
from diptych.data.text.english.tagger import spacy_tagger, tag
from diptych.models.pairs.hard_pairs import HardPairs
from diptych.objectives.pairs.hard_negatives import wide_info_nce
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.recipes._shared.texts.negatives import NegativeRecipe

Negatives = Literal["swaps", "texts", "random_words", "none"]


@dataclass(frozen=True, kw_only=True)
class NegCLIP(NegativeRecipe):
    """When and why vision-language models behave like bags-of-words (Yuksekgonul et al., 2022, arXiv 2210.01936). Baseline: `clip`.

    For the text of every image a wrong one is made of the same words: two nouns, adjectives, verbs, adverbs or noun phrases change places,
    a kind and a pair at random at every step. Images choose among all texts and all wrong texts of the batch, texts among images. Half of
    the rows of a batch are hard images, near neighbours of the other half that bring their own texts and wrong texts along (`hard_images`).

    Several processes and gradient caching give the loss of the whole batch; the released code is wrong with several. We depart in what is
    no wrong text: swaps that leave the meaning ("a blue and yellow hydrant") or no sentence are not made (`published_swaps`), articles
    follow their noun (`articles`), and samples of one group are no negatives of each other, as in `clip` (`same_group`).

    negatives   "swaps"; "texts", those of origin "negative" that came with the data; "random_words", any common word in place of one, and
                "none", which are controls
    kinds       which kinds of swap. The released captions have six narrower ones, in `paper`: singular nouns, plural nouns, forms in
                -ing, adjectives, adverbs, and noun phrases of three words or more
    published_swaps  every pair of a kind, also such that leave the meaning or no sentence
    spacy       the name of an installed spaCy model that tags the texts, as published (en_core_web_sm); "" takes the built-in tagger
    """

    slug = "negclip"
    tuned_lr: ClassVar[float] = 1e-6

    negatives: Negatives = "swaps"
    kinds: tuple[Swap, ...] = SWAPS
    published_swaps: bool = False
    spacy: str = ""

    batch_size: int = 512
    epochs: float = 10.0
    lr: float = 1e-6
    warmup: float = 50.0
    weight_decay: float = 0.2

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) - set(EVERY):
            raise ConfigError(f"kinds is {list(self.kinds)} (expected some of {' | '.join(EVERY)})")
        if self.negatives not in ("swaps", "texts", "random_words", "none") or self.negatives_each < 1:
            raise ConfigError(
                f"negatives {self.negatives!r}, {self.negatives_each} each (expected swaps | texts | random_words | none, 1 or more)"
            )

    @property
    def needs_words(self) -> bool:
        return self.negatives == "random_words"

    def negatives_of(self, draw: Draw, text: str) -> Sequence[str]:
        if self.negatives == "swaps":
            tagger = spacy_tagger(self.spacy) if self.spacy else tag
            swapped = swaps(
                text, draw.rng, kinds=self.kinds, published=self.published_swaps, articles=self.articles, tagger=tagger
            )
            return sample_texts(draw.rng, list(swapped.values()), self.negatives_each)
        if self.negatives == "texts":
            return self.written(draw)
        return self.at_random(draw, text) if self.negatives == "random_words" else ()

    def losses(self, features: HardPairs, batch: NegativeBatch) -> dict[str, Tensor]:
        return {
            "contrastive": wide_info_nce(
                features.image_ND,
                features.text_ND,
                features.negative_NKD,
                batch.there_BK,
                scale=features.scale,
                group_N=batch.group_B,
                same=self.same_group,
            )
        }

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and steps of `clip`'s, from scratch and without hard images."""
        return cls(**SMALL_CLIP)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 on COCO's captions, to be started with `--init hf:openai/clip-vit-base-patch32`: 256 images and as many hard ones a
        step, five passes over the captions (ten epochs of these pairs). Wrong texts are made anew at every step, with a tagger of our
        own; published are up to five a caption, made once, and captions without any are left out, where here they stay without one."""
        return cls(
            act="quick_gelu",
            same_group="negative",
            kinds=RELEASED,
            published_swaps=True,
            articles=False,
            hard_images="hard_images",
            decoding="whole",
        )
