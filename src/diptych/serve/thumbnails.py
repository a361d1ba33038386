"""Small pictures of the items of a pool, encoded anew and remembered for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property

from diptych.core.contracts import Dataset
from diptych.core.errors import DecodeError

REMEMBERED = 2000


class Thumbnails:
    """WebP bytes by uid. Safe to call from many threads."""

    def __init__(self, pool: Dataset) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {uid: row for row, uid in enumerate(self._pool.uids)}

    def get(self, uid: str, side: int) -> bytes | None:
        """At most `side` pixels a side; None when there is no such item, no image, or one that cannot be read."""
        with self._lock:
            if (uid, side) in self._recent:
                self._recent.move_to_end((uid, side))
                return self._recent[uid, side]
            row = self._rows.get(uid)
        image = None if row is None else self._pool[row].image
        if image is None:
            return None
        import io

        from PIL import Image

        from diptych.data.decode import decode

        try:
            picture = Image.fromarray(decode(image, min_side=side))
        except (DecodeError, OSError):
            return None
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=85)
        with self._lock:
            self._recent[uid, side] = buffer.getvalue()
            while len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        return buffer.getvalue()
