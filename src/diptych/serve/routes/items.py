"""GET /items/UID and /image/UID: metadata of an item, and its picture, re-encoded."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Response

from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample
from diptych.data.media.decode import upright_size
from diptych.serve.answers import graph_answer, jsonable
from diptych.serve.page import PRIVATE
from diptych.serve.refusals import SafeJsonResponse
from diptych.serve.schema import ItemAnswer
from diptych.serve.service import Service

SIMPLE = (str, int, float)
Uid = Annotated[str, Path(description="name of the item", min_length=1, max_length=1000)]


def add(app: FastAPI, service: Service) -> None:
    @app.get("/items/{uid:path}", response_model=ItemAnswer)
    async def item(uid: Uid) -> Response:
        """Texts, provenance and other columns of an item, and its annotated objects and relations."""
        read = await service.reader_of(uid)
        return SafeJsonResponse(await service.aside(lambda: _item(read(), service.limits.image_pixels)))

    @app.get(
        "/image/{uid:path}",
        response_class=Response,
        responses={200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def image(
        uid: Uid,
        side: Annotated[int, Query(ge=16, le=1024)] = 256,
        medium: Annotated[str, Query(description="another medium of the item, by name", max_length=100)] = "",
    ) -> Response:
        """A picture of at most `side` pixels per side. Nothing of the file but its pixels goes out."""
        data = await service.thumbnail(uid, side, medium)
        return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600", **PRIVATE})


def _item(sample: Sample, max_pixels: int) -> dict[str, Any]:
    width, height = _size(sample.image, max_pixels)
    image = sample.image is not None and width is not None
    return {
        "uid": sample.uid,
        "texts": [{"text": t.string, "language": t.language, "origin": t.origin} for t in sample.texts],
        "group": sample.group,
        "licence": sample.licence,
        "source": sample.source,
        "columns": _columns(sample),
        "image": image,
        "width": width,
        "height": height,
        "shown": image or bool(sample.media),
        "media": {name: item.medium for name, item in sample.media.items()},
        "graph": graph_answer(sample.graph, width, height) if sample.regions and width and height else None,
    }


def _columns(sample: Sample) -> dict[str, Any]:
    """Extra columns that can be displayed: strings, numbers, and lists of them."""
    columns = {
        name: jsonable(value) for name, value in sample.extras.items() if all(isinstance(one, SIMPLE) for one in _parts(value))
    }
    return {name: value for name, value in columns.items() if value not in (None, "", [])}


def _parts(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _size(image: ImageSource | None, max_pixels: int) -> tuple[int, int] | tuple[None, None]:
    """Width and height of the upright picture, by its header."""
    if isinstance(image, ArrayImage):
        return image.pixels_HWC.shape[1], image.pixels_HWC.shape[0]
    if image is None:
        return None, None
    try:
        return upright_size(image.read(), name="image", max_pixels=max_pixels)
    except (DecodeError, OSError):
        return None, None
