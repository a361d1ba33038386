"""HEIC pictures, as phones write them, by libheif (extra `heif`); and which boxes of ISO files hold them, for AVIF has the same."""

from __future__ import annotations

from functools import cache

from diptych.core.errors import DecodeError, MissingExtra

FORMAT = "HEIF"
"""PIL's names of the formats, independent of the file suffix."""
_CODED = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_OPEN = (b"mif1", b"msf1")
"""Brands that name the codec, and those that leave it to the list of compatible ones."""


def is_heif(data: bytes) -> bool:
    """True if bytes begin like an HEVC-coded picture. AVIF, which PIL reads itself, does not count.

    >>> is_heif(bytes(4) + b"ftypheic"), is_heif(bytes(4) + b"ftypavif")
    (True, False)
    """
    if data[4:8] != b"ftyp":
        return False
    brand, size = data[8:12], min(int.from_bytes(data[:4], "big"), 256)
    also = [data[start : start + 4] for start in range(16, size, 4)]
    return brand in _CODED or (brand in _OPEN and any(one in _CODED for one in also))


@cache
def _register_opener() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtra("pillow-heif", "heif", needed_for="a HEIC picture") from error
    pillow_heif.register_heif_opener(thumbnails=False)


def register(name: str) -> None:
    """Let PIL open HEIC files. Raises DecodeError, which costs the sample alone, where the package is not installed."""
    try:
        _register_opener()
    except MissingExtra as error:
        raise DecodeError(str(error), file=name) from error
