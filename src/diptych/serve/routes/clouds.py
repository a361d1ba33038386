"""GET /cloud/UID: points of an item's point cloud, for a view that the reader turns."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Response

from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.media import MediaItem
from diptych.data.media.cloud_pictures import sampled_view
from diptych.data.media.cloud_views import Up
from diptych.index.embed import cloud_of
from diptych.serve.page import PRIVATE
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.schema import CloudAnswer
from diptych.serve.service import Service

MOST = 20_000
"""Points of an answer at most."""


def add(app: FastAPI, service: Service) -> None:
    @app.get("/cloud/{uid:path}", response_model=CloudAnswer)
    async def cloud(
        uid: Annotated[str, Path(description="name of the item", min_length=1, max_length=1000)],
        points: Annotated[int, Query(ge=1, le=MOST, description="points at most, drawn at random")] = 4096,
        medium: Annotated[str, Query(description="which cloud of the item, by name", max_length=100)] = "",
    ) -> Response:
        """Points of an item's cloud: z up, in the unit ball around the middle of the cloud, with colours if it has any."""
        read = await service.reader_of(uid)
        sample = await service.aside(read)
        item = sample.media.get(medium) if medium else cloud_of(sample)
        if item is None or item.medium != "cloud":
            raise RequestError(404, "that item has no point cloud" + (f" '{medium}'" if medium else ""))
        answer = await service.aside(lambda: _points(item, points, service.cloud_up))
        return SafeJsonResponse(answer, headers={"Cache-Control": "private, max-age=3600", **PRIVATE})


def _points(item: MediaItem, most: int, up: Up) -> dict[str, Any]:
    try:
        cloud_PF = item.decode()
    except (DecodeError, MissingExtra, OSError):
        raise RequestError(404, "the cloud of that item cannot be read") from None
    xyz_P3, colour_P3 = sampled_view(cloud_PF, most, up=up)
    return {
        "count": len(cloud_PF),
        "points": xyz_P3.round(3).tolist(),
        "colours": None if colour_P3 is None else colour_P3.tolist(),
    }
