"""Frames of a video file through PyAV (extra `video`).  Letters: T frames, H W pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.media import MediaItem, MediaLimit, Pixels

SUFFIXES = ("mp4", "m4v", "mov", "mkv", "webm", "avi")
_MARKS = (b"ftyp", b"\x1aE\xdf\xa3", b"RIFF")


def is_video(data: bytes) -> bool:
    """True if bytes begin like a video container: MP4 and QuickTime, Matroska and WebM, AVI."""
    return data[4:8] == _MARKS[0] or data.startswith(_MARKS[1]) or (data.startswith(_MARKS[2]) and data[8:12] == b"AVI ")


def count_frames(data: bytes, item: MediaItem) -> int:
    """Number of frames that can be decoded. Headers may lie, so packets are counted, which decodes nothing."""
    with _open_container(data, item) as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def read_video(data: bytes, item: MediaItem, limit: MediaLimit, frame_indices: Callable[[int], npt.NDArray[np.int64]]) -> Pixels:
    """uint8 [T, H, W, 3]: the frames at `places(number of frames)`, in that order; frames between them are decoded and dropped."""
    count = count_frames(data, item)
    if not count:
        raise DecodeError("contains no frame", file=item.name, medium=item.medium)
    if count > limit.parts:
        raise DecodeError(f"{count:,} frames are more than the limit of {limit.parts:,}", file=item.name, medium=item.medium)
    chosen = frame_indices(count).tolist()
    needed, frames, last = set(chosen), dict[int, Pixels](), max(chosen)
    with _open_container(data, item) as container:
        stream = container.streams.video[0]
        if len(needed) * stream.codec_context.width * stream.codec_context.height > limit.elements:
            raise DecodeError(
                f"{len(needed)} frames have more than {limit.elements:,} pixels", file=item.name, medium=item.medium
            )
        try:
            for number, frame in enumerate(container.decode(stream)):
                if number in needed:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if number >= last:
                    break
        except Exception as error:  # decoders raise anything on hostile bytes
            raise DecodeError(_reason(error), file=item.name, medium=item.medium) from error
    if missing := sorted(needed - set(frames)):
        raise DecodeError(f"frame {missing[0]} of {count} cannot be decoded", file=item.name, medium=item.medium)
    return np.stack([frames[number] for number in chosen])


def _open_container(data: bytes, item: MediaItem) -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra("av", "video", needed_for=f"the video file {item.name}") from None
    try:
        container = av.open(io.BytesIO(data), mode="r")
    except Exception as error:  # the library raises what FFmpeg says
        raise DecodeError(_reason(error), file=item.name, medium=item.medium) from error
    if not container.streams.video:
        container.close()
        raise DecodeError("has no video stream", file=item.name, medium=item.medium)
    return container


def _reason(error: Exception) -> str:
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
