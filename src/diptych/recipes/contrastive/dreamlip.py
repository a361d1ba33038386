"""DreamLIP: sentences of a long caption as several positive texts of one image, each aligned with its patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.data.text.captions.text_sets import Cut, TextSetBatch, caption_table, sub_captions, text_set_batch
from diptych.models.pairs.encoders.text_set_encoder import TextSetEncoder, TextSets
from diptych.objectives.pairs.patch_grouping import patch_grouping
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL

PROBED_ROWS = 200
"""Rows that `prepare` looks at, evenly spaced, for an image with more than one sentence."""


@dataclass(frozen=True, kw_only=True)
class DreamLIP(EncoderRecipe[TextSetEncoder, TextSetBatch, TextSets]):
    """DreamLIP: Language-Image Pre-training with Long Captions (Zheng et al., 2024, arXiv 2403.17007). Baseline: `clip`.

    All texts of an image are cut into sentences, and K of them are drawn at a step. Each of the K is matched with the image as in
    CLIP, against the k-th texts of the other images: sentences of one image are never each other's negatives there. The loss is the
    mean over k. A second term groups the patches: what a sentence is about (a mean of patches, weighted by their similarity with
    it) is contrasted with what the other sentences of the same image are about. With one text this is CLIP.

    Give it captions of several sentences: they may be far longer than the text window, since each sentence has a window of its own.
    The text tower runs on K texts an image. What is deployed is a plain dual encoder; the head for patches stays behind.

    We depart from the released code where it does not do what the paper says: there a sentence is contrasted with those of the
    whole batch (`negatives="batch"` has that form), texts of different images are mixed up, the temperature of the grouping is missing
    (here it is that of the matching), and the last sentence is never drawn. A text is never its own negative. In our small runs
    weight 1 for the grouping was too much for retrieval; `tiny` has less.

    texts      K, sentences drawn an image and step
    raw_first  the text that came with the image (origin "alt", else its first), whole, is a further text at every step
    merged     so many consecutive sentences make one text
    cut        texts fall into "sentences", different ones, each of which is shown once before one comes again; or as in the released code
               at every full stop, line break and </s> ("stops"), where of fewer than K some may come twice, and none is of the raw text
    lambda_mp  weight of the matching of images with their texts
    lambda_s   weight of the grouping; 0 leaves it out, and its head, too
    sigma      patches below it, on a scale from the least to the most similar one, do not count; negative: 1 / patches
    captions   folder of a curation step that made captions: each is a further text of its image
    negatives  of the grouping: the other texts of the same "image", or all texts of the "batch"
    """

    slug = "dreamlip"

    texts: int = 6
    raw_first: bool = False
    merged: int = 1
    cut: Cut = "sentences"
    lambda_mp: float = 1.0
    lambda_s: float = 1.0
    sigma: float = 0.0
    negatives: Literal["image", "batch"] = "image"
    captions: str = ""

    batch_size: int = 32_768

    def __post_init__(self) -> None:
        if self.texts < 1 or self.merged < 1:
            raise ConfigError(f"texts is {self.texts} and merged is {self.merged} (expected 1 or more)")

    @property
    def grouping(self) -> bool:
        """True if patches are grouped by texts; a single text has no other to be contrasted with."""
        return self.lambda_s != 0 and self.texts + self.raw_first > 1

    def prepare(self, data: Dataset) -> Self:
        """Learn the vocabulary; refuse data in which no image has a second text."""
        rows = range(0, len(data), max(1, len(data) // PROBED_ROWS))
        if self.texts > 1 and all(len(sub_captions(self._texts(data[row]), self.merged)) < 2 for row in rows):
            advice = "`diptych curate template_captions DATA FOLDER` makes a second, for --captions FOLDER; --texts 1 trains as clip does"
            raise DataError(
                f"no image of '{data.name}' has more than one sentence",
                field="texts",
                expected=f"several sentences or texts; {advice}",
            )
        return super().prepare(data)

    def texts_of(self, sample: Sample) -> Iterable[str]:
        return [text.string for text in self._texts(sample)]

    def captioned(self, sample: Sample) -> Sample:
        """The sample with the text that `captions` has for it as a further one."""
        caption = caption_table(self.captions).get(sample.uid) if self.captions else None
        return replace(sample, texts=(*sample.texts, Text(caption, self.language, "synthetic"))) if caption else sample

    def _texts(self, sample: Sample) -> Sequence[Text]:
        return self.captioned(sample).positives(self.language)

    def model(self) -> TextSetEncoder:
        image, text = self.towers()
        return TextSetEncoder(image, text, width=self.width, patches=self.grouping)

    def batch(self, draws: Draws) -> TextSetBatch:
        items = tuple(replace(draw, sample=self.captioned(draw.sample)) for draw in draws)
        return text_set_batch(
            replace(draws, items=items),
            count=self.texts,
            merged=self.merged,
            keep_first=self.raw_first,
            preprocess=self.preprocess,
            tokenizer=self.words(),
            text_length=self.text_length,
            crop_scale=self.crop,
            flip=self.flip,
            sides=self.flip_sides,
            language=self.language,
            cut=self.cut,
        )

    def features(self, model: TextSetEncoder, batch: TextSetBatch) -> TextSets:
        sets: TextSets = model(batch.image_BCHW, batch.text_BKL, batch.text_mask_BKL)
        return sets

    def losses(self, features: TextSets, batch: TextSetBatch) -> dict[str, Tensor]:
        matched = [
            self.contrast(features.image_ND, text_ND, scale=features.scale, group_B=batch.group_B)
            for text_ND in features.text_NKD.unbind(1)
        ]
        losses = {"contrastive": self.lambda_mp * torch.stack(matched).mean()}
        if features.patch_NPD is not None:
            grouped, _ = patch_grouping(
                features.patch_NPD,
                features.text_NKD,
                scale=features.scale,
                threshold=self.sigma,
                mask_NP=features.patch_mask_NP,
                text_id_NK=batch.text_id_BK,
                negatives=self.negatives,
            )
            losses["grouping"] = self.lambda_s * grouped
        return losses

    @classmethod
    def tiny(cls) -> Self:
        """The towers, data and budget of `clip`'s, with three texts an image."""
        return cls(**SMALL, texts=3, lambda_s=0.1)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16, 150,013,953 parameters with the head for patches; batch and learning rate are CLIP's. The raw text and six sentences
        a step, cut at stops, both weights 1 and 10,000 steps of warm-up, as in the released code; GELU, since the code stands on
        open_clip's ViT-B-16."""
        released: dict[str, Any] = {"raw_first": True, "cut": "stops", "warmup": 10_000.0, "decoding": "whole"}
        return cls(image_tower="vit_b16", texts=6, lambda_mp=1.0, lambda_s=1.0, same_group="negative", **released)
