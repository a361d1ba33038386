"""A clip: frames in order of time. Pictures of one size, one animated GIF, WebP or PNG, or a video file (extra `video`).

Letters: T frames, H W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import ArraySource, MediaFacts, MediaItem, MediaLimit, Pixels, Source
from diptych.data.media.decode import FORMATS, on_white, probe
from diptych.data.media.encoded import NUMPY, array_of, read_npy, read_part, read_parts, refuse_elements, write_npy
from diptych.data.media.formats.video_file import SUFFIXES, count_frames, is_video, read_video
from diptych.data.media.picture import decode_part, encoded_picture, read_pictures

Places = Callable[[int], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a video. Never more than the limit of them are decoded at once: request as many as the model reads."""

    name: str = "clip"
    suffixes: tuple[str, ...] = SUFFIXES
    limit: MediaLimit = MediaLimit(bytes=1 << 30, elements=400_000_000, parts=4096)

    def decode(
        self,
        item: MediaItem,
        *,
        limit: MediaLimit | None = None,
        frames: int = 0,
        min_side: int = 0,
        rng: np.random.Generator | None = None,
        whole: bool = False,
        positions: Places | None = None,
    ) -> Pixels:
        """uint8 [T, H, W, 3]: all frames, or `frames` of them, see `frame_places`.

        positions  of so many frames, those to read, in place of `frames`, `rng` and `whole`
        min_side  decode JPEG frames at the smallest scale whose short side is at least this many pixels; 0: full size
        """
        limit = limit or self.limit
        return self._at(item, limit, positions or (lambda count: frame_places(count, frames, rng, whole=whole)), min_side)

    def count(self, item: MediaItem, *, limit: MediaLimit | None = None) -> int:
        """Number of frames. Nothing is decoded."""
        limit = limit or self.limit
        if len(item.parts) > 1:
            return len(item.parts)
        if (frame_THWC := array_of(item)) is not None:
            return len(frame_THWC)
        if isinstance(item.parts[0], ArrayImage):
            return 1
        data = read_parts(item, limit)[0]
        if data.startswith(NUMPY):
            return len(read_npy(data, item, replace(limit, elements=3 * limit.elements), "values"))
        return count_frames(data, item) if is_video(data) else probe(data, name=item.name, max_pixels=limit.elements).frames

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        """The frame in the middle."""
        frame_HWC: Pixels = self._at(item, limit or self.limit, lambda count: frame_places(count, 1), side)[0]
        return frame_HWC

    def facts(self, content: Pixels) -> MediaFacts:
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part: Source) -> tuple[bytes, str]:
        """A frame or an animation as it is; uint8 [T, H, W, 3] in memory as .npy."""
        if isinstance(part, ArraySource):
            return write_npy(part.array), "npy"
        if not isinstance(part, ArrayImage):
            data = read_part(part, self.name)
            if data.startswith(NUMPY):
                return data, "npy"
            if is_video(data):
                return data, "webm" if data.startswith(b"\x1aE") else "avi" if data.startswith(b"RIFF") else "mp4"
        return encoded_picture(part, self.name)

    def _at(self, item: MediaItem, limit: MediaLimit, frame_indices: Places, min_side: int) -> Pixels:
        """The frames at `places(number of frames)`."""
        if len(item.parts) > 1 or isinstance(item.parts[0], ArrayImage):
            return _pictures(item, limit, frame_indices, min_side)
        frame_THWC = array_of(item)
        if frame_THWC is None:
            data = read_parts(item, limit)[0]
            if is_video(data):
                return read_video(data, item, limit, frame_indices)
            if not data.startswith(NUMPY):
                return _read_animation(data, item, limit, frame_indices, min_side)
            frame_THWC = read_npy(data, item, replace(limit, elements=3 * limit.elements), "values")
        return np.ascontiguousarray(_check_frames(frame_THWC, item, limit)[frame_indices(len(frame_THWC))])


