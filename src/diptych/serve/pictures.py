"""A picture in a request: base64 or a data URL."""

from __future__ import annotations

import base64
import binascii

from diptych.serve.refusals import RequestError


def bytes_of(encoded: str, name: str) -> bytes:
    """The file behind base64 or a data URL. Raises Refused."""
    head, comma, rest = encoded.partition(",")
    if encoded.startswith("data:"):
        if not comma or not head.endswith(";base64"):
            raise RequestError(400, f"{name} is a data URL without base64 content (expected data:image/png;base64,...)")
        encoded = rest
    elif encoded.startswith(("http://", "https://", "file:")):
        raise RequestError(400, f"{name} is an address; this service fetches nothing (expected the image itself, in base64)")
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, f"{name} is not base64 (expected base64, or data:image/png;base64,...)") from None
    if not data:
        raise RequestError(400, f"{name} is empty (expected an image)")
    return data
