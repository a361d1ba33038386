"""Thumbnails as data URIs, small enough to put hundreds into one page."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.contracts import Dataset
from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.media.decode import encode_webp


def thumbnail(item: MediaItem, *, side: int = 96) -> str:
    """Data URI of a medium, its longer side at most `side` pixels; one that cannot be shown becomes a grey square."""
    try:
        pixels_HWC = item.thumbnail()
    except (DecodeError, MissingExtra):
        pixels_HWC = np.full((side, side, 3), 200, np.uint8)
    return data_uri(pixels_HWC, side=side)


def data_uri(pixels_HWC: npt.NDArray[np.uint8], *, side: int = 96) -> str:
    """Data URI of uint8 RGB [H, W, 3] as a WebP of at most `side` pixels per side."""
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return "data:image/webp;base64," + base64.b64encode(encode_webp(np.asarray(image), quality=82)).decode()


class Album:
    """Thumbnails and captions of a data set by uid, each made once."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self._row = {uid: row for row, uid in enumerate(data.uids)}
        self._made: dict[str, tuple[str, str]] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._row

    def sample(self, uid: str) -> Sample:
        return self.data[self._row[uid]]

    def of(self, uid: str) -> tuple[str, str]:
        """(data URI, first caption) of a sample."""
        if uid not in self._made:
            sample = self.sample(uid)
            words = next((text.string for text in sample.positives("en")), "") or next((t.string for t in sample.positives()), "")
            picture = thumbnail(sample.shown) if sample.shown else data_uri(np.full((8, 8, 3), 235, np.uint8))
            self._made[uid] = (picture, words)
        return self._made[uid]

    def present(self, uids: Iterable[str]) -> list[str]:
        return [uid for uid in uids if uid in self._row]
