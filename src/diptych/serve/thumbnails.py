"""Small pictures of the items of a pool, encoded anew and remembered for a while."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import replace

from PIL import Image

from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.media import MediaItem, medium_of

REMEMBERED = 64 << 20  # bytes


class Thumbnails:
    """WebP bytes by uid. Safe to call from many threads."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._room, self._held = remembered, 0
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def known(self, uid: str, side: int) -> bytes | None:
        with self._lock:
            if (uid, side) not in self._recent:
                return None
            self._recent.move_to_end((uid, side))
            return self._recent[uid, side]

    def make(self, uid: str, item: MediaItem, side: int, max_pixels: int) -> bytes | None:
        """At most `side` pixels a side, never enlarged; None when the medium cannot be read. A picture may have `max_pixels`; other
        media keep the limit of their kind."""
        medium = medium_of(item.medium)
        limit = replace(medium.limit, elements=max_pixels) if item.medium == "image" else medium.limit
        try:
            picture = Image.fromarray(medium.thumbnail(item, side=side, limit=limit))
        except (DecodeError, MissingExtra, OSError):
            return None
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=85)
        data = buffer.getvalue()
        with self._lock:
            self._held += len(data) - len(self._recent.pop((uid, side), b""))
            self._recent[uid, side] = data
            while self._held > self._room:
                self._held -= len(self._recent.popitem(last=False)[1])
        return data
