"""The hits of a search: a list, with a table to take away and thumbnails in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from diptych.core.image import ImageSource
from diptych.core.terminal import notebook
from diptych.index.exact import Hit

Pictures = Callable[[str], "ImageSource | None"]


class Hits(list[Hit]):
    """Best first. `pictures` gives the image of a uid, where the data are at hand."""

    def __init__(self, hits: Iterable[Hit] = (), *, pictures: Pictures | None = None) -> None:
        super().__init__(hits)
        self.pictures = pictures

    def rows(self) -> list[dict[str, Any]]:
        """A row a hit: uid, score, and the columns of the index."""
        return [{"uid": hit.uid, "score": hit.score, **hit.payload} for hit in self]

    def to_pandas(self) -> Any:
        return notebook.frame(self.rows())

    def _repr_html_(self) -> str:
        rows = self.rows()[: notebook.SHOWN]
        if self.pictures is None:
            return notebook.table(rows)
        return notebook.table([{"": notebook.thumbnail(self.pictures(row["uid"])), **row} for row in rows], raw=("",))


def pictures_of(data: Any) -> Pictures:
    """The images of a data set by uid; its uids are listed when the first one is asked for."""
    place: dict[str, int] = {}

    def picture(uid: str) -> ImageSource | None:
        if not place:
            place.update((name, row) for row, name in enumerate(data.uids))
        return data[place[uid]].image if uid in place else None

    return picture
