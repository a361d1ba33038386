"""GET and POST /search: by text, by picture, by both, by examples; filtered, and without near copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from diptych.core.contracts import Unit
from diptych.core.image import ImageSource
from diptych.index.base import Index
from diptych.index.dense import DenseIndex
from diptych.index.exact import Hit
from diptych.index.hybrid import HybridIndex
from diptych.index.late import LateIndex
from diptych.index.query import Query as Asked
from diptych.serve.answers import plain
from diptych.serve.refusals import Json, Refused
from diptych.serve.schema import SearchAnswer, SearchRequest, text_of, texts_of
from diptych.serve.service import Service, Side

Ask = Callable[[Unit, Unit], list[Hit]]


def add(app: FastAPI, service: Service) -> None:
    @app.get("/search", response_model=SearchAnswer)
    async def by_text(
        q: Annotated[str, Query(description="what to look for")],
        k: Annotated[int, Query(ge=1)] = 10,
        where: Annotated[str, Query(description='conditions on columns as JSON, {"split": "train"}')] = "",
        distinct: Annotated[float | None, Query(ge=-1, le=1)] = None,
        model: Annotated[str, Query(description="which model, where the service has several")] = "",
    ) -> Response:
        """The items nearest to a text, best first."""
        request = SearchRequest(text=q, k=k, where=_conditions(where), distinct=distinct, model=model)
        return await _search(service, request)

    @app.post("/search", response_model=SearchAnswer)
    async def by_anything(request: SearchRequest) -> Response:
        """The items nearest to a text, an image, an image changed by a text, or to good examples and away from bad ones."""
        return await _search(service, request)


def modes(side: Side) -> list[str]:
    """What `mode` may be with an index of that kind."""
    if isinstance(side.index, HybridIndex):
        return ["dense", "lexical"]
    return ["exact"] if isinstance(side.index, DenseIndex | LateIndex) else []


def _conditions(where: str) -> dict[str, Any]:
    try:
        found = json.loads(where) if where else {}
    except (json.JSONDecodeError, RecursionError):
        found = None
    except ValueError:  # Python reads no whole numbers of more than 4,300 digits
        raise Refused(400, "where holds a number of far too many digits") from None
    if not isinstance(found, dict):
        raise Refused(422, 'where is no JSON object (expected one such as {"split": "train"})')
    return found


async def _search(service: Service, request: SearchRequest) -> Response:
    side = service.side(request.model)
    if side.index is None:
        raise Refused(404, f"'{side.name}' has no index to search: start the service with one (diptych serve MODEL INDEX)")
    if request.k > service.limits.k:
        raise Refused(422, f"k is {request.k} (expected 1..{service.limits.k})")
    if request.mode and request.mode not in modes(side):
        can = " or ".join(modes(side)) or "no mode"
        raise Refused(422, f"mode is {request.mode} (an index of kind '{side.index.kind}' has {can})")
    asked = await _asked(service, request)
    hits = await _find(service, side, side.index, asked, request)
    kept = [hit for hit in hits if request.min_score is None or hit.score >= request.min_score]
    found = [{"uid": hit.uid, "score": float(hit.score), "payload": plain(hit.payload)} for hit in kept]
    return Json({"hits": found})


async def _asked(service: Service, request: SearchRequest) -> Asked:
    """The request as a query of the index, its parts held against the limits."""
    limits = service.limits
    text = "" if request.text is None else text_of(request.text, "text", limits)
    like, unlike = (_uids(getattr(request, name), name, service) for name in ("like", "unlike"))
    image = None if request.image is None else await service.picture(request.image, "image")
    if not text and image is None and not like:
        raise Refused(422, "nothing to search for (expected text, image or like)")
    return Asked(text, image, like, unlike, request.weight, request.against)


def _uids(given: str | list[str], name: str, service: Service) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) and given else list(given)
    return tuple(texts_of(listed, name, service.limits.inputs, service.limits))


async def _find(service: Service, side: Side, index: Index, asked: Asked, request: SearchRequest) -> list[Hit]:
    """What can be embedded together with other requests is; the rest the index embeds for itself."""
    options: dict[str, Any] = {"where": request.where or None, "distinct": request.distinct}
    alone = (asked.text != "") + (asked.image is not None) + len(asked.like) == 1 and not asked.unlike and asked.weight > 0
    by_text, by_image = alone and asked.text != "", alone and asked.image is not None
    inside: list[ImageSource] = [asked.image] if asked.image is not None else []
    if isinstance(index, HybridIndex) and request.mode == "lexical":
        if not by_text:
            raise Refused(422, "mode lexical needs a text alone")
        found = await service.ask(side.model, lambda t, i: index.search_words(asked.text, request.k, **options))
    elif isinstance(index, DenseIndex) and (by_text or by_image) and (side.by_vectors or request.mode == "dense"):
        options["exact"] = request.mode == "exact"
        parts: dict[str, Any] = {"texts": [asked.text]} if by_text else {"images": inside}

        def nearest(text_ND: Unit, image_ND: Unit) -> list[Hit]:
            return index.search_vectors(text_ND if by_text else image_ND, request.k, **options)[0]

        found = await service.ask(side.model, nearest, **parts)
    elif isinstance(index, LateIndex) and (by_text or by_image) and request.mode == "exact":
        query: Any = asked.text if by_text else asked.image
        find = index.search_text if by_text else index.search_image
        found = await service.ask(side.model, lambda t, i: find(query, request.k, exact=True, **options), inside=inside)
    elif request.mode in ("exact", "dense"):
        raise Refused(422, f"mode {request.mode} needs a text alone or an image alone")
    else:
        found = await service.ask(side.model, lambda t, i: index.search_query(asked, request.k, **options), inside=inside)
    hits: list[Hit] = found
    return hits