def frame_places(
    count: int, frames: int, rng: np.random.Generator | None = None, *, whole: bool = False
) -> npt.NDArray[np.int64]:
    """Which of `count` frames to read: the clip is cut into `frames` stretches of equal length and one frame is taken of each, the
    one in its middle, or with `rng` any of them with equal chance (temporal segment networks, 1608.00859). 0 takes all.

    A clip with fewer frames gives some of them several times. With `whole`, what is drawn comes from stretches of a whole number
    of frames, after which a rest stays unread; of a clip with fewer, nothing is drawn, and the last place may be the first again
    (mmaction2's `SampleFrames`, X-CLIP).

    >>> frame_places(10, 4).tolist(), frame_places(3, 6).tolist()
    ([1, 3, 6, 8], [0, 0, 1, 1, 2, 2])
    """
    if frames < 0 or count < 1:
        raise DataError(f"{frames} of {count} frames", field="frames", expected="0 for all, or at least 1")
    if frames == 0:
        return np.arange(count)
    if whole and rng is not None:
        if count < frames:
            place_F: npt.NDArray[np.int64] = np.rint(np.arange(frames) * (count / frames)).astype(np.int64)
            return place_F % count
        return np.arange(frames) * (count // frames) + rng.integers(count // frames, size=frames)
    within = np.full(frames, 0.5) if rng is None else rng.random(frames)
    return np.minimum(((np.arange(frames) + within) * count / frames).astype(np.int64), count - 1)


def spared_places(count: int, frames: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which of `count` frames PLLaVA's release learns from (VideoChat2's `get_frame_indices`): one of each stretch between whole numbers,
    never the last of it. Where a stretch has a single frame, so many of all frames without repeats, in order; the last again and again
    where there are fewer.

    >>> spared_places(8, 4, np.random.default_rng(0)).tolist(), spared_places(3, 5, np.random.default_rng(0)).tolist()
    ([0, 2, 4, 6], [0, 1, 2, 2, 2])
    """
    read = min(frames, count)
    edges = np.linspace(0, count, read + 1).astype(np.int64)
    spans = np.diff(edges) - 1
    place_F = edges[:-1] + rng.integers(spans) if spans.min() > 0 else np.sort(rng.permutation(count)[:read])
    return np.concatenate([place_F, np.full(frames - read, place_F[-1])])


def rounded_places(count: int, frames: int) -> npt.NDArray[np.int64]:
    """Which of `count` frames PLLaVA's release answers about (`get_index` of its evaluations, as in MVBench): rounded beginnings of equal
    stretches before the last frame, half a stretch later.

    >>> rounded_places(100, 4).tolist(), frame_places(100, 4).tolist(), rounded_places(2, 4).tolist()
    ([12, 37, 62, 86], [12, 37, 62, 87], [0, 0, 0, 1])
    """
    stretch = (count - 1) / frames
    return (stretch / 2 + np.round(stretch * np.arange(frames))).astype(np.int64)


def _pictures(item: MediaItem, limit: MediaLimit, frame_indices: Places, min_side: int) -> Pixels:
    """Frames stored as single pictures. Only the requested ones are read."""
    if len(item.parts) > limit.parts:
        raise DecodeError(_too_many(len(item.parts), limit), file=item.name, medium=item.medium)
    chosen = MediaItem(item.medium, tuple(item.parts[index] for index in frame_indices(len(item.parts)).tolist()))
    read = read_pictures(chosen, limit)
    frames = [decode_part(part, item.medium, limit, min_side) for part in read]
    for part, frame_HWC in zip(read, frames, strict=True):
        if frame_HWC.shape != frames[0].shape:
            first, this = (f"{shape[1]} x {shape[0]}" for shape in (frames[0].shape, frame_HWC.shape))
            raise DecodeError(f"is {this} pixels but the first frame is {first}", file=part.name, medium=item.medium)
    return np.stack(frames)


def _read_animation(data: bytes, item: MediaItem, limit: MediaLimit, frame_indices: Places, min_side: int) -> Pixels:
    """Frames of one file. Each is what a viewer shows at that time: what a frame leaves out is that of the frame before."""
    try:
        info = probe(data, name=item.name, max_pixels=limit.elements)
        if info.frames == 1:
            return _pictures(MediaItem(item.medium, (BytesImage(data, item.name),)), limit, frame_indices, min_side)
        if info.frames > limit.parts:
            raise DecodeError(_too_many(info.frames, limit), file=item.name)
        chosen = frame_indices(info.frames).tolist()
        refuse_elements(len(set(chosen)) * info.width * info.height, "pixels", item, limit)
        frames: dict[int, Pixels] = {}
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            for index in sorted(set(chosen)):
                image.seek(index)
                frames[index] = on_white(np.asarray(image.convert("RGBA")))
        return np.stack([frames[index] for index in chosen])
    except DecodeError as error:
        raise DecodeError(error.problem, file=error.file, expected=error.expected, medium=item.medium) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"cannot be decoded: {reason} ({len(data):,} bytes)", file=item.name, medium=item.medium) from error


def _too_many(count: int, limit: MediaLimit) -> str:
    return f"{count:,} frames are more than the limit of {limit.parts:,}"


def _check_frames(frame_THWC: npt.NDArray[Any], item: MediaItem, limit: MediaLimit) -> Pixels:
    if frame_THWC.dtype != np.uint8 or frame_THWC.ndim != 4 or frame_THWC.shape[3] != 3 or not frame_THWC.size:
        came = f"{frame_THWC.dtype} {list(frame_THWC.shape)}"
        raise DecodeError(f"frames are {came}", file=item.name, medium=item.medium, expected="uint8 [T, H, W, 3]")
    if len(frame_THWC) > limit.parts:
        raise DecodeError(_too_many(len(frame_THWC), limit), file=item.name, medium=item.medium)
    refuse_elements(frame_THWC.size // 3, "pixels", item, limit)
    return frame_THWC
