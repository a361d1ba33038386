"""Batching: draws to a batch of tensors. Fields that are declared `Rows` are cut by chunking, the others are shared by all chunks.

Letters: B batch, C channel, H W pixels, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_seed
from diptych.core.rows import Rows, row_fields
from diptych.core.sample import Sample, Text
from diptych.data.media.transforms import TORCHVISION, ByteImages, CropForm, Preprocess, flipped, random_crop
from diptych.data.text.captions.sides import Sides, mirrored
from diptych.data.text.captions.variants import UNIFORM
from diptych.data.text.tokenize import Tokenizer

Augment = Callable[[np.ndarray[Any, np.dtype[np.uint8]], np.random.Generator], np.ndarray[Any, np.dtype[np.uint8]]]
"""Changes the pixels of a view."""


@dataclass(frozen=True)
class TensorBatch:
    """Base of a recipe's batch: a frozen dataclass of tensors, and of tuples where rows are ragged.

    A field that is declared `Rows` has one entry a row and is cut by `rows`; every other field is shared by all chunks.

    >>> @dataclass(frozen=True)
    ... class Points(TensorBatch):
    ...     point_B3: Rows[Tensor]
    ...     label_KD: Tensor
    >>> points = Points(torch.zeros(5, 3), torch.zeros(2, 8))
    >>> len(points), len(points.rows(1, 3)), points.rows(1, 3).label_KD.shape[0]
    (5, 2, 2)
    """

    def __len__(self) -> int:
        for name in row_fields(type(self)):
            value = getattr(self, name)
            if value is not None:
                return len(value)
        raise TypeError(f"{type(self).__name__} has no field that is declared `Rows`")

    def rows(self, start: int, stop: int) -> Self:
        """Only the rows start..stop-1; views of the same tensors."""
        cut = {name: value[start:stop] for name in row_fields(type(self)) if (value := getattr(self, name)) is not None}
        return replace(self, **cut)

    def to(self, device: torch.device | str) -> Self:
        """The batch on a device; pictures that came as bytes (`ByteImages`) are normalised there."""
        return self._mapped(lambda value: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value.to(device))

    def pin_memory(self) -> Self:
        """Page-locked copies, from which `to` a GPU does not block; called by the loader."""
        return self._mapped(lambda value: value.pin_memory())

    def _mapped(self, change: Callable[[Tensor | ByteImages], Tensor | ByteImages]) -> Self:
        return replace(self, **{field.name: _map_tensors(getattr(self, field.name), change) for field in fields(self)})


def _map_tensors(value: Any, change: Callable[[Tensor | ByteImages], Tensor | ByteImages]) -> Any:
    if isinstance(value, Tensor | ByteImages):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_map_tensors(item, change) for item in value)
    return value


@dataclass(frozen=True)
class PairBatch(TensorBatch):
    """Images and a text for each.

    text_mask_BL  True on tokens, the start and end marks included, False on padding
    group_B       int64; equal numbers: same concept, so neither is the other's negative
    truncated     how many of the texts were longer than L and were cut
    strings       the texts themselves, for models with another tokenizer; None if a row has several
    """

    image_BCHW: Rows[Tensor]
    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    group_B: Rows[Tensor]
    truncated: int = 0
    strings: Rows[tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class TripletBatch(PairBatch):
    """Images, the raw text of each (`text_BL`) and a synthetic caption of each.

    mismatched_B  int64: 1 where the sample's extra "mismatched" says that the raw text belongs to another image, 0 where it says
                  that it does not, -1 where the data do not know
    """

    caption_BL: Rows[Tensor]
    caption_mask_BL: Rows[Tensor]
    mismatched_B: Rows[Tensor]


def pair_batch(
    draws: Draws,
    *,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    text_length: int,
    crop_scale: tuple[float, float] = (0.9, 1.0),
    flip: bool = False,
    language: str = "en",
    sides: Sides = "keep",
    augment: Augment | None = None,
    choose: Callable[[Draw, str], Text] | None = None,
    form: CropForm = TORCHVISION,
) -> PairBatch:
    """A text and a random square crop of every draw. The draw's own generator decides: first its text, then crop, flip and `augment`.

    `choose` takes a draw's text in a language; without it each of the texts is equally likely.
    `crop_scale` (1, 1) leaves the whole image to `preprocess`. `flip` mirrors half of the images; `sides` says what becomes of
    those whose text says left or right.
    """
    texts: list[str] = []
    images = []
    for draw in draws:
        text = (choose or choose_text)(draw, language).string
        shown_HWC, shown_texts = view_with_texts(draw, (text,), preprocess.size, crop_scale, flip, sides, form)
        texts += shown_texts
        images.append(shown_HWC if augment is None else augment(shown_HWC, draw.rng))
    encoded = tokenizer.encode(texts, text_length)
    return PairBatch(
        image_BCHW=preprocess.batched(images, draws.uint8_images),
        text_BL=torch.from_numpy(encoded.ids_BL),
        text_mask_BL=torch.from_numpy(encoded.mask_BL),
        group_B=group_ids(draws),
        truncated=encoded.truncated,
        strings=tuple(texts),
    )


def triplet_batch(
    draws: Draws,
    *,
    raw: Callable[[Draw], str],
    caption: Callable[[Draw], str],
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    text_length: int,
    crop_scale: tuple[float, float] = (0.9, 1.0),
    flip: bool = False,
    sides: Sides = "keep",
    form: CropForm = TORCHVISION,
) -> TripletBatch:
    """A raw text, a caption and a random square crop of every draw. `raw` and `caption` choose, with the draw's own generator; the raw
    text is drawn first, then the caption, then crop and flip."""
    text_pairs = [(raw(draw), caption(draw)) for draw in draws]
    seen = [
        view_with_texts(draw, pair, preprocess.size, crop_scale, flip, sides, form)
        for draw, pair in zip(draws, text_pairs, strict=True)
    ]
    texts = [pair for _, pair in seen]
    first, second = (tokenizer.encode([pair[path] for pair in texts], text_length) for path in (0, 1))
    mismatched = [-1 if (state := draw.sample.extras.get("mismatched")) is None else int(bool(state)) for draw in draws]
    return TripletBatch(
        image_BCHW=preprocess.batched([shown_HWC for shown_HWC, _ in seen], draws.uint8_images),
        text_BL=torch.from_numpy(first.ids_BL),
        text_mask_BL=torch.from_numpy(first.mask_BL),
        group_B=group_ids(draws),
        truncated=first.truncated + second.truncated,
        caption_BL=torch.from_numpy(second.ids_BL),
        caption_mask_BL=torch.from_numpy(second.mask_BL),
        mismatched_B=torch.tensor(mismatched, dtype=torch.int64),
    )


def choose_text(draw: Draw, language: str = "") -> Text:
    """Random text that describes the image, each equally likely: of `language` or of an unknown one, "" for any."""
    return UNIFORM(draw, language)


def view_with_texts(
    draw: Draw,
    texts: Sequence[str],
    size: int,
    crop_scale: tuple[float, float],
    flip: bool,
    sides: Sides,
    form: CropForm = TORCHVISION,
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], tuple[str, ...]]:
    """`view`, and what these texts say of it: where one says left or right the picture is not mirrored, or the words are turned too."""
    shown_HWC = view(draw, size, crop_scale, False, form)
    return mirrored(shown_HWC, texts, draw.rng, sides) if flip else (shown_HWC, tuple(texts))


def view(
    draw: Draw, size: int, crop_scale: tuple[float, float], flip: bool, form: CropForm = TORCHVISION
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Training view of an image: a random square crop if `crop_scale` is below 1, then mirrored or not."""
    image_HWC = pixels(draw)
    if crop_scale[0] < 1:
        image_HWC = random_crop(image_HWC, size, draw.rng, crop_scale, form)
    return flipped(image_HWC, draw.rng) if flip else image_HWC


def texts_by_origin(sample: Sample, origins: Sequence[str], language: str = "") -> list[Text]:
    """The texts of the first of these origins that the sample has, in `language` or an unknown one; empty when it has none."""
    texts = sample.positives(language)
    return next((matches for origin in origins if (matches := [text for text in texts if text.origin == origin])), [])


def pixels(draw: Draw) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The decoded image of a draw, or an error that names the sample without one."""
    if draw.image_HWC is None:
        raise DataError(f"sample '{draw.sample.uid}' has no image", field="image", expected="an image in every row")
    return draw.image_HWC


def group_ids(draws: Draws) -> Tensor:
    """group_B, int64: a hash of each sample's group, or of its uid when it has none; equal on every machine and in every run."""
    return torch.tensor([keyed_seed("group", draw.sample.group or draw.sample.uid) for draw in draws], dtype=torch.int64)
