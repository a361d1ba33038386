"""The routes. Each one checks, asks model or index under the lock, and answers JSON; every refusal is one line that says why."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from diptych.core.contracts import Unit
from diptych.core.errors import DecodeError, DiptychError
from diptych.core.image import BytesImage
from diptych.pipelines.composed_search import compose
from diptych.serve.app import Found, Index, Service
from diptych.serve.body import LimitBody
from diptych.serve.page import page, policy
from diptych.serve.requests import EmbeddingRequest, ImageInput, Refused, SearchRequest, image_of, text_of
from diptych.serve.thumbnails import Thumbnails

log = logging.getLogger("diptych.serve")


def build(service: Service) -> FastAPI:
    """All routes over one service."""
    from diptych import __version__

    # The interactive pages of FastAPI load scripts from a CDN; /openapi.json says the same.
    app = FastAPI(title="Diptych", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(LimitBody, limit=service.limits.body_bytes)
    _add_errors(app)
    _add_pages(app, service)
    _add_embeddings(app, service)
    _add_search(app, service)
    return app


@contextmanager
def _inside(service: Service) -> Iterator[None]:
    """Alone with model and index. What they raise beyond our own errors goes to the log; the client learns the kind only, and its
    connection stays usable."""
    with service.lock:
        try:
            yield
        except (DiptychError, Refused):
            raise
        except Exception as error:
            log.error("model or index failed", exc_info=error)
            raise Refused(500, f"{type(error).__name__} inside the service; its log says more") from error


def _add_pages(app: FastAPI, service: Service) -> None:
    thumbnails = Thumbnails(service.pool) if service.pool is not None else None
    html = page(service.embedder.name, searchable=service.index is not None, pictures=thumbnails is not None)
    headers = {"Content-Security-Policy": policy(html), "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def home() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    @app.get("/healthz")
    def health() -> dict[str, Any]:
        """Up, with which model, over how many items."""
        count = None
        if service.index is not None:
            with service.lock:
                count = len(service.index)
        return {
            "status": "ok",
            "model": service.embedder.name,
            "fingerprint": service.embedder.fingerprint,
            "index": None if count is None else {"count": count},
            "images": thumbnails is not None,
        }

    @app.get("/image/{uid}")
    def image(uid: str, side: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
        """A thumbnail, always encoded anew: nothing of the file but its pixels goes out."""
        if thumbnails is None:
            raise Refused(404, "this service shows no images: it was started without the data")
        data = thumbnails.get(uid, side)
        if data is None:
            raise Refused(404, f"no image has the uid '{uid}'")
        return Response(data, media_type="image/webp", headers={"Cache-Control": "max-age=3600", **headers})


def _add_embeddings(app: FastAPI, service: Service) -> None:
    @app.post("/v1/embeddings")
    def embeddings(request: EmbeddingRequest) -> dict[str, Any]:
        """Unit-norm vectors of texts and images, in the order of the input."""
        name, limits = service.embedder.name, service.limits
        if request.model not in (None, "", name):
            raise Refused(404, f"unknown model '{request.model}'; this service has '{name}'")
        inputs = request.input if isinstance(request.input, list) else [request.input]
        if not 1 <= len(inputs) <= limits.inputs:
            raise Refused(422, f"input has {len(inputs)} entries (expected 1..{limits.inputs})")
        texts: dict[int, str] = {}
        images: dict[int, BytesImage] = {}
        for place, value in enumerate(inputs):
            label = f"input[{place}]" if isinstance(request.input, list) else "input"
            if isinstance(value, ImageInput):
                images[place] = image_of(value.image, label, limits)
            else:
                texts[place] = text_of(value, label, limits)
        vectors: dict[int, Unit] = {}
        with _inside(service):
            if texts:
                vectors.update(zip(texts, service.embedder.embed_texts(list(texts.values())), strict=True))
            if images:
                vectors.update(zip(images, service.embedder.embed_images(list(images.values())), strict=True))
        return {
            "object": "list",
            "model": name,
            "data": [
                {"object": "embedding", "index": place, "embedding": _vector(vectors[place], request.encoding_format)}
                for place in range(len(inputs))
            ],
            "usage": {"prompt_tokens": 0, "total_tokens": 0, "texts": len(texts), "images": len(images)},
        }


def _vector(vector_D: Unit, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.asarray(vector_D, "<f4").tobytes()).decode()
    values: list[float] = np.asarray(vector_D, np.float32).tolist()
    return values


def _add_search(app: FastAPI, service: Service) -> None:
    @app.get("/search")
    def by_text(
        q: Annotated[str, Query(description="what to look for")],
        k: Annotated[int, Query(ge=1)] = 10,
        where: Annotated[str, Query(description='conditions on columns as JSON, {"split": "train"}')] = "",
    ) -> dict[str, Any]:
        """The items nearest to a text, best first."""
        try:
            conditions = json.loads(where) if where else {}
        except json.JSONDecodeError:
            conditions = None
        if not isinstance(conditions, dict):
            raise Refused(422, f'where is {where!r} (expected a JSON object such as {{"split": "train"}})')
        return _search(service, SearchRequest(text=q, k=k, where=conditions))

    @app.post("/search")
    def by_anything(request: SearchRequest) -> dict[str, Any]:
        """The items nearest to a text, an image, an image changed by a text, or an item that is there."""
        return _search(service, request)


def _search(service: Service, request: SearchRequest) -> dict[str, Any]:
    index = service.index
    if index is None:
        raise Refused(404, "this service has no index to search: start it with one (diptych serve MODEL --index INDEX)")
    if request.k > service.limits.k:
        raise Refused(422, f"k is {request.k} (expected 1..{service.limits.k})")
    text = None if request.text is None else text_of(request.text, "text", service.limits)
    if request.image is not None and request.like is not None:
        raise Refused(422, "image and like are two pictures (expected one of them)")
    picture: Any = None if request.image is None else image_of(request.image, "image", service.limits)
    if request.like is not None:
        picture = _item(service, request.like)
    if text is None and picture is None:
        raise Refused(422, "nothing to search for (expected text, image or like)")
    with _inside(service):
        hits = _ask(service, index, text, picture, request)
    return {"hits": [{"uid": hit.uid, "score": float(hit.score), "payload": dict(hit.payload)} for hit in hits]}


def _ask(service: Service, index: Index, text: str | None, picture: Any, request: SearchRequest) -> Sequence[Found]:
    where = request.where or None
    if picture is None and text is not None:
        return index.search_text(text, request.k, where=where)
    if text is None:
        return index.search_image(picture, request.k, where=where)
    embed = service.embedder
    query_1D = compose(embed.embed_images([picture]), embed.embed_texts([text]), request.weight)
    return index.search_vectors(query_1D, request.k, where=where)[0]


def _item(service: Service, uid: str) -> Any:
    if service.pool is None:
        raise Refused(404, "like needs the data, and this service was started without")
    try:
        row = list(service.pool.uids).index(uid)
    except ValueError:
        raise Refused(404, f"no item has the uid '{uid}'") from None
    image = service.pool[row].image
    if image is None:
        raise Refused(404, f"the item '{uid}' has no image")
    return image


def _add_errors(app: FastAPI) -> None:
    """Every refusal reads ``{"error": {"message": ..., "type": ...}}``."""

    def answer(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
        return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)

    @app.exception_handler(Refused)
    def refused(_: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.message, "server_error" if error.status >= 500 else "invalid_request_error")

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(400, f"the body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be parsed')}")
        place = ".".join(str(part) for part in first["loc"][1:] if not re.match(r"[A-Z]|list\[|str$", str(part)))
        message = str(first["msg"])
        return answer(422, f"{place or 'the body'}: {message[0].lower()}{message[1:]}")

    @app.exception_handler(DecodeError)
    def unreadable(_: Request, error: DecodeError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(DiptychError)
    def wrong(_: Request, error: DiptychError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(HTTPException)
    def missing(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, f"{request.method} {request.url.path}: {str(error.detail).lower()}")

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(500, f"{type(error).__name__} inside the service; its log says more", "server_error")
