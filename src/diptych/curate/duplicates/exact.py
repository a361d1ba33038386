"""Drop exact duplicates: images with the file or the pixels of one that is kept.

Keeps, of equal images, the one whose uid comes first. Cost: a million files need one read each (pixels: one decode each) and
32 bytes of memory a row. Never touches rows without an image, and never compares texts: a dropped row's captions go with it, and
the column ``duplicate_of`` says where they belong, should you want to add them there.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.data.media.decode import decode


@dataclass(frozen=True)
class ExactDuplicates:
    """pixels  compare decoded pixels instead of the files' bytes: finds the same picture saved in two lossless formats"""

    slug: ClassVar[str] = "exact_duplicates"

    pixels: bool = False

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, self._digest, unit="decode" if self.pixels else "read")

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        kept: list[str] = []
        dropped: list[Drop] = []
        original: dict[str, str] = {}
        first: dict[bytes, str] = {}
        order = sorted(range(len(data)), key=data.uids.__getitem__)
        for row in with_bar(order, len(order), "looking at pictures", least=100):
            uid, image = data.uids[row], data[row].image
            if image is None:
                kept.append(uid)
                continue
            try:
                digest = self._digest(image)
            except (DecodeError, OSError) as error:
                dropped.append(Drop(uid, self.slug, f"unreadable: {error}"))
                continue
            if digest in first:
                original[uid] = first[digest]
                dropped.append(Drop(uid, self.slug, f"same {'pixels' if self.pixels else 'bytes'} as {first[digest]}"))
            else:
                first[digest] = uid
                kept.append(uid)
        columns = {"duplicate_of": original} if original else {}
        return CurationStepResult(tuple(kept), tuple(dropped), columns, time.perf_counter() - start)

    def _digest(self, image: ImageSource) -> bytes:
        if self.pixels:
            pixels = decode(image, exact=True)
        elif isinstance(image, ArrayImage):
            pixels = image.pixels_HWC
        else:
            return hashlib.sha256(image.read()).digest()
        return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
