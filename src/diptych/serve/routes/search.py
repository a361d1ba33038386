"""GET and POST /search: by text, by picture, by both, by examples; filtered, and without near copies."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from diptych.core.contracts import PointEmbedder, Unit
from diptych.core.errors import ConfigError, DecodeError
from diptych.index.base import Index
from diptych.index.exact import Hit
from diptych.index.plan import SearchPlan
from diptych.serve.answers import jsonable
from diptych.serve.cursors import SLACK, Cursor, cursor_of, page_of, search_hash
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.schema import SearchAnswer, SearchRequest, text_of, texts_of
from diptych.serve.service import Service
from diptych.serve.uploaded_clouds import uploaded_cloud


def add(app: FastAPI, service: Service) -> None:
    @app.get("/search", response_model=SearchAnswer)
    async def by_text(
        q: Annotated[str, Query(description="what to look for")],
        k: Annotated[int, Query(ge=1)] = 10,
        where: Annotated[str, Query(description='conditions on columns as JSON, {"split": "train"}')] = "",
        distinct: Annotated[float | None, Query(ge=-1, le=1)] = None,
        model: Annotated[str, Query(description="which model, where the service has several")] = "",
        cursor: Annotated[str, Query(description="`next` of the answer before, to go on after its hits")] = "",
    ) -> Response:
        """The items nearest to a text, best first."""
        request = SearchRequest(
            text=q, k=k, where=_conditions(where), distinct=distinct, model=model or None, cursor=cursor or None
        )
        return await _search(service, request)

    @app.post("/search", response_model=SearchAnswer)
    async def by_anything(request: SearchRequest) -> Response:
        """The items nearest to a text, an image, an image changed by a text, a point cloud, or to good examples and away from bad ones."""
        return await _search(service, request)


def _conditions(where: str) -> dict[str, Any]:
    try:
        conditions = json.loads(where) if where else {}
    except (json.JSONDecodeError, RecursionError):
        conditions = None
    except ValueError:  # Python reads no whole numbers of more than 4,300 digits
        raise RequestError(400, "where holds a number of far too many digits") from None
    if not isinstance(conditions, dict):
        raise RequestError(422, 'where is not a JSON object (expected one such as {"split": "train"})')
    return conditions


async def _search(service: Service, request: SearchRequest) -> Response:
    side = service.side(request.model)
    if side.index is None:
        raise RequestError(404, f"'{side.name}' has no index to search: start the service with one (diptych serve MODEL INDEX)")
    if request.k > service.limits.k:
        raise RequestError(422, f"k is {request.k} (expected 1..{service.limits.k})")
    cursor, depth = cursor_of(request), service.limits.depth
    rank = 0 if cursor is None else cursor.rank
    if rank >= depth:
        raise RequestError(422, f"cursor is at rank {rank:,} (expected at most {depth:,}: narrow the search by `where`)")
    await service.refresh()
    reached = min(rank + request.k + 1 + (SLACK if cursor else 0), max(depth, request.k))
    plan = replace(await _plan(service, request), k=reached)
    try:
        side.index.check_mode(plan)
    except ConfigError as error:
        raise RequestError(422, str(error)) from None
    try:
        hits = await _answer(service, side.model, side.index, plan)
    except DecodeError as error:  # a cloud without the colours that the model reads, or the like
        raise RequestError(400, f"the model cannot read that cloud: {error.problem}") from None
    shown = [hit for hit in hits if not service.is_gone(hit.uid)]  # an index may not have been told yet
    page, first = page_of(shown, cursor, request.k)
    kept = [hit for hit in page if request.min_score is None or hit.score >= request.min_score]
    answer = [{"uid": hit.uid, "score": float(hit.score), "payload": jsonable(hit.payload)} for hit in kept]
    more = len(kept) == request.k and len(shown) > first + request.k and first + request.k < depth
    after = Cursor(first + len(kept), float(kept[-1].score), kept[-1].uid, search_hash(request)).text() if more else None
    index, text = side.index, request.text or ""
    suggestion = await service.aside(lambda: index.suggestion(text)) if text and cursor is None else ""
    return SafeJsonResponse({"hits": answer, "next": after, "suggestion": suggestion})


async def _plan(service: Service, request: SearchRequest) -> SearchPlan:
    """The request as a plan, its parts held against the limits."""
    limits = service.limits
    text = "" if request.text is None else text_of(request.text, "text", limits)
    like, unlike = (_uids(getattr(request, name), name, service) for name in ("like", "unlike"))
    image = None if request.image is None else await service.picture(request.image, "image")
    cloud = None
    if request.cloud is not None:
        if not isinstance(service.side(request.model).model, PointEmbedder):
            raise RequestError(422, f"'{service.side(request.model).name}' does not embed point clouds (expected no cloud)")
        cloud = await service.aside(partial(uploaded_cloud, request.cloud, request.cloud_format, limits))
    if not text and image is None and cloud is None and not like:
        raise RequestError(422, "nothing to search for (expected text, image, cloud or like)")
    options: dict[str, Any] = {"k": request.k, "where": request.where or None, "distinct": request.distinct, "mode": request.mode}
    return SearchPlan.of(text, image, like, unlike, request.weight, request.against, cloud=cloud, **options)


def _uids(given: str | list[str], name: str, service: Service) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) and given else list(given)
    return tuple(texts_of(listed, name, service.limits.inputs, service.limits))


async def _answer(service: Service, model: Any, index: Index, plan: SearchPlan) -> list[Hit]:
    """Hits of a search; texts and images are embedded in a batch with other requests where the index takes vectors."""
    hits: list[Hit]
    if index.takes_vectors(plan):

        def nearest(text_ND: Unit, image_ND: Unit) -> list[Hit]:
            return index.answer(plan.embedded(text_ND, image_ND))

        hits = await service.submit(model, nearest, texts=plan.texts, images=plan.images)
    else:
        hits = await service.submit(model, lambda texts, images: index.answer(plan), inside=plan.images)
    return hits
