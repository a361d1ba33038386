"""Shared by recipes whose diffusion model reads reference pictures: what a step reads, and how the networks are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from diptych.core.contracts import Draw, Draws, Recipe
from diptych.core.errors import DataError
from diptych.core.rows import Rows
from diptych.data.load.batch import pixels
from diptych.data.masks import decode as decode_mask
from diptych.data.media.transforms import HALF, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.diffusion.reference_model import phrase_ids, picture_pixels
from diptych.models.diffusion.reference_net import ReferenceDenoising, ReferenceDiffusion, ReferenceSettings
from diptych.models.diffusion.settings import DiffusionSettings
from diptych.models.diffusion.text_to_image import prompt_ids
from diptych.recipes._shared.diffusion.batch import DiffusionBatch, diffusion_batch, drawn_noise, latent_shape

NO_SPAN = (0, 0)


@dataclass(frozen=True)
class ReferenceBatch(DiffusionBatch):
    """A diffusion batch with R reference pictures a row.

    picture_BRCHW      as the image encoder reads them; reference_BRCHW in [-1, 1], for latents
    phrase_BRL, box_BR4  ids of their names, and where they are in the target, as shares
    predicate_B2       half-open token span of the relation in the prompt, (0, 0) where there is none
    target_BRK2, point_BRK2, visible_BRK  key points in the target and in the reference, and 1 where both are inside the picture
    mask_BHW           1 on the things of the target
    original_B2        height and width of the target before it was resized, which SDXL reads
    """

    picture_BRCHW: Rows[Tensor]
    reference_BRCHW: Rows[Tensor]
    reference_posterior_BRCHW: Rows[Tensor] | None
    phrase_BRL: Rows[Tensor]
    box_BR4: Rows[Tensor]
    predicate_B2: Rows[Tensor]
    target_BRK2: Rows[Tensor]
    point_BRK2: Rows[Tensor]
    visible_BRK: Rows[Tensor]
    mask_BHW: Rows[Tensor]
    original_B2: Rows[Tensor]


@dataclass(frozen=True)
class TargetView:
    """Target picture, reference pictures, boxes [R, 4] of the things in the target as shares, and the mask [S, S] of all of them."""

    image_HWC: npt.NDArray[np.uint8]
    references: Sequence[npt.NDArray[np.uint8]]
    box_R4: Tensor
    mask_SS: Tensor


@dataclass(frozen=True, kw_only=True)
class ReferenceRecipe(Recipe[ReferenceDiffusion, ReferenceBatch, ReferenceDenoising]):
    """Batches and calls of recipes with reference pictures; subclasses say which networks and what is trained."""

    needs: ClassVar[tuple[str, ...]] = ("image", "texts", "figures")

    @property
    def measured_by(self) -> str:
        return "figure_generation"

    @property
    def decode_size(self) -> int:
        """Whole pictures."""
        return 0

    def settings(self) -> DiffusionSettings:
        """Configuration of the diffusion model."""
        raise NotImplementedError

    def references(self) -> ReferenceSettings:
        """Sizes of the parts that read reference pictures."""
        raise NotImplementedError

    def words(self) -> list[Tokenizer]:
        """A tokeniser for each text encoder."""
        raise NotImplementedError

    def prompt(self, draw: Draw) -> str:
        """The prompt of a draw."""
        texts = draw.sample.positives()
        if not texts:
            raise DataError(f"sample '{draw.sample.uid}' has no text", field="texts", expected="a prompt")
        return texts[int(draw.rng.integers(len(texts)))].string

    @property
    def preprocess(self) -> Preprocess:
        """Target and reference pictures to [-1, 1], both sides resized, so that shares stay true."""
        return Preprocess(self.settings().image_size, *HALF, "squash", "bilinear")

    def load(self, sample: Any, rng: np.random.Generator) -> Mapping[str, Any]:
        loaded = dict(super().load(sample, rng))
        if "references" not in sample.media:
            raise DataError(f"sample '{sample.uid}' has no reference pictures", field="references", expected="several pictures")
        return {**loaded, "references": sample.media["references"].decode()}

    def batch(self, draws: Draws) -> ReferenceBatch:
        settings, words, references = self.settings(), self.words(), self.references()
        prompts = [self.prompt(draw) for draw in draws]
        text_BEL, _ = prompt_ids(words, prompts, settings.text_length)
        spans = [self.predicate_span(draw, prompt) for draw, prompt in zip(draws, prompts, strict=True)]
        facts = [figure_facts(draw) for draw in draws]
        views = [self.view(draw) for draw in draws]
        shown = [replace(draw, image_HWC=view.image_HWC) for draw, view in zip(draws, views, strict=True)]
        made = diffusion_batch(replace(draws, items=tuple(shown)), text_BEL, settings, self.preprocess)
        side = int(references.image["image_size"])
        pictures = [list(draw.media["references"]) for draw in draws]
        target, point, visible = (torch.stack(list(part)) for part in zip(*map(point_tensors, facts), strict=True))
        count = target.shape[1]
        posterior = drawn_noise(draws, (count, *latent_shape(settings, self.preprocess.size))) if settings.vae else None
        phrases = [phrase_ids(words[0], [str(one["phrase"]) for one in row], settings) for row in facts]
        return ReferenceBatch(
            made.image_BCHW,
            made.text_BEL,
            made.timestep_B,
            made.noise_BCHW,
            made.posterior_BCHW,
            torch.stack([picture_pixels(row, side) for row in pictures]),
            torch.stack([self.preprocess(view.references) for view in views]),
            posterior,
            torch.stack(phrases),
            torch.stack([view.box_R4 for view in views]),
            torch.tensor(spans, dtype=torch.int64),
            target,
            point,
            visible,
            torch.stack([view.mask_SS for view in views]),
            torch.tensor([pixels(draw).shape[:2] for draw in draws], dtype=torch.float32),
        )

    def view(self, draw: Draw) -> TargetView:
        """Pictures, boxes and mask of a draw, as they are: `preprocess` makes squares of the pictures."""
        boxes = torch.tensor([one["box"] for one in figure_facts(draw)], dtype=torch.float32)
        return TargetView(pixels(draw), list(draw.media["references"]), boxes, self.union_mask(draw))

    def predicate_span(self, draw: Draw, prompt: str) -> tuple[int, int]:
        """Half-open token span of the sample's predicate in its prompt. Raises DataError where it does not occur, or is cut off."""
        predicate = str(draw.sample.extras.get("predicate", ""))
        if not predicate:
            return NO_SPAN
        words = self.words()[0]
        text = words.cleaned(prompt)
        match = re.search(rf"(?<!\w){re.escape(words.cleaned(predicate))}(?!\w)", text)
        if match is None:
            raise DataError(
                f"predicate {predicate!r} does not occur in the prompt {prompt!r} of '{draw.sample.uid}'",
                field="predicate",
                expected="words of the prompt",
            )
        (positions,) = words.span_places(text, [match.span()], self.settings().text_length)
        if not positions:
            raise DataError(f"predicate {predicate!r} is cut off from the prompt of '{draw.sample.uid}'", field="predicate")
        return positions[0], positions[-1] + 1

    @property
    def mask_side(self) -> int:
        """Cells along a side of the masks: an eighth of the published size, the size of the latents."""
        return self.preprocess.size // max(1, self.settings().latent_scale)

    def union_mask(self, draw: Draw) -> Tensor:
        """Float mask [side, side] of the regions of a sample at the latents' size."""
        side = self.mask_side
        masks = [decode_mask(region.mask) for region in draw.sample.regions if region.mask is not None]
        if not masks:
            return torch.zeros(side, side)
        union = torch.from_numpy(np.any(np.stack(masks), 0)).float()[None, None]
        return functional.interpolate(union, size=(side, side), mode="nearest")[0, 0]

    def features(self, model: ReferenceDiffusion, batch: ReferenceBatch) -> ReferenceDenoising:
        side = float(self.preprocess.size)
        crop_B2, wanted_B2 = torch.zeros_like(batch.original_B2), torch.full_like(batch.original_B2, side)
        features: ReferenceDenoising = model(
            batch.image_BCHW,
            batch.text_BEL,
            batch.timestep_B,
            batch.noise_BCHW,
            batch.posterior_BCHW,
            batch.picture_BRCHW,
            batch.reference_BRCHW,
            batch.reference_posterior_BRCHW,
            batch.phrase_BRL,
            batch.box_BR4,
            batch.predicate_B2,
            torch.cat([batch.original_B2, crop_B2, wanted_B2], 1),
        )
        return features


def figure_facts(draw: Draw) -> Sequence[Mapping[str, Any]]:
    """Phrase, box and key points of each reference of a sample. Raises DataError for missing ones and a box outside the picture."""
    facts = draw.sample.extras.get("figures")
    uid = draw.sample.uid
    if not isinstance(facts, Sequence) or not facts or len(facts) != len(draw.media["references"]):
        raise DataError(
            f"sample '{uid}' has no facts of each reference", field="figures", expected="phrase, box, key_points, ..."
        )
    for one in facts:
        box = one.get("box", ())
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise DataError(f"the box of {one.get('phrase')!r} in '{uid}' is {list(box)}", field="box", expected="shares of 0..1")
    return facts


def point_tensors(facts: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Key points [R, K, 2] in the target and in the references, and 1 [R, K] where both lie in the picture."""
    target = torch.tensor([one["key_points"] for one in facts], dtype=torch.float32)
    point = torch.tensor([one["reference_key_points"] for one in facts], dtype=torch.float32)
    inside = [((part >= 0) & (part <= 1)).all(-1) for part in (target, point)]
    return target, point, (inside[0] & inside[1]).float()
