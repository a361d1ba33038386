"""An answer while it is written: the model works in its thread, its pieces come here. When nobody waits any more, it stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from starlette.types import Receive

from diptych.core.contracts import Streamer, Unit, Written
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.serve.service import Service, Side
from diptych.serve.stops import Stops


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a model that writes.

    image     the first picture; `prompt` may bring others
    pictures  how many there are, for the queue
    """

    image: ImageSource
    prompt: PromptLike
    pictures: int = 1
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: Sequence[str] = ()


@dataclass(slots=True)
class Writing:
    """Iterate over its pieces; then `reason` and `counted` say how it went."""

    service: Service
    side: Side
    wanted: Wanted
    reason: str = "stop"
    counted: Written | None = None
    _gone: threading.Event = field(default_factory=threading.Event)

    async def pieces(self) -> AsyncGenerator[str]:
        """Raises what the model raises, and Refused where the queue is full. Close it to end the writing before its time."""
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        stops = Stops(self.wanted.stops)

        def hear(piece: str) -> bool:
            if given := stops.take(piece):
                loop.call_soon_threadsafe(heard.put_nowait, given)
            return not (stops.found or self._gone.is_set())

        inside = [self.wanted.image] * self.wanted.pictures
        asking = asyncio.ensure_future(self.service.ask(self.side.model, partial(self._write, hear), inside=inside))
        asking.add_done_callback(lambda _: heard.put_nowait(None))
        try:
            while (piece := await heard.get()) is not None:
                yield piece
            self.counted = asking.result()
            if rest := stops.rest():
                yield rest
            if self.counted and not self.counted.ended and not stops.found:
                self.reason = "length"
        finally:
            self._gone.set()
            asking.cancel()

    async def whole(self) -> str:
        """All pieces together."""
        async with aclosing(self.pieces()) as pieces:
            return "".join([piece async for piece in pieces])

    def _write(self, hear: Callable[[str], bool], texts: Unit, images: Unit) -> Written | None:
        """In the model's thread."""
        asked, model = self.wanted, self.side.model
        if isinstance(model, Streamer):
            return model.stream(
                asked.image,
                asked.prompt,
                heard=hear,
                max_tokens=asked.max_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                seed=asked.seed,
            )
        (text,) = model.generate([asked.image], [asked.prompt], max_tokens=asked.max_tokens)
        hear(text)
        return None


async def client_gone(receive: Receive) -> None:
    """Comes back when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
