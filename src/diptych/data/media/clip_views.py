"""Frame sampling and cropping of clips: one view in training, one or several at test time (X-CLIP, 2208.02816).

A `Reading` says how the pixels come. "released" is X-CLIP's pipeline: frames are resized as OpenCV does it, without smoothing, those of
just the right size as well (enlarged by 256/224, of which the middle is taken), and in training one frame is drawn of each of equal
stretches of whole frames, so that a rest at the end is never read; a clip with fewer frames than are read gives some of them several
times. "plain" smooths, takes frames of the right size as they are, cuts a clip into stretches that cover all of it, and refuses a shorter
one.

Letters: T frames, V views, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from diptych.core.errors import ConfigError, DataError
from diptych.core.media import MediaItem, Pixels, medium_of
from diptych.core.randomness import keyed_rng
from diptych.data.media.clip import frame_places
from diptych.data.media.opencv import bilinear, fitting_sides
from diptych.data.media.transforms import resized

SCALES = (1.0, 0.875, 0.75, 0.66)
NEAR = 3
"""A side of a crop that is less than this many pixels off the size that is wanted becomes that size."""
Reading = Literal["released", "plain"]


@dataclass(frozen=True, slots=True)
class ClipAugment:
    """Changes of a training clip. The same crop and mirror image for all frames, colours of each frame by itself, as released.

    crops   squares and near-squares of several sizes at five places; False takes the middle
    flip    half are mirrored: not for classes that say left or right
    jitter  chance that brightness, contrast, saturation and hue change; grey: that colours go
    reading see above
    """

    crops: bool = True
    flip: bool = True
    jitter: float = 0.8
    grey: float = 0.2
    reading: Reading = "released"

    def __call__(self, frame_THWC: Pixels, size: int, rng: np.random.Generator) -> Pixels:
        """uint8 [T, size, size, 3]."""
        if not self.crops:
            seen_THWC = middle(frame_THWC, size, self.reading)
        else:
            frame_THWC = short_side(frame_THWC, size * 256 // 224, self.reading)
            height, width = frame_THWC.shape[1:3]
            top, left, high, wide = _crop(height, width, size, rng)
            part_THWC = np.ascontiguousarray(frame_THWC[:, top : top + high, left : left + wide])
            seen_THWC = np.stack([_fitted(frame_HWC, size, self.reading) for frame_HWC in part_THWC])
        if self.flip and rng.random() < 0.5:
            seen_THWC = seen_THWC[:, :, ::-1]
        if self.jitter and rng.random() < self.jitter:
            seen_THWC = np.stack([_jittered(frame_HWC, rng) for frame_HWC in seen_THWC])
        if self.grey and rng.random() < self.grey:
            seen_THWC = np.stack([np.asarray(Image.fromarray(f).convert("L").convert("RGB")) for f in seen_THWC])
        return np.ascontiguousarray(seen_THWC)


def read_frames(
    item: MediaItem,
    frames: int,
    *,
    uid: str,
    rng: np.random.Generator | None = None,
    min_side: int = 0,
    reading: Reading = "released",
) -> Pixels:
    """One frame of each of `frames` stretches of equal length, the middle one or with `rng` any. Of a shorter clip see `Reading`."""
    _counted(item, frames, uid, reading)
    frame_THWC: Pixels = item.decode(frames=frames, rng=rng, min_side=min_side, whole=reading == "released")
    return frame_THWC


def view_places(count: int, frames: int, views: int) -> npt.NDArray[np.int64]:
    """[V, T]: the frames of each of several views, the same share of every stretch further on in each.

    The release draws them at random, so that its test is another one each time.

    >>> view_places(8, 4, 2).tolist()
    [[0, 2, 4, 6], [1, 3, 5, 7]]
    """
    within_V1 = ((np.arange(views) + 0.5) / views)[:, None]
    index_VT: npt.NDArray[np.int64] = np.minimum(((np.arange(frames) + within_V1) * count / frames).astype(np.int64), count - 1)
    return index_VT


def _drawn_places(count: int, frames: int, views: int, uid: str, reading: Reading) -> npt.NDArray[np.int64]:
    rng = keyed_rng("views", uid)
    return np.stack([frame_places(count, frames, rng, whole=reading == "released") for _ in range(views)])


def clip_views(
    item: MediaItem,
    frames: int,
    size: int,
    *,
    uid: str,
    clips: int = 1,
    crops: int = 1,
    reading: Reading = "released",
    drawn: bool = False,
) -> Pixels:
    """uint8 [V, T, size, size, 3] with V = clips * crops. One crop is the middle of 256/224 of the size, as in training; three
    lie side by side along the longer side, whose shorter one is the size.

    drawn  several clips are drawn as in training, as released, by the name of the sample; else they are spread evenly (`view_places`)
    """
    if crops not in (1, 3) or clips < 1:
        raise ConfigError(f"{clips} clips of {crops} crops (expected one clip or more, and 1 or 3 crops)")
    count = _counted(item, frames, uid, reading)
    if clips == 1:
        read: Pixels = item.decode(frames=frames)
        parts = read[None]
    else:
        whole: Pixels = item.decode()
        parts = whole[_drawn_places(count, frames, clips, uid, reading) if drawn else view_places(count, frames, clips)]
    return np.concatenate([_crops(part_THWC, size, crops, reading) for part_THWC in parts])


def _counted(item: MediaItem, frames: int, uid: str, reading: Reading) -> int:
    medium: Any = medium_of(item.medium)
    count: int = medium.count(item)
    if count < frames and reading == "plain":
        raise DataError(f"the clip of '{uid}' has {count} frames", file=item.name, field="clip", expected=f"{frames} or more")
    return count


def short_side(frame_THWC: Pixels, size: int, reading: Reading = "released") -> Pixels:
    """The frames with a shorter side of this many pixels, bilinearly."""
    height, width = frame_THWC.shape[1:3]
    if min(height, width) == size:
        return frame_THWC
    if reading == "released":
        sides = fitting_sides(height, width, size)
        return np.stack([bilinear(frame_HWC, *sides) for frame_HWC in frame_THWC])
    factor = size / min(height, width)
    shape = (max(size, round(width * factor)), max(size, round(height * factor)))
    return np.stack([np.asarray(Image.fromarray(f).resize(shape, Image.Resampling.BILINEAR)) for f in frame_THWC])


def middle(frame_THWC: Pixels, size: int, reading: Reading = "released") -> Pixels:
    """The middle square of a shorter side of 256/224 times the size."""
    if reading == "plain" and frame_THWC.shape[1:3] == (size, size):
        return frame_THWC
    large_THWC = short_side(frame_THWC, size * 256 // 224, reading)
    top, left = ((side - size) // 2 for side in large_THWC.shape[1:3])
    return large_THWC[:, top : top + size, left : left + size]


def _crops(frame_THWC: Pixels, size: int, crops: int, reading: Reading) -> Pixels:
    if crops == 1:
        return middle(frame_THWC, size, reading)[None]
    fitted_THWC = short_side(frame_THWC, size, reading)
    step_y, step_x = ((side - size) // 2 for side in fitted_THWC.shape[1:3])
    corners = [(step_y * part, step_x * part) for part in (0, 1, 2)]
    return np.stack([fitted_THWC[:, y : y + size, x : x + size] for y, x in corners])


def _fitted(frame_HWC: Pixels, size: int, reading: Reading) -> Pixels:
    return bilinear(frame_HWC, size, size) if reading == "released" else resized(frame_HWC, size)


def _crop(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width): sides from `SCALES` that are at most one step apart, at a corner or in the middle."""
    side = min(height, width)
    pairs = [(a, b) for i, a in enumerate(SCALES) for j, b in enumerate(SCALES) if abs(i - j) <= 1]
    share_y, share_x = pairs[int(rng.integers(len(pairs)))]
    high, wide = (size if abs(int(side * share) - size) < NEAR else int(side * share) for share in (share_y, share_x))
    down, right = (height - high) // 4, (width - wide) // 4
    corners = [(0, 0), (0, 4 * right), (4 * down, 0), (4 * down, 4 * right), (2 * down, 2 * right)]
    top, left = corners[int(rng.integers(len(corners)))]
    return top, left, high, wide


def _jittered(frame_HWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness and contrast by 0.6 to 1.4, saturation by 0.8 to 1.2, hue by up to a tenth of the circle, in random order."""
    image = Image.fromarray(frame_HWC)
    for step in rng.permutation(4):
        if step == 3:
            hsv_HWC = np.array(image.convert("HSV"))
            hsv_HWC[..., 0] = (hsv_HWC[..., 0].astype(np.int64) + int(rng.uniform(-0.1, 0.1) * 255)) % 256
            image = Image.fromarray(hsv_HWC, "HSV").convert("RGB")
        else:
            kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
            image = kind(image).enhance(rng.uniform(0.8, 1.2) if step == 2 else rng.uniform(0.6, 1.4))
    return np.asarray(image)
