"""A point cloud in a request: a file in base64."""

from __future__ import annotations

from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.image import BytesImage
from diptych.core.media import ArraySource, MediaItem, MediaLimit
from diptych.serve.admission.limits import Limits
from diptych.serve.pictures import bytes_of
from diptych.serve.refusals import RequestError


def uploaded_cloud(encoded: str, format: str, limits: Limits) -> MediaItem:
    """The decoded cloud of a request. PLY, PCD and .npy files say what they are; `format` names "obj", "off" or "xyz".

    Raises RequestError: 400 for what is no cloud, or has more points than the limit; 422 for a format whose reader is not installed.
    """
    data = bytes_of(encoded, "cloud")
    item = MediaItem("cloud", (BytesImage(data, f"cloud.{format}" if format else "cloud"),))
    try:
        cloud_PF = item.decode(limit=MediaLimit(limits.body_bytes, limits.cloud_points))
    except DecodeError as error:
        raise RequestError(400, f"cloud is not one that can be read: {error.problem}") from None
    except MissingExtra:
        raise RequestError(422, f"this service does not read .{format} files (expected PLY, PCD or .npy)") from None
    return MediaItem("cloud", (ArraySource(cloud_PF),))
