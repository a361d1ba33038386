"""State that all routes share: models with their indexes, the data, the limits, and the queue to each model."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from diptych.core.contracts import Detector, Embedder, Generator, LexicalEmbedder, Ranker, WordMapper
from diptych.core.errors import DecodeError, MissingExtra, RunError, TooLarge
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.machine import usable_cores
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.media.cloud_views import Up
from diptych.data.media.decode import decode, small_webp
from diptych.index.base import Index
from diptych.index.facts import IndexInfo
from diptych.index.gone import read_gone
from diptych.pipelines.alignment import method_of
from diptych.serve.admission.limits import Limits
from diptych.serve.admission.memory import MemoryBudget
from diptych.serve.batching import Batcher, BatcherStopped, EmbeddingJob, Finish, QueueFull
from diptych.serve.collection.item_writer import ItemWriter
from diptych.serve.collection.served_data import ServedData
from diptych.serve.decoders import DecoderPool
from diptych.serve.facets import facets
from diptych.serve.indexed_uids import count_missing, evenly_spaced, indexed_uids
from diptych.serve.metrics import Metrics
from diptych.serve.pictures import bytes_of
from diptych.serve.refusals import RequestError
from diptych.serve.thumbnails import ThumbnailCache, medium_webp

T = TypeVar("T")

CLOSE_SECONDS = 2.0
"""For the model's thread, once every request has been answered or given up."""
OVERVIEW_SECONDS = 2.0
"""Facets are computed again after this long, where items change."""
HIDDEN_COLUMNS = ("uid", "caption", "text", "group")  # columns that differ from item to item


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model and the index that it built. A service has one, or several to be compared.

    name   what requests call it
    model  anything that answers a capability: Embedder, TokenEmbedder, Detector, Generator
    """

    name: str
    model: Any
    index: Index | None = None

    @cached_property
    def facts(self) -> IndexInfo | None:
        """Facts of the index (kind, size, dimensions), read once; None without an index."""
        return None if self.index is None else self.index.info

    @property
    def embeds(self) -> bool:
        return isinstance(self.model, Embedder)

    @property
    def detects(self) -> bool:
        return isinstance(self.model, Detector)

    @property
    def writes(self) -> bool:
        return isinstance(self.model, Generator)

    @property
    def ranks(self) -> bool:
        """True if the model gives likelihoods of candidate answers."""
        return isinstance(self.model, Ranker)

    @property
    def aligns(self) -> str:
        """Method for text-to-image alignment: the model's own patches and tokens, its lexicon, occlusion, or "" for none."""
        return method_of(self.model) or ""

    @property
    def lexical(self) -> bool:
        """True for a model that gives term weights of a picture and a map for each term."""
        return isinstance(self.model, LexicalEmbedder) and isinstance(self.model, WordMapper)


@dataclass(frozen=True, slots=True)
class Overview:
    """Facets of the items of an index, and a few items of it. state: what they were computed from; made: when."""

    facets: dict[str, dict[str, Any]]
    examples: list[str]
    state: tuple[int, int, int]
    made: float


def recorded_addresses(sides: Iterable[ServedModel]) -> list[str]:
    """Addresses of data that were added to some indexes after their build."""
    return [address for side in sides if side.index is not None for address in side.index.collection.facts.added]


