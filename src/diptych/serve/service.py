"""What all routes share: models with their indexes, the data, the limits, and the one way into a model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from diptych.core.contracts import Dataset, Detector, Embedder, TokenEmbedder
from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.index.base import Index
from diptych.index.facts import Info
from diptych.serve.batching import Batcher, Finish, Job, QueueFull, Stopped
from diptych.serve.facets import facets
from diptych.serve.limits import Limits
from diptych.serve.metrics import Metrics
from diptych.serve.pictures import kept, picture_of
from diptych.serve.refusals import Refused
from diptych.serve.thumbnails import Thumbnails

T = TypeVar("T")

UNSHOWN = ("uid", "caption", "text", "group")  # columns that differ from item to item


@dataclass(frozen=True, eq=False)
class Side:
    """A model and the index that it built. A service has one, or several to be compared.

    name   what requests call it
    model  anything that answers a capability: Embedder, TokenEmbedder, Detector
    """

    name: str
    model: Any
    index: Index | None = None

    @cached_property
    def facts(self) -> Info | None:
        """What the index holds, read once."""
        return None if self.index is None else self.index.info

    @property
    def embeds(self) -> bool:
        return isinstance(self.model, Embedder)

    @property
    def detects(self) -> bool:
        return isinstance(self.model, Detector)

    @property
    def aligns(self) -> str:
        """How a text is laid over a picture: by the model's own patches and words, by covering parts, or ""."""
        return "patches" if isinstance(self.model, TokenEmbedder) else "occlusion" if self.embeds else ""


class Service:
    """Everything behind the routes. `close` it to finish what is in the queue."""

    def __init__(self, sides: Sequence[Side], *, detector: Any = None, pool: Dataset | None = None, limits: Limits) -> None:
        self.sides = {side.name: side for side in sides}
        self.first = sides[0]
        self.detector = detector if detector is not None else next((side.model for side in sides if side.detects), None)
        self.pool, self.limits = pool, limits
        self.draining = False
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = Batcher(queue=limits.queue, room=limits.queue_bytes, batch=limits.batch, observed=self.metrics.batch)
        self.thumbnails = Thumbnails()
        self._facets: dict[str, dict[str, dict[str, Any]]] = {}
        for side in sides:
            if side.index is not None:  # read now: later the model's thread is alone with the index
                side.index.deepest = limits.depth
                _ = side.facts
                self._facets[side.name] = facets(pool, frozenset(side.index.uids()))
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="diptych-decode")

    def side(self, name: str | None) -> Side:
        if not name:
            return self.first
        if name not in self.sides:
            known = " or ".join(f"'{known}'" for known in self.sides)
            raise Refused(404, f"unknown model '{name[:80]}'; this service has {known}")
        return self.sides[name]

    async def ask(
        self,
        model: Any,
        finish: Finish,
        *,
        texts: Sequence[str] = (),
        images: Sequence[ImageSource] = (),
        inside: Sequence[ImageSource] = (),
        times: int = 1,
    ) -> Any:
        """Embed and finish in the model's thread. Raises Refused: 429 when the queue is full, 503 when it took too long.

        inside, times  pictures that `finish` gives to the model by itself, and how often
        """
        held = sum(map(_bytes, (*images, *inside)))
        try:
            future = self.batcher.submit(Job(model, finish, texts, images, inside=times * len(inside), bytes=held))
        except QueueFull as full:
            self.metrics.refused("queue")
            raise Refused(429, "too many requests wait for the model: try again later", retry_after=full.seconds) from None
        except Stopped:
            raise Refused(503, "the service is stopping", retry_after=5) from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError:
            self.metrics.refused("time")
            raise Refused(503, f"no answer within {self.limits.seconds:g} seconds", retry_after=5) from None

    async def aside(self, work: Callable[[], T]) -> T:
        """Work on pictures, outside of the model's thread and of the server's loop."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def picture(self, encoded: str, name: str) -> ImageSource:
        """A picture of a request, checked and decoded."""
        return await self.aside(lambda: picture_of(encoded, name, self.limits))

    async def item_picture(self, uid: str) -> ImageSource:
        """The picture of an item, decoded. Raises Refused: 404 without data, item or image."""
        pool, row = self.row(uid)
        return await self.aside(lambda: _picture(pool, row, self.limits))

    @cached_property
    def rows(self) -> Mapping[str, int]:
        return {} if self.pool is None else {uid: row for row, uid in enumerate(self.pool.uids)}

    def row(self, uid: str) -> tuple[Dataset, int]:
        """Where an item is. Raises Refused (404) without data or such an item."""
        if self.pool is None:
            raise Refused(404, "this service shows no items: it was started without their data (diptych serve ... --data)")
        if uid not in self.rows:
            raise Refused(404, "no item has that uid")
        return self.pool, self.rows[uid]

    def facets(self, side: Side) -> dict[str, dict[str, Any]]:
        """The columns that can be filtered by: their kind, and their values or range where the data tell."""
        if side.facts is None:
            return {}
        columns = {name: kind for name, kind in sorted(side.facts.columns.items()) if name not in UNSHOWN}
        return {name: {"kind": kind, **self._facets[side.name].get(name, {})} for name, kind in columns.items()}

    def close(self) -> None:
        self.batcher.close()
        self._decoders.shutdown()


def _bytes(image: ImageSource) -> int:
    return image.pixels_HWC.nbytes if isinstance(image, ArrayImage) else len(image.data) if isinstance(image, BytesImage) else 0


def _picture(pool: Dataset, row: int, limits: Limits) -> ImageSource:
    image = pool[row].image
    if image is None:
        raise Refused(404, "that item has no image")
    try:
        return kept(image, "the image of that item", limits)
    except DecodeError:
        raise Refused(404, "the image of that item cannot be read") from None
