"""Streaming generation: the model runs in its own thread; generation stops when the client disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from starlette.types import Receive

from diptych.core.contracts import GenerationOutput, Streamer, Unit
from diptych.core.errors import PromptTooLong
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.serve.service import ServedModel, Service
from diptych.serve.stops import StopSequenceFilter


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Prompt and sampling options of a generation request.

    image     the first picture; `prompt` may bring others. None for a model that reads text alone
    pictures  how many there are, for the queue
    max_tokens  of the answer; `fits`: as many of them as there is room for after the prompt
    """

    image: ImageSource | None
    prompt: PromptLike
    pictures: int = 1
    max_tokens: int = 64
    fits: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stops: Sequence[str] = ()


def reads_images(side: ServedModel) -> bool:
    """False for a writer whose prompts are text alone."""
    return bool(getattr(side.model, "reads_images", True))


@dataclass(slots=True)
class GenerationStream:
    """Asynchronous pieces of a generated text; afterwards `reason` (finish reason) and `output` (text and token counts) are set."""

    service: Service
    side: ServedModel
    request: GenerationRequest
    reason: str = "stop"
    output: GenerationOutput | None = None
    _gone: threading.Event = field(default_factory=threading.Event)

    async def pieces(self) -> AsyncGenerator[str]:
        """Iterate over the pieces of text. Raises the model's errors, and RequestError where the queue is full. Close it to stop the
        generation early.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        stops = StopSequenceFilter(self.request.stops)

        def on_piece(piece: str) -> bool:
            if given := stops.take(piece):
                loop.call_soon_threadsafe(queue.put_nowait, given)
            return not (stops.found or self._gone.is_set())

        inside = [self.request.image] * self.request.pictures if self.request.image is not None else []
        asking = asyncio.ensure_future(self.service.submit(self.side.model, partial(self._write, on_piece), inside=inside))
        asking.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            self.output = asking.result()
            if rest := stops.rest():
                yield rest
            if self.output and not self.output.finished and not stops.found:
                self.reason = "length"
        finally:
            self._gone.set()
            asking.cancel()

    async def whole(self) -> str:
        """The whole generated text."""
        async with aclosing(self.pieces()) as pieces:
            return "".join([piece async for piece in pieces])

    def _write(self, on_piece: Callable[[str], bool], texts: Unit, images: Unit) -> GenerationOutput | None:
        """Run the model, in its thread."""
        try:
            return self._generate(self.request, on_piece)
        except PromptTooLong as error:  # before any piece
            if not self.request.fits or error.room < 1:
                raise
            return self._generate(replace(self.request, max_tokens=error.room), on_piece)

    def _generate(self, request: GenerationRequest, on_piece: Callable[[str], bool]) -> GenerationOutput | None:
        model = self.side.model
        if isinstance(model, Streamer):
            return model.stream(
                request.image,
                request.prompt,
                on_text=on_piece,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
            )
        (text,) = model.generate([request.image], [request.prompt], max_tokens=request.max_tokens)
        on_piece(text)
        return None


async def client_gone(receive: Receive) -> None:
    """Return once the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
