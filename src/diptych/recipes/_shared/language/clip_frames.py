"""Frames of a clip for recipes that read clips and images alike.  Letters: T frames, C channel, H W."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.core.media import MediaItem, Pixels
from diptych.core.sample import Sample
from diptych.data.media.clip import Clip, spared_places
from diptych.data.media.transforms import Preprocess, flipped, random_crop

Short = Literal["refuse", "repeat", "early", "last"]
"""A clip of fewer frames is refused, gives some of them several times, its early ones more often than the late (each so many times that
there are enough, of which the first are taken, as PLLaVA's projector has it), or its last one again and again, as PLLaVA reads videos."""


def read_frames(
    sample: Sample,
    medium: str,
    frames: int,
    rng: np.random.Generator | None,
    *,
    short: Short = "refuse",
    min_side: int = 0,
    released: bool = False,
) -> Pixels:
    """uint8 [T, H, W, 3] of a sample's clip, one frame of each of `frames` equal stretches, or its image so many times.

    rng  draws within the stretches; None takes their middles
    released  frames are drawn as PLLaVA's release draws them (`spared_places`)
    Raises DataError for a sample with neither, and for a clip of fewer frames where `short` is "refuse".
    """
    if medium not in sample.media:
        if sample.image is None:
            raise DataError(f"sample '{sample.uid}' has no {medium} and no image", field=medium, expected="one of both")
        image_HWC: Pixels = MediaItem("image", (sample.image,)).decode(min_side=min_side)
        return np.repeat(image_HWC[None], frames, 0)
    item, clip = sample.media[medium], Clip()
    count = frames if short == "repeat" else clip.count(item)
    if short == "early" and count < frames:
        frame_THWC: Pixels = clip.decode(item, min_side=min_side)
        return frame_THWC.repeat(frames // count + 1, 0)[:frames]
    if short == "last" and count < frames:
        every_THWC: Pixels = clip.decode(item, min_side=min_side)
        return every_THWC[np.minimum(np.arange(frames), count - 1)]
    if short == "refuse" and count < frames:
        raise DataError(
            f"sample '{sample.uid}' has {count} frames",
            field=medium,
            expected=f"{frames} or more, fewer frames to read, or short_clips 'repeat'",
        )
    if released and rng is not None:
        return clip.decode(item, positions=lambda every: spared_places(every, frames, rng), min_side=min_side)
    return clip.decode(item, frames=frames, rng=rng, min_side=min_side)


def clip_views(
    clips: Sequence[Pixels], rngs: Sequence[np.random.Generator], preprocess: Preprocess, crop: tuple[float, float], flip: bool
) -> Tensor:
    """Normalised clips [B, T, C, H, W]; crop and mirror image are the same for all frames of a clip."""
    made = []
    for frame_THWC, rng in zip(clips, rngs, strict=True):
        state = rng.bit_generator.state
        views = []
        for frame_HWC in frame_THWC:
            rng.bit_generator.state = state
            seen_HWC = random_crop(frame_HWC, preprocess.size, rng, crop) if crop[0] < 1 else frame_HWC
            views.append(flipped(seen_HWC, rng) if flip else seen_HWC)
        made.append(preprocess(views))
    return torch.stack(made)
