"""POST /items, PATCH and DELETE /items/UID, POST /admin/reload: changes to a running service. All need write permission.

An answer of 200 means that the change is on disk and searched. Each may be sent again after an answer that was lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Path, Response

from diptych.core.errors import ConfigError
from diptych.core.sample import Text
from diptych.data.media.decode import probe
from diptych.data.shards.changes import NewPicture
from diptych.serve.collection.item_changes import UID, ItemChange, ItemCorrection, ItemRemoval, NewItem
from diptych.serve.collection.item_writer import ItemWriter
from diptych.serve.collection.reloading import Reloader
from diptych.serve.pictures import bytes_of
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.schema import (
    ItemCorrectionAnswer,
    ItemCorrectionRequest,
    ItemRemovalAnswer,
    NewItemAnswer,
    NewItemRequest,
    ReloadAnswer,
    ReloadRequest,
    TextIn,
    text_of,
)
from diptych.serve.service import Service

Uid = Annotated[str, Path(description="name of the item", min_length=1, max_length=1000)]


def add(app: FastAPI, service: Service, reloader: Reloader | None) -> None:
    @app.post("/items", response_model=NewItemAnswer)
    async def new_item(request: NewItemRequest) -> Response:
        """Add an item. 409: its uid is there with another content; 410: it was taken down; 507: the disk is full, nothing was stored."""
        writer = _writer(service)
        writer.target()
        texts = _texts(request.texts, service)
        picture = None if request.image is None else await _picture(service, request.image)
        if picture is None and not texts:
            raise RequestError(422, "nothing to add (expected image, texts, or both)")
        named = {name: getattr(request, name) for name in ("group", "licence", "source")}
        columns = {**{name: value for name, value in request.fields.items() if value is not None}}
        columns |= {name: value for name, value in named.items() if value}
        uid = _content_uid(picture, texts) if request.uid is None else request.uid
        if not UID.fullmatch(uid):
            raise RequestError(422, "uid: expected 1 to 200 letters, digits, _ and -")
        return SafeJsonResponse(await _made(writer, NewItem(uid, picture, texts, columns)))

    @app.patch("/items/{uid:path}", response_model=ItemCorrectionAnswer)
    async def correct_item(uid: Uid, request: ItemCorrectionRequest) -> Response:
        """Correct texts and fields of an item; its picture stays."""
        texts = None if request.texts is None else _texts(request.texts, service)
        columns: dict[str, Any] = dict(request.fields)
        columns |= {name: value for name in ("group", "licence", "source") if (value := getattr(request, name)) is not None}
        if texts is None and not columns:
            raise RequestError(422, "nothing to change (expected texts, group, licence, source or fields)")
        return SafeJsonResponse(await _made(_writer(service), ItemCorrection(uid, texts, columns)))

    @app.delete("/items/{uid:path}", response_model=ItemRemovalAnswer)
    async def remove_item(uid: Uid) -> Response:
        """Remove an item. No search finds it from now on, and `/items/UID` answers 410. Its bytes leave the disk with `diptych data
        compact`, or with `diptych data takedown`, after which it is not taken in again."""
        return SafeJsonResponse(await _made(_writer(service), ItemRemoval(uid)))

    @app.post("/admin/reload", response_model=ReloadAnswer)
    async def reload(request: ReloadRequest) -> Response:
        """Serve another model or index without dropping a request: both are loaded, the new one catches up, takes over, and the old one
        ends with its last request."""
        if reloader is None:
            raise RequestError(409, "this service cannot reload: it was started from objects, not by `diptych serve`")
        answer = await asyncio.shield(asyncio.ensure_future(reloader.reload(request)))
        return SafeJsonResponse(answer)


def _writer(service: Service) -> ItemWriter:
    if service.item_writer is None:
        raise RequestError(403, "this service does not accept changes (expected diptych serve ... with a write token)")
    return service.item_writer


async def _made(writer: ItemWriter, change: ItemChange) -> dict[str, Any]:
    try:
        return await asyncio.wrap_future(writer.submit(change))
    except ConfigError as error:
        raise RequestError(422, str(error)) from None


def _texts(given: Sequence[str | TextIn], service: Service) -> tuple[Text, ...]:
    limits = service.limits
    if len(given) > limits.inputs:
        raise RequestError(422, f"texts has {len(given):,} entries (expected at most {limits.inputs:,})")
    texts = []
    for number, one in enumerate(given):
        if isinstance(one, str):
            texts.append(Text(text_of(one, f"texts[{number}]", limits)))
        else:
            language = text_of(one.language, f"texts[{number}].language", limits) if one.language else ""
            texts.append(Text(text_of(one.text, f"texts[{number}]", limits), language, one.origin))
    return tuple(texts)


async def _picture(service: Service, encoded: str) -> NewPicture:
    """The picture of a request, decoded once so that what is stored can be read."""
    await service.picture(encoded, "image")
    data = await service.aside(lambda: bytes_of(encoded, "image"))
    info = await service.aside(lambda: probe(data, name="image", max_pixels=service.limits.image_pixels))
    return NewPicture(data, info.format.lower(), info.width, info.height, hashlib.sha256(data).hexdigest())


def _content_uid(picture: NewPicture | None, texts: Sequence[Text]) -> str:
    """Name of an item by its content: of the picture, or of the texts if there is none."""
    if picture is not None:
        return picture.sha256[:32]
    return hashlib.sha256("\x1f".join(text.string for text in texts).encode()).hexdigest()[:32]
