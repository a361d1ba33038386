"""Scan count of a JPEG, a bound on the cost of decoding it. A progressive one is sent in scans, each of which visits every block of the
picture again, and nothing in the format limits their number: 138 kB of repeated empty scans over 4000 x 4000 pixels keep a processor busy
for many seconds.

Encoders write about ten scans; libjpeg-turbo advises those who decode for strangers to take no more than a few hundred.
"""

from __future__ import annotations

import re

from diptych.core.errors import TooLarge

MAX_SCANS = 100
PASSES = 12
"""Scans over a picture of as many pixels as are allowed: smaller pictures may have more of them, up to `MAX_SCANS`."""

MAX_SEGMENTS = 10_000
"""Before and between scans. A colour profile takes a few hundred at most; each costs time where headers are read."""

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
SEQUENTIAL = (0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCD, 0xCF)
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)
"""The start of a segment: not a stuffed byte, nor a marker that stands alone, as restarts inside of scans do."""


def scan_count(data: bytes, name: str) -> int:
    """Scans that a decoder would read: 1 for a sequential JPEG with all its colours in one, which is where decoders stop. 0: it has none,
    or is no JPEG. Raises TooLarge if there are too many to be counted."""
    if not data.startswith(b"\xff\xd8\xff"):
        return 0
    at, scans, components = 2, 0, 0
    several = False
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None or match[1][0] == END_OF_IMAGE:
            return scans
        marker, at = match[1][0], match.end()
        if marker in PROGRESSIVE or marker in SEQUENTIAL:
            several = several or marker in PROGRESSIVE
            components = data[at + 7] if at + 7 < len(data) else 0
        if marker == START_OF_SCAN:
            scans += 1
            inside = data[at + 2] if at + 2 < len(data) else 0
            several = several or inside < components
            if not several:
                return scans
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    raise TooLarge(f"more than {MAX_SEGMENTS:,} segments, {scans:,} of them scans", file=name)


def refuse_scans(scans: int, width: int, height: int, name: str, max_pixels: int) -> None:
    """Raises TooLarge for a JPEG whose scans together visit far more pixels than a picture of `max_pixels` has."""
    most = min(MAX_SCANS, PASSES * max_pixels // max(1, width * height))
    if scans > most:
        raise TooLarge(f"{scans:,} scans over {width:,} x {height:,} pixels are more than the limit of {most}", file=name)
