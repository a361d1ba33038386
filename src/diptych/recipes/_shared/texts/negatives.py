"""Shared by recipes with negative texts for each image: their source, and one pass of the encoder over all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Order
from diptych.core.errors import DataError
from diptych.data.load.neighbours import NeighbourOrder
from diptych.data.text.captions.negative_texts import NegativeBatch, negative_batch, sample_texts
from diptych.data.text.english.structured import replaced_at_random
from diptych.data.text.english.tagger import tag
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.hard_pairs import HardPairs, hard_pairs
from diptych.objectives.gather import mean_over_processes
from diptych.recipes._shared.pairs import EncoderRecipe, strings_of

COLUMN = "structured_negatives"
"""The column of wrong texts that curation wrote, beside texts of origin "negative"."""
WORDS, LOOKED_AT = 2000, 20_000
"""So many of the most frequent nouns, adjectives and verbs stand in for others, counted in so many rows."""


@dataclass(frozen=True, kw_only=True)
class NegativeRecipe(EncoderRecipe[DualEncoder, NegativeBatch, HardPairs]):
    """A dual encoder that is shown wrong texts. Subclasses say how these are made and what they cost.

    negatives_each  wrong texts an image and step, at most
    articles        "a" and "an" are put right in them, so that no slip of grammar gives them away
    hard_images     a column of uids of images that look alike (`diptych curate hard_images`): every second row of a batch is one of those
                    of the row before it; "" takes rows as they come
    """

    negatives_each: int = 1
    articles: bool = True
    hard_images: str = ""
    common_words: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    @abstractmethod
    def negatives_of(self, draw: Draw, text: str) -> Sequence[str]:
        """Wrong texts for the text that this draw shows; none where none can be made."""

    def positives_of(self, draw: Draw, text: str) -> Sequence[str]:
        """Further right texts, of which the first is read; none is the text again."""
        return ()

    @property
    def reads_positives(self) -> bool:
        return False

    @property
    def needs_words(self) -> bool:
        """True if words of the data replace others in negative texts."""
        return False

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, and the common words where they are used."""
        ready = super().prepare(data)
        if not self.needs_words or self.common_words:
            return ready
        count: Counter[str] = Counter()
        for text in strings_of(data, self.texts_of, stride=max(1, len(data) // LOOKED_AT), language=self.language):
            count.update({word.lower for word in tag(text) if word.tag in ("NOUN", "ADJ", "VERB")})
        return replace(ready, common_words=tuple(sorted(count, key=lambda word: (-count[word], word))[:WORDS]))

    def row_order(self, data: Dataset) -> Order | None:
        if not self.hard_images:
            return None
        rows = {uid: row for row, uid in enumerate(data.uids)}
        neighbours = [data[row].extras.get(self.hard_images) or () for row in range(len(data))]
        near = [tuple(rows[uid] for uid in uids if uid in rows) for uids in neighbours]
        if not any(near):
            raise DataError(
                f"no row of '{data.name}' names images that look alike",
                field=self.hard_images,
                expected="what `diptych curate hard_images` makes",
            )
        return NeighbourOrder(tuple(near))

    def model(self) -> DualEncoder:
        image, text = self.towers()
        return DualEncoder(image, text, width=self.width)

    def batch(self, draws: Draws) -> NegativeBatch:
        return negative_batch(
            self.pair_batch(draws),
            draws,
            negatives=self.negatives_of,
            count=self.negatives_each,
            tokenizer=self.words(),
            positives=self.positives_of if self.reads_positives else None,
        )

    def features(self, model: DualEncoder, batch: NegativeBatch) -> HardPairs:
        right = None
        if batch.positive_BL is not None and batch.positive_mask_BL is not None:
            right = batch.positive_BL, batch.positive_mask_BL
        return hard_pairs(
            model,
            batch.image_BCHW,
            (batch.text_BL, batch.text_mask_BL),
            (batch.negative_BKL, batch.negative_mask_BKL, batch.there_BK),
            right,
        )

    def metrics(self, features: HardPairs, batch: NegativeBatch) -> dict[str, Tensor]:
        """Scale; the share of images that have a wrong text; how often an image prefers its own to all of these."""
        own_N1 = (features.image_ND * features.text_ND).sum(-1, keepdim=True)
        other_NK = torch.einsum("nd,nkd->nk", features.image_ND, features.negative_NKD).masked_fill(~batch.there_BK, -torch.inf)
        any_N = batch.there_BK.any(1)
        right_N = any_N & (own_N1 > other_NK).all(1)
        have, right = mean_over_processes(torch.stack([any_N.float().mean(), right_N.float().mean()])).unbind()
        values = {"scale": features.scale.detach(), "with_negatives": have}
        return values | ({"own_text_first": right / have} if have > 0 else {})

    def written(self, draw: Draw) -> list[str]:
        """Wrong texts that came with the sample: of origin "negative", or of the column that curation wrote."""
        of_sample = [
            text.string for text in draw.sample.texts if text.origin == "negative" and text.language in ("", self.language)
        ]
        return sample_texts(draw.rng, [*of_sample, *(draw.sample.extras.get(COLUMN) or ())], self.negatives_each)

    def at_random(self, draw: Draw, text: str) -> list[str]:
        """The control: a word replaced by any common one."""
        made = (replaced_at_random(text, draw.rng, self.common_words) for _ in range(self.negatives_each))
        return [new for new in made if new is not None]
