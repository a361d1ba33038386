"""Regions aligned with tokens: predictions of a grounding detector, and ground truth.

Letters: B images, S layers, Q queries, A anchors, L tokens (padded), G true boxes (padded).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.core.rows import Rows
from diptych.core.scene_graph import Region
from diptych.data.graphs.batch import pad_and_stack, padded, relative_boxes, row_mask
from diptych.data.load.batch import TensorBatch
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Pixels, Triple
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.spans import Entity, SpanText


@dataclass(frozen=True, slots=True)
class TokenRegions:
    """Predictions of a query-based detector after each of its layers; inference uses the last.

    box_BSQ4           cxcywh in 0..1 of the image without its padding
    token_logit_BSQL   raw, one sigmoid a token
    mask_BL            True at real tokens, marks among them
    """

    box_BSQ4: Rows[Tensor]
    token_logit_BSQL: Rows[Tensor]
    mask_BL: Rows[Tensor]


@dataclass(frozen=True, slots=True)
class DenseRegions:
    """Predictions of a dense detector, one for each position of its feature maps.

    change_BA4        of the anchor, to its box (`moved_anchors`)
    centre_BA         logit of how central the place is in its box
    token_logit_BAL   raw, one sigmoid a token
    mask_BL           True at real tokens, marks among them
    size_B2           height and width of each image in pixels, without its padding
    anchor_A4         xyxy pixels;  counts: how many each map has, the finest first
    """

    change_BA4: Rows[Tensor]
    centre_BA: Rows[Tensor]
    token_logit_BAL: Rows[Tensor]
    mask_BL: Rows[Tensor]
    size_B2: Rows[Tensor]
    anchor_A4: Tensor
    counts: tuple[int, ...]


SHIFTS, SIDES = 10.0, 5.0
"""Box code: shifts in tenths of an anchor's sides, the logarithm of their growth in fifths (ATSS, 1912.02424)."""
LARGEST = math.log(1000 / 16)
"""The most that the logarithm of a side grows."""


def moved_anchors(anchor_X4: Tensor, change_X4: Tensor) -> Tensor:
    """The boxes that anchors become, xyxy pixels: the middle is shifted by tenths of the sides, sides grow by e ** (change / 5)."""
    side_X2 = anchor_X4[..., 2:] - anchor_X4[..., :2]
    middle_X2 = anchor_X4[..., :2] + side_X2 / 2 + change_X4[..., :2] / SHIFTS * side_X2
    half_X2 = side_X2 * (change_X4[..., 2:] / SIDES).clamp(max=LARGEST).exp() / 2
    return torch.cat((middle_X2 - half_X2, middle_X2 + half_X2), -1)


@dataclass(frozen=True, slots=True)
class TokenTargets:
    """Ground truth: boxes, and the tokens of the image's text that each matches.

    box_BG4        cxcywh in 0..1 of the image; anything on padding
    positive_BGL   bool; a box none of whose tokens is left (the text was cut) has an empty row
    valid_BG       False on padding
    """

    box_BG4: Tensor
    positive_BGL: Tensor
    valid_BG: Tensor


@dataclass(frozen=True, kw_only=True)
class GroundedBatch(TensorBatch):
    """Training batch of a grounding detector: pictures with one text each.

    image_BCHW   float32, normalised; zero on padding, which lies right and below
    pixel_BHW    True on pixels of the picture
    text_BL, mask_BL   tokens, as long as the longest of the batch
    box_BG4, positive_BGL, valid_BG   see `TokenTargets`
    truncated    how many texts were longer than the model reads
    """

    image_BCHW: Rows[Tensor]
    pixel_BHW: Rows[Tensor]
    text_BL: Rows[Tensor]
    mask_BL: Rows[Tensor]
    box_BG4: Rows[Tensor]
    positive_BGL: Rows[Tensor]
    valid_BG: Rows[Tensor]
    truncated: int = 0

    @property
    def targets(self) -> TokenTargets:
        return TokenTargets(self.box_BG4, self.positive_BGL, self.valid_BG)


@dataclass(frozen=True, slots=True)
class GroundedPicture:
    """A picture as it is shown, its text, and its boxes in pixels, each with the entities of the text that mean it."""

    image_HWC: Pixels
    text: SpanText
    boxes: tuple[tuple[Region, tuple[Entity, ...]], ...]


def grounded_batch(
    pictures: Sequence[GroundedPicture],
    tokenizer: Tokenizer,
    length: int,
    *,
    multiple: int = 1,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> GroundedBatch:
    """The batch of these pictures. A box none of whose entities stands in the text is no target; height and width are padded up to a
    multiple of this many pixels.

    Raises DataError for a tokenizer that pads on the left, where texts could not be cut to the longest.
    """
    if tokenizer.side != "right":
        raise DataError("the tokenizer pads on the left", field="tokenizer", expected="one that pads on the right")
    encoded = tokenizer.encode([picture.text.text for picture in pictures], length)
    longest = int(encoded.mask_BL.sum(1).max())
    box_BG4, positive_BGL = [], []
    for picture in pictures:
        rows = picture.text.tokens(tokenizer.offsets(picture.text.text, length)[:longest])
        kept = [
            (region.box, np.any([rows[entity] for entity in entities if entity in rows], axis=0))
            for region, entities in picture.boxes
            if any(entity in rows for entity in entities)
        ]
        box_BG4.append(relative_boxes([box for box, _ in kept], *picture.image_HWC.shape[:2]))
        positive_BGL.append(_rows([row_L for _, row_L in kept], longest))
    image_BCHW, pixel_BHW = padded([picture.image_HWC for picture in pictures], multiple, mean, std)
    return GroundedBatch(
        image_BCHW=image_BCHW,
        pixel_BHW=pixel_BHW,
        text_BL=torch.from_numpy(encoded.ids_BL[:, :longest]),
        mask_BL=torch.from_numpy(encoded.mask_BL[:, :longest]),
        box_BG4=pad_and_stack(box_BG4, 0),
        positive_BGL=pad_and_stack(positive_BGL, 0),
        valid_BG=row_mask([len(row) for row in box_BG4]),
        truncated=encoded.truncated,
    )


def _rows(rows: list[npt.NDArray[np.bool_]], length: int) -> npt.NDArray[np.bool_]:
    return np.stack(rows) if rows else np.zeros((0, length), np.bool_)
