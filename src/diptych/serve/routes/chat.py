"""POST /v1/chat/completions: chat about pictures in OpenAI's format, whole or streamed.

Where we depart from the service whose shape it is: without `temperature` the most likely word is taken each time; an answer has as many
tokens as there is room for, at most the service's limit; pictures come along or are items of this service, and are never fetched; one
answer a request (`n` is 1); no tools, no forced formats, no penalties. A single picture beside words in a single message stands before
the words, wherever the client put it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from diptych.core.contracts import Streamer
from diptych.core.errors import DiptychError
from diptych.core.image import ArrayImage
from diptych.core.prompt import Dialogue, ImagePart, Part, PromptLike, Role, TextPart, Turn
from diptych.serve.chat_schema import ChatAnswer, ChatRequest, TextContent
from diptych.serve.generation import GenerationRequest, GenerationStream, client_gone, reads_images
from diptych.serve.logs import request_error
from diptych.serve.refusals import RequestError, SafeJsonResponse, error_response, internal_error, public_message
from diptych.serve.schema import text_of
from diptych.serve.service import ServedModel, Service

STOPS = 4
ITEM = "item:"
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "functions": (None, []),
    "audio": (None,),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
}
"""Fields that change an answer in a way that no model here can, and the values that leave it as it is."""


def add(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=ChatAnswer,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def complete(request: ChatRequest, connection: Request) -> Response:
        """An answer to the last message; with `stream` piece by piece, as server-sent events."""
        side = service.writer(request.model)
        generation = await _read_request(service, side, request)
        writing, number = GenerationStream(service, side, generation), f"chatcmpl-{uuid.uuid4().hex}"
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return await _stream_answer(writing, number, usage, connection)
        whole = asyncio.ensure_future(writing.whole())
        leaving = asyncio.ensure_future(client_gone(connection.receive))
        try:
            await asyncio.wait({whole, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                return Response(status_code=499)  # the client is gone
            text = whole.result()
        finally:
            whole.cancel()
            leaving.cancel()
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": writing.reason}
        head = _head(number, side, "chat.completion")
        return SafeJsonResponse({**head, "choices": [choice], "usage": _usage(writing)})


async def _stream_answer(writing: GenerationStream, number: str, usage: bool, connection: Request) -> Response:
    """The response starts with the first generated piece, so that every refusal still has its own status code."""
    pieces = writing.pieces()
    ends = asyncio.get_running_loop().time() + writing.service.limits.seconds
    try:
        first = await anext(pieces, None)
    except BaseException:
        await pieces.aclose()
        raise
    events = _events(writing, pieces, first, number, usage, ends, connection)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(
    writing: GenerationStream,
    pieces: AsyncGenerator[str],
    piece: str | None,
    number: str,
    usage: bool,
    ends: float,
    connection: Request,
) -> AsyncIterator[bytes]:
    head = _head(number, writing.side, "chat.completion.chunk")
    more = {"usage": None} if usage else {}

    def event(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _line({**head, "choices": [choice], **more})

    try:
        yield event({"role": "assistant", "content": ""})
        while piece is not None:
            yield event({"content": piece})
            async with asyncio.timeout_at(ends):
                piece = await anext(pieces, None)
        yield event({}, writing.reason)
        if usage:
            yield _line({**head, "choices": [], "usage": _usage(writing)})
        yield b"data: [DONE]\n\n"
    except TimeoutError:
        writing.service.metrics.refused("time")
        late = RequestError(503, f"no end of the answer within {writing.service.limits.seconds:g} seconds")
        yield b"data: " + bytes(error_response(late).body) + b"\n\n"
    except DiptychError as error:
        request_error(connection.scope, error)
        yield b"data: " + bytes(error_response(RequestError(400, public_message(error))).body) + b"\n\n"
    except Exception as error:
        request_error(connection.scope, error)
        yield b"data: " + bytes(internal_error(error).body) + b"\n\n"
    finally:
        await pieces.aclose()


def _line(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def _head(number: str, side: ServedModel, kind: str) -> dict[str, Any]:
    return {"id": number, "object": kind, "created": int(time.time()), "model": side.name}


def _usage(writing: GenerationStream) -> dict[str, int] | None:
    output = writing.output
    if output is None:
        return None
    total = output.prompt_tokens + output.new_tokens
    return {"prompt_tokens": output.prompt_tokens, "completion_tokens": output.new_tokens, "total_tokens": total}


# ---------------------------------------------------------------- what is asked


async def _read_request(service: Service, side: ServedModel, request: ChatRequest) -> GenerationRequest:
    for name, usual in UNSUPPORTED.items():
        if (value := getattr(request, name)) not in usual:
            raise RequestError(422, f"{name} is {str(value)[:60]} (expected {json.dumps(usual[-1])}, or nothing)")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > STOPS:
        raise RequestError(422, f"stop has {len(stops)} entries (expected at most {STOPS})")
    temperature = request.temperature or 0.0
    if temperature and not isinstance(side.model, Streamer):
        raise RequestError(422, f"temperature is {temperature:g}: '{side.name}' decodes greedily (expected 0)")
    image, pictures, prompt = await _prompt(service, side, request)
    given = request.max_completion_tokens or request.max_tokens
    return GenerationRequest(
        image,
        prompt,
        pictures,
        max_new_tokens(service, given or service.limits.tokens),
        fits=given is None,
        temperature=temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed or 0,
        stops=stops,
    )


def max_new_tokens(service: Service, tokens: int) -> int:
    """Maximum number of generated tokens of a request. Raises RequestError (422) outside of the service's limits."""
    if not 1 <= tokens <= service.limits.tokens:
        raise RequestError(422, f"max_tokens is {tokens} (expected 1..{service.limits.tokens})")
    return tokens


async def _prompt(service: Service, side: ServedModel, request: ChatRequest) -> tuple[ArrayImage | None, int, PromptLike]:
    """The first picture, if any, the number of pictures, and the prompt for the model."""
    turns: list[Turn] = []
    pictures: list[ArrayImage] = []
    for number, message in enumerate(request.messages):
        contents = [TextContent(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        parts: list[Part] = []
        for index, content in enumerate(contents):
            name = f"messages[{number}].content[{index}]"
            if isinstance(content, TextContent):
                parts.append(TextPart(text_of(content.text, name, service.limits)))
                continue
            pictures.append(await _picture(service, content.image_url.url, name))
            if len(pictures) > service.limits.inputs:
                raise RequestError(422, f"messages hold more than {service.limits.inputs} pictures")
            parts.append(ImagePart() if len(pictures) == 1 else ImagePart(source=pictures[-1]))
        role: Role = "system" if message.role == "developer" else message.role
        turns.append(Turn(role, tuple(parts)))
    if not pictures and reads_images(side):
        raise RequestError(422, "messages contain no picture (expected a part of type image_url)")
    if pictures and not reads_images(side):
        raise RequestError(422, f"'{side.name}' reads text alone (expected no picture)")
    if turns[-1].role != "user":
        raise RequestError(422, f"the last message is of '{turns[-1].role}' (expected 'user': the one that is answered)")
    dialogue = Dialogue(tuple(turns))
    prompt = turns[0].text if len(turns) == 1 and len(pictures) <= 1 else dialogue
    return pictures[0] if pictures else None, len(pictures), prompt


async def _picture(service: Service, url: str, name: str) -> ArrayImage:
    if url.startswith(ITEM):
        return await service.item_picture(url.removeprefix(ITEM))
    return await service.picture(url, name)
