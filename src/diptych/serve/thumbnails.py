"""Cache of thumbnails of the items of a pool."""

from __future__ import annotations

import threading
from collections import OrderedDict

from diptych.core.image import ArrayImage
from diptych.core.media import MediaItem, medium_of
from diptych.data.media.cloud_pictures import draw_cloud
from diptych.data.media.cloud_views import Up
from diptych.data.media.decode import small_webp

REMEMBERED = 64 << 20  # bytes


class ThumbnailCache:
    """WebP bytes by uid. Safe to call from many threads."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._room, self._held = remembered, 0
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, uid: str, side: int) -> bytes | None:
        with self._lock:
            if (uid, side) not in self._recent:
                return None
            self._recent.move_to_end((uid, side))
            return self._recent[uid, side]

    def put(self, uid: str, side: int, data: bytes) -> bytes:
        """Add a thumbnail; the least recently used ones are evicted."""
        with self._lock:
            self._held += len(data) - len(self._recent.pop((uid, side), b""))
            self._recent[uid, side] = data
            while self._held > self._room:
                self._held -= len(self._recent.popitem(last=False)[1])
        return data

    def forget(self, uid: str) -> None:
        """Drop the thumbnails of an item, of all its media."""
        with self._lock:
            for key in [key for key in self._recent if key[0] == uid or key[0].endswith(f"\n{uid}")]:
                self._held -= len(self._recent.pop(key))


def medium_webp(item: MediaItem, side: int, *, up: Up = "z") -> bytes:
    """Thumbnail of a medium, a clip, a cloud or a volume, as WebP of at most `side` pixels per side. up: the axis of a cloud that
    points up.

    Raises DecodeError, MissingExtra.
    """
    cloud = item.medium == "cloud"
    pixels_HWC = draw_cloud(item.decode(), side, up=up) if cloud else medium_of(item.medium).thumbnail(item, side=side)
    return small_webp(ArrayImage(pixels_HWC), side)
