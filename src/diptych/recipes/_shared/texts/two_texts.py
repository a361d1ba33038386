"""Shared by recipes that read two texts an image: a raw one and a synthetic caption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self, get_args

from diptych.core.contracts import Dataset, Draw, Draws
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.load.batch import TripletBatch, texts_by_origin, triplet_batch
from diptych.data.text.captions.text_sets import caption_table
from diptych.recipes._shared.pairs import B, EncoderRecipe, M, S

Kind = Literal["raw", "synthetic"]

PROBED_ROWS = 64
"""Samples, evenly spaced, that are asked for both texts before training begins."""


@dataclass(frozen=True, kw_only=True)
class TwoTextRecipe(EncoderRecipe[M, B, S]):
    """A recipe over images with two texts each.

    raw        origins of the raw text; the first that a sample has is taken, one of its texts drawn each time
    synthetic  origins of the synthetic caption, likewise
    captions   folder in which `diptych curate template_captions DATA FOLDER` left its table; "" takes the data's own texts
    """

    raw: tuple[str, ...] = ("alt", "label", "caption")
    synthetic: tuple[str, ...] = ("synthetic",)
    captions: str = ""

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary from both texts. Data without one of them are refused, with what makes it."""
        for row in range(0, len(data), max(1, len(data) // PROBED_ROWS)):
            self.texts_of(data[row])
        return super().prepare(data)

    def texts_of(self, sample: Sample) -> Iterable[str]:
        return [text for kind in get_args(Kind) for text in self.choices(sample, kind)]

    def choices(self, sample: Sample, kind: Kind) -> list[str]:
        """The texts of a sample that can be drawn as its raw text or as its synthetic caption; none at all is an error."""
        origins = self.raw if kind == "raw" else self.synthetic
        if kind == "synthetic" and self.captions:
            caption = caption_table(self.captions).get(sample.uid)
            strings = [caption] if caption else []
        else:
            strings = [text.string for text in texts_by_origin(sample, origins, self.language)]
        if strings:
            return strings
        if kind == "synthetic":
            here = f" in {self.captions}" if self.captions else ""
            raise DataError(
                f"sample '{sample.uid}' has no synthetic caption{here}",
                field="texts",
                expected=f"a text of origin {' or '.join(origins)}; or make captions with `diptych curate template_captions DATA "
                "FOLDER` and pass --captions FOLDER",
            )
        raise DataError(
            f"sample '{sample.uid}' has no raw text",
            field="texts",
            expected=f"a text of origin {' or '.join(origins)} (--raw names others)",
        )

    def triplet_batch(self, draws: Draws) -> TripletBatch:
        """A raw text, a caption and a crop of every draw."""

        def chosen(draw: Draw, kind: Kind) -> str:
            texts = self.choices(draw.sample, kind)
            return texts[int(draw.rng.integers(len(texts)))]

        return triplet_batch(
            draws,
            raw=lambda draw: chosen(draw, "raw"),
            caption=lambda draw: chosen(draw, "synthetic"),
            preprocess=self.preprocess,
            tokenizer=self.words(),
            text_length=self.text_length,
            crop_scale=self.crop,
            flip=self.flip,
            sides=self.flip_sides,
            form=self.crop_form,
        )
