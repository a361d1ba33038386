"""What requests may hold, and how an image travels in them."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from diptych.core.image import BytesImage
from diptych.serve.app import Limits

ANY = 1 << 62  # pixels: the header is read first, so that too large is told from unreadable


class Refused(Exception):
    """A request that cannot be answered: HTTP status and one clear line."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class ImageInput(BaseModel):
    """An image as base64 or as a data URL (``data:image/png;base64,...``)."""

    model_config = ConfigDict(extra="forbid")
    image: str


class EmbeddingRequest(BaseModel):
    """As OpenAI clients send it; an input may be an image too. Fields that such clients add are ignored."""

    input: str | ImageInput | list[str | ImageInput]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


class SearchRequest(BaseModel):
    """At least one of text, image (base64 or data URL) and like (uid of an item); text and image together are composed."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = None
    image: str | None = None
    like: str | None = None
    weight: float = Field(default=2.0, ge=-100, le=100, description="of the text beside an image; negative removes what it names")
    k: int = Field(default=10, ge=1)
    where: dict[str, Any] = Field(default_factory=dict)


def image_of(encoded: str, name: str, limits: Limits) -> BytesImage:
    """Bytes behind base64 or a data URL, refused when they are no image (400) or have too many pixels (413)."""
    from diptych.core.errors import DecodeError
    from diptych.data.decode import probe

    head, comma, rest = encoded.partition(",")
    if encoded.startswith("data:"):
        if not comma or not head.endswith(";base64"):
            raise Refused(400, f"{name} is a data URL without base64 content (expected data:image/png;base64,...)")
        encoded = rest
    elif encoded.startswith(("http://", "https://", "file:")):
        raise Refused(400, f"{name} is an address; this service fetches nothing (expected the image itself, in base64)")
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{name} is not base64 (expected base64, or data:image/png;base64,...)") from None
    if not data:
        raise Refused(400, f"{name} is empty (expected an image)")
    try:
        info = probe(data, name=name, max_pixels=ANY)
    except DecodeError as error:
        raise Refused(400, f"{name} is not an image that can be read: {error.problem}") from None
    if info.width * info.height > limits.image_pixels:
        size = f"{info.width} x {info.height}"
        raise Refused(413, f"{name} has {size} pixels (expected at most {limits.image_pixels:,} in all)")
    return BytesImage(data, name)


def text_of(text: str, name: str, limits: Limits) -> str:
    if not text.strip():
        raise Refused(422, f"{name} is empty (expected some text)")
    if len(text) > limits.text_characters:
        raise Refused(413, f"{name} has {len(text):,} characters (expected at most {limits.text_characters:,})")
    return text
