"""A process that decodes pictures for another one, which can end it: `python -m diptych.data.media.decode_child`.

On stdin come questions, on stdout go answers, the first one when it is ready: each is 4 bytes (the length of a JSON object), the object,
and as many raw bytes as its `bytes` says. A picture is asked for in two steps, so that whoever asks can refuse what is large before it
takes memory:

    {"name", "max_pixels", "side", "bytes"} + the file   ->  {"width", "height"}, or {"problem", "too_large"}
    {"go": true}                                         ->  {"shape", "bytes"} + uint8 RGB; with `side`: {"bytes"} + WebP
    {"go": false}                                        ->  nothing; the next question may come

It ends when stdin does, when its memory limit is reached, and when one picture takes longer than its alarm, even without its parent.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

from diptych.core.errors import DecodeError, TooLarge
from diptych.core.image import BytesImage
from diptych.data.media.decode import BYTES_A_PIXEL, decode, small_webp, upright_size

BASE_BYTES = 1 << 30
"""Address space of Python, NumPy and the decoders, and of a file."""


def main() -> None:
    seconds, max_pixels = int(sys.argv[1]), int(sys.argv[2])
    limit = BASE_BYTES + BYTES_A_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which first answers what is under way
    source, out = sys.stdin.buffer, sys.stdout.buffer
    send(out, {"ready": True})
    while (question := receive(source)) is not None:
        signal.alarm(seconds)
        answer(*question, source, out)
        signal.alarm(0)


def answer(question: dict[str, Any], data: bytes, source: BinaryIO, out: BinaryIO) -> None:
    """Answers one question on `out`: the size of a picture, and its pixels or a small WebP once `source` says go; or what is wrong."""
    try:
        image, max_pixels = BytesImage(data, question["name"]), question["max_pixels"]
        width, height = upright_size(data, name=image.name, max_pixels=max_pixels)
        send(out, {"width": width, "height": height})
        go = receive(source)
        if go is None or not go[0]["go"]:
            return
        if question["side"]:
            send(out, {}, small_webp(image, question["side"], max_pixels=max_pixels))
        else:
            pixels_HWC = decode(image, exact=True, max_pixels=max_pixels)
            send(out, {"shape": pixels_HWC.shape}, pixels_HWC.data)
    except DecodeError as error:
        send(out, {"problem": error.problem, "too_large": isinstance(error, TooLarge)})
    except MemoryError:
        send(out, {"problem": "it takes too much memory to decode", "too_large": True})


def receive(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next object and its bytes; None at the end."""
    head = source.read(4)
    if len(head) < 4:
        return None
    fields: dict[str, Any] = json.loads(source.read(struct.unpack(">I", head)[0]))
    return fields, source.read(fields.get("bytes", 0))


def send(out: BinaryIO, fields: dict[str, Any], data: bytes | memoryview = b"") -> None:
    """Write an object and its bytes: four bytes of length, big-endian, JSON with the count of bytes, and these."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    text = json.dumps({**fields, "bytes": size}).encode()
    out.write(struct.pack(">I", len(text)) + text)
    out.write(data)
    out.flush()


if __name__ == "__main__":
    main()
