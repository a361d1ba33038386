"""Search hits: a list, with a table for export and thumbnails in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample
from diptych.core.terminal import notebook
from diptych.index.exact import Hit

Pictures = Callable[[str], "ImageSource | None"]


class Hits(list[Hit]):
    """List of hits, best first. `pictures` gives the image of a uid, where the data are available."""

    def __init__(self, hits: Iterable[Hit] = (), *, pictures: Pictures | None = None) -> None:
        super().__init__(hits)
        self.pictures = pictures

    def rows(self) -> list[dict[str, Any]]:
        """One row per hit: uid, score, and the columns of the index."""
        return [{"uid": hit.uid, "score": hit.score, **hit.payload} for hit in self]

    def to_pandas(self) -> Any:
        return notebook.frame(self.rows())

    def _repr_html_(self) -> str:
        rows = self.rows()[: notebook.SHOWN]
        if self.pictures is None:
            return notebook.table(rows)
        return notebook.table([{"": notebook.thumbnail(self.pictures(row["uid"])), **row} for row in rows], raw=("",))


def pictures_of(data: Any) -> Pictures:
    """Images of a data set by uid, of a sample without one the thumbnail of its first medium; its uids are listed when the first is
    requested.
    """
    row_of: dict[str, int] = {}

    def picture(uid: str) -> ImageSource | None:
        if not row_of:
            row_of.update((name, row) for row, name in enumerate(data.uids))
        return _shown(data[row_of[uid]]) if uid in row_of else None

    return picture


def _shown(sample: Sample) -> ImageSource | None:
    if sample.image is not None or sample.shown is None:
        return sample.image
    try:
        return ArrayImage(sample.shown.thumbnail(), sample.uid)
    except (DecodeError, MissingExtra):
        return None
