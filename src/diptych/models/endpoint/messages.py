"""Messages of a chat-completions request: text, and pictures as data URLs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, ImageSource, content_untold
from diptych.core.prompt import PromptLike, as_dialogue, text_only
from diptych.data.media.decode import decode, encode_png, probe
from diptych.models.io.foreign.chat import pictures_in_order

SENT = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that servers read: their bytes go as they are. Others, and what is not upright or has several frames, go as PNG."""
TURNED = (b"Exif", b"eXIf")
"""Where these bytes stand, a picture may have to be turned, which not every server does."""

Written = Callable[[ImageSource], str]


def messages_of(
    prompt: PromptLike, images: Sequence[ImageSource], written: Written, *, model: str, pictures: bool
) -> list[dict[str, Any]]:
    """One message per turn. `written` encodes a picture; without `pictures` the words are sent alone.

    Raises DataError for what a chat cannot hold (`models.io.foreign.chat`).
    """
    if not pictures:
        return [{"role": turn.role, "content": turn.text} for turn in as_dialogue(prompt).turns]
    turns, sources = pictures_in_order(as_dialogue(prompt if images else text_only(prompt)), images, model=model)
    left = iter(sources)
    for turn in turns:
        parts = [
            part if part["type"] == "text" else {"type": "image_url", "image_url": {"url": written(next(left))}}
            for part in turn["content"]
        ]
        alone = len(parts) == 1 and parts[0]["type"] == "text"  # which servers of language models take in no other form
        turn["content"] = parts[0]["text"] if alone else parts
    return turns


def data_url(source: ImageSource) -> str:
    """The picture in base64. Raises DecodeError for bytes that are no sound image."""
    kind, data = _encoded(source)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture_key(source: ImageSource) -> str:
    """Placeholder of a picture in a cache key: a hash of the bytes that would be sent."""
    kind, data = _encoded(source)
    return f"{kind}:{hashlib.sha256(data).hexdigest()}"


def _encoded(source: ImageSource) -> tuple[str, bytes]:
    if isinstance(source, ArrayImage):
        return SENT["PNG"], encode_png(decode(source, exact=True))
    try:
        data = source.read()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}", file=source.name) from error
    with content_untold(source):
        info = probe(data, name=source.name)
    pixels_HWC = decode(source, exact=True)  # what cannot be decoded here is not sent
    if info.format in SENT and info.frames == 1 and info.mode in ("RGB", "L") and not any(one in data for one in TURNED):
        return SENT[info.format], data
    return SENT["PNG"], encode_png(pixels_HWC)