class Service:
    """Everything behind the routes. `close` it to finish what is in the queue."""

    def __init__(
        self,
        sides: Sequence[ServedModel],
        *,
        detector: Any = None,
        writer: ServedModel | None = None,
        data: ServedData | None = None,
        limits: Limits,
        takes_changes: bool = False,
    ) -> None:
        self.sides = {side.name: side for side in sides}
        self.first = sides[0]
        beside: list[ServedModel] = [] if writer is None else [writer]
        self.writers = {side.name: side for side in [*beside, *sides] if side.writes}
        self.detector = detector if detector is not None else next((side.model for side in sides if side.detects), None)
        self.data, self.limits = data or ServedData([]), limits
        self.draining = False
        self.generation = 0
        self.open_requests: Counter[int] = Counter()
        self._doors: dict[str, ExitStack] = {}
        self._shares = False
        self.metrics = Metrics(lambda: self.waiting)
        self.memory = MemoryBudget(limits.queue_bytes)
        self.batcher = Batcher(queue=limits.queue, batch=limits.batch, observed=self.metrics.batch)
        apart = [side.model for side in self.writers.values() if not (side.embeds or side.detects or side.index)]
        self._slow = {id(model) for model in apart if model is not self.detector}
        self.writing = Batcher(queue=limits.queue, batch=1, observed=self.metrics.batch) if self._slow else self.batcher
        self.thumbnails = ThumbnailCache()
        self._overviews: dict[str, Overview] = {}
        self._uids: dict[str, set[str]] = {}
        self._removed: set[str] = set()
        self.missing: dict[str, int] = {}
        for side in sides:
            if side.index is not None:  # read now: later the model's thread is alone with the index
                side.index.deepest = limits.depth
                _ = side.facts
                self._uids[side.name] = set(side.index.uids())
                self._removed |= read_gone(side.index.folder).removed
                self.missing[side.name] = count_missing(self.data, self._uids[side.name])
        self.item_writer = ItemWriter(self) if takes_changes else None
        few = min(4, usable_cores())
        self._threads = ThreadPoolExecutor(few, thread_name_prefix="diptych-aside")
        self._decoders = DecoderPool(few, limits.decode_seconds, limits.image_pixels)

    def side(self, name: str | None) -> ServedModel:
        if not name:
            return self.first
        if name not in self.sides:
            names = " or ".join(f"'{names}'" for names in self.sides)
            raise RequestError(404, f"unknown model '{name[:80]}'; this service has {names}")
        return self.sides[name]

    def writer(self, name: str | None) -> ServedModel:
        """The model that writes, or that of this name. Raises Refused: 404 if there is none, 422 for one that does not write."""
        if not self.writers:
            raise RequestError(404, "no model of this service writes: start it with one (diptych serve ... --writer MODEL)")
        if not name:
            return next(iter(self.writers.values()))
        if name not in self.writers:
            names = " or ".join(f"'{names}'" for names in self.writers)
            if name in self.sides:
                raise RequestError(422, f"'{name}' does not write (expected {names})")
            raise RequestError(404, f"unknown model '{name[:80]}'; those that write are {names}")
        return self.writers[name]

    @property
    def cloud_up(self) -> Up:
        """The axis of point clouds that points up: that of the first model that reads clouds, else z."""
        return next((clouds.up for side in self.sides.values() if (clouds := getattr(side.model, "clouds", None))), "z")

    @property
    def busy(self) -> bool:
        """True if a queue is full."""
        return any(batcher.waiting >= self.limits.queue for batcher in self._batchers)

    @property
    def waiting(self) -> int:
        """Inputs in the queues."""
        return sum(batcher.waiting for batcher in self._batchers)

    @property
    def _batchers(self) -> tuple[Batcher, ...]:
        """The thread of models and indexes; and that of models which only write, so that a long answer holds no search up."""
        return (self.batcher,) if self.writing is self.batcher else (self.batcher, self.writing)

    async def submit(
        self,
        model: Any,
        finish: Finish,
        *,
        texts: Sequence[str] = (),
        images: Sequence[ImageSource] = (),
        inside: Sequence[ImageSource] = (),
        times: int = 1,
    ) -> Any:
        """Embed and finish in the model's thread. Raises Refused (429) when the queue is full.

        inside, times  pictures that `finish` gives to the model by itself, and how often
        """
        try:
            batcher = self.writing if id(model) in self._slow else self.batcher
            future = batcher.submit(EmbeddingJob(model, finish, texts, images, inside=times * len(inside)))
        except QueueFull as full:
            self.metrics.refused("queue")
            raise RequestError(429, "too many requests wait for the model: try again later", retry_after=full.seconds) from None
        except BatcherStopped:
            raise RequestError(503, "the service is stopping", retry_after=5) from None
        return await asyncio.wrap_future(future)

    async def aside(self, work: Callable[[], T]) -> T:
        """Short work outside of the model's thread and of the server's loop: reading files, encoding."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def picture(self, encoded: str, name: str) -> ArrayImage:
        """A picture of a request, decoded. Raises Refused: 400 when it is no sound image, 413 when it is too large."""
        data = await self.aside(lambda: bytes_of(encoded, name))
        try:
            return await self._decode_within_memory(data, name)
        except TooLarge as error:
            raise RequestError(413, f"{name} is too large: {error.problem}") from None
        except DecodeError as error:
            raise RequestError(400, f"{name} is not an image that can be read: {error.problem}") from None

    async def request_picture(self, encoded: str | None, uid: str | None) -> ArrayImage:
        """The picture of a request: sent along, or that of an item. Raises Refused."""
        if (encoded is None) == (uid is None):
            raise RequestError(422, "no picture is given (expected image or uid)")
        return await self.item_picture(str(uid)) if encoded is None else await self.picture(encoded, "image")

    async def item_picture(self, uid: str) -> ArrayImage:
        """The picture of an item, decoded. Raises Refused: 404 without data, item or image."""
        source = await self._item_source(uid)
        try:
            if isinstance(source, ArrayImage):
                return ArrayImage(await self.aside(lambda: decode(source, max_pixels=self.limits.image_pixels)), source.name)
            return await self._decode_within_memory(source, "the image of that item")
        except DecodeError:
            raise RequestError(404, "the image of that item cannot be read") from None

    async def thumbnail(self, uid: str, side: int, medium: str = "") -> bytes:
        """The picture of an item, or of another medium that it has, as WebP of at most `side` pixels per side. Raises Refused (404)."""
        read_sample = await self.reader_of(uid)  # first: what was removed is not shown, however small
        key = f"{medium}\n{uid}" if medium else uid
        cached = self.thumbnails.get(key, side)
        if cached is not None:
            return cached
        if medium:
            other = await self.aside(lambda: read_sample().media.get(medium))
            if other is None:
                raise RequestError(404, f"that item has no medium '{medium}'")
            return self.thumbnails.put(key, side, await self._other_thumbnail(other, side))
        shown = await self.aside(lambda: read_sample().shown)
        if shown is not None and shown.medium != "image":
            return self.thumbnails.put(uid, side, await self._medium_thumbnail(shown, side))
        source = await self._item_source(uid)
        try:
            if isinstance(source, ArrayImage):
                data = await self.aside(lambda: small_webp(source, side, max_pixels=self.limits.image_pixels))
            else:
                data = await self._decoders.thumbnail(source, "the image of that item", side)
        except DecodeError:
            raise RequestError(404, "that item has no image that can be shown") from None
        return self.thumbnails.put(uid, side, data)

    async def _other_thumbnail(self, item: MediaItem, side: int) -> bytes:
        """Of a medium beside the picture; pictures are decoded where all others are."""
        if item.medium != "image" or isinstance(item.parts[0], ArrayImage):
            return await self._medium_thumbnail(item, side)
        try:
            return await self._decoders.thumbnail(await self.aside(item.parts[0].read), "that medium", side)
        except (DecodeError, OSError):
            raise RequestError(404, "that medium cannot be shown") from None

    async def _medium_thumbnail(self, item: MediaItem, side: int) -> bytes:
        """A clip, a cloud, a volume as one small picture, within the limits of its medium."""
        try:
            return await self.aside(lambda: medium_webp(item, side, up=self.cloud_up))
        except (DecodeError, MissingExtra, OSError):
            raise RequestError(404, "that item has nothing that can be shown") from None

    async def _decode_within_memory(self, data: bytes, name: str) -> ArrayImage:
        """Room is taken for it when its header has been read, and given back when the request ends."""
        return ArrayImage(
            await self._decoders.pixels(data, name, lambda width, height: self.memory.take(3 * width * height)), name
        )

    async def _item_source(self, uid: str) -> ArrayImage | bytes:
        read_sample = await self.reader_of(uid)

        def read() -> ArrayImage | bytes | None:
            image = read_sample().image
            return image if image is None or isinstance(image, ArrayImage) else image.read()

        try:
            picture = await self.aside(read)
        except OSError:
            picture = None
        if not picture:
            raise RequestError(404, "that item has no image that can be shown")
        return picture

    def recorded_addresses(self) -> list[str]:
        """Addresses of data that were added to the indexes after their build."""
        return recorded_addresses(self.sides.values())

    async def refresh(self) -> None:
        """See what other processes have changed in the data."""
        if self.data.is_stale:
            await self.aside(self.data.refresh)

    async def reader_of(self, uid: str) -> Callable[[], Sample]:
        """A function that reads an item. Raises RequestError: 404 without data or such an item, 410 for one that was removed or taken
        down.
        """
        if not self.data:
            raise RequestError(404, "this service shows no items: it was started without their data (diptych serve ... --data)")
        await self.refresh()
        if self.is_gone(uid):
            raise RequestError(410, "that item was removed")
        part = self.data.part_of(uid)
        if part is None:
            raise RequestError(404, "no item has that uid")

        def read() -> Sample:
            sample = part.sample(uid)
            if sample is None:
                raise RequestError(410, "that item was removed")
            return sample

        return read

    def is_gone(self, uid: str) -> bool:
        """True for an item that was removed or taken down, from the data or from every index."""
        return self.data.is_gone(uid) or (uid in self._removed and not self.is_indexed(uid))

    def is_indexed(self, uid: str) -> bool:
        """True if an index has an item, or there is no index."""
        return not self._uids or any(uid in uids for uids in self._uids.values())

    def note_items(self, added: Iterable[str], removed: Iterable[str]) -> None:
        """Note what was put into all indexes, and what was taken out of them."""
        came, left = list(added), list(removed)
        for name, uids in self._uids.items():
            uids.update(came)
            uids.difference_update(left)
            self.sides[name].__dict__.pop("facts", None)
        self._removed.difference_update(came)
        self._removed.update(left)
        for uid in (*came, *left):
            self.thumbnails.forget(uid)

    def facets(self, side: ServedModel) -> dict[str, dict[str, Any]]:
        """The columns that can be filtered by: their kind, and their values or range where the data tell."""
        if side.facts is None:
            return {}
        columns = {name: kind for name, kind in sorted(side.facts.columns.items()) if name not in HIDDEN_COLUMNS}
        values = self.overview(side).facets
        return {name: {"kind": kind, **values.get(name, {})} for name, kind in columns.items()}

    def overview(self, side: ServedModel) -> Overview:
        """Facets and examples of an index, at most `OVERVIEW_SECONDS` old where items change."""
        uids = self._uids.get(side.name, set())
        cached = self._overviews.get(side.name)
        state = (id(side), len(uids), id(self.data.parts[0].data) if self.data.parts else 0)
        now = time.monotonic()
        if cached is None or (cached.state != state and now - cached.made > OVERVIEW_SECONDS):
            whole, those = self.data.whole(), frozenset(uids)
            shown = evenly_spaced(indexed_uids(whole, those))
            cached = self._overviews[side.name] = Overview(facets(whole, those), shown, state, now)
        return cached

    @contextmanager
    def open_to_others(self) -> Iterator[None]:
        """Let the command line search and change the indexes that the service has open: in the model's thread, between two batches."""
        self._shares = True
        for side in self.sides.values():
            self._open_door(side)
        try:
            yield
        finally:
            self._shares = False
            for door in self._doors.values():
                door.close()

    def _open_door(self, side: ServedModel) -> None:
        if side.index is not None and self._shares:
            door = self._doors[side.name] = ExitStack()
            door.enter_context(side.index.open_to_others(self.inside, partial(self._note_change, side)))

    def switch(self, side: ServedModel, uids: set[str]) -> ServedModel:
        """Put a model and its index in the place of those of the same name; requests that are under way keep the old ones. Returns those.

        uids  of the items of the new index
        """
        assert side.index is not None
        old = self.sides[side.name]
        side.index.deepest = self.limits.depth
        self.sides[side.name], self._uids[side.name] = side, uids
        if self.first is old:
            self.first = side
        self.generation += 1
        door = self._doors.pop(side.name, None)
        if door is not None:
            door.close()
        self._open_door(side)
        return old

    def inside(self, work: Callable[[], T]) -> T:
        """In the model's thread, from another one; waits for room in the queue."""
        while True:
            try:
                done: T = self.batcher.submit(EmbeddingJob(None, lambda texts, images: work())).result()
                return done
            except QueueFull as full:
                time.sleep(min(1.0, full.seconds))
            except BatcherStopped:
                raise RunError("the service is stopping: try again later") from None

    def _note_change(self, side: ServedModel) -> None:
        """After a change of an index by another process, in the model's thread."""
        assert side.index is not None
        side.__dict__.pop("facts", None)
        self._uids[side.name] = set(side.index.uids())
        self._removed |= read_gone(side.index.folder).removed

    def examples(self, side: ServedModel) -> list[str]:
        """Items of its index that can be shown, from all over the data."""
        return self.overview(side).examples

    async def close(self) -> None:
        """End decoders, and the model's thread when it is done; a model that is busy for longer is left to the end of the process."""
        await self._decoders.close()
        if self.item_writer is not None:
            await asyncio.to_thread(self.item_writer.close, CLOSE_SECONDS)
        await asyncio.gather(*(asyncio.to_thread(batcher.close, CLOSE_SECONDS) for batcher in self._batchers))
        self._threads.shutdown(wait=False, cancel_futures=True)
