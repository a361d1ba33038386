"""Image decoding in separate processes, which are killed on timeout or when the client disconnects.

A thread cannot be ended, and a decoder that a picture keeps busy would keep a place of the service for as long.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError, TooLarge

Pixels = npt.NDArray[np.uint8]
Admit = Callable[[int, int], None]
"""Gets width and height before anything is decoded; what it raises ends the question."""
PIECE = 1 << 20
START_SECONDS = 30.0
"""Of a process; they do not count as time of its first picture."""
ENVIRONMENT = ("PATH", "PYTHON", "LD_", "LANG", "LC_", "TMP", "HOME", "VIRTUAL_ENV")
"""Environment variables passed to a decoder process; the token of the service is not among them."""
MODULE = "diptych.data.media.decode_child"


class DecoderPool:
    """A few processes that decode, started when they are first needed.

    count       how many, at most
    seconds     that one picture may take
    max_pixels  of one picture
    """

    def __init__(self, count: int, seconds: float, max_pixels: int) -> None:
        self.seconds, self.max_pixels = seconds, max_pixels
        self._free = asyncio.Semaphore(count)
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: set[asyncio.subprocess.Process] = set()

    async def pixels(self, data: bytes, name: str, admit: Admit) -> Pixels:
        """uint8 RGB [H, W, 3], as `decode(exact=True)` gives it. Raises DecodeError, TooLarge, and what `admit` raises."""
        fields, content = await self._request(data, name, 0, admit)
        return np.frombuffer(content, np.uint8).reshape(fields["shape"])

    async def thumbnail(self, data: bytes, name: str, side: int) -> bytes:
        """WebP of at most `side` pixels per side. Raises as `pixels`."""
        _, content = await self._request(data, name, side, lambda width, height: None)
        return bytes(content)

    async def close(self) -> None:
        """End them all."""
        ended = list(self._all)
        for child in ended:
            self._end(child)
        self._idle.clear()
        for child in ended:
            await child.wait()

    async def _request(self, data: bytes, name: str, side: int, admit: Admit) -> tuple[dict[str, Any], bytearray]:
        question = {"name": name, "max_pixels": self.max_pixels, "side": side}
        async with self._free:
            child = self._idle.pop() if self._idle else await self._start()
            sound = False
            try:
                async with asyncio.timeout(self.seconds):
                    await _send(child, question, data)
                    size, _ = await _receive(child)
                    if "problem" not in size:
                        try:
                            admit(size["width"], size["height"])
                        except BaseException:
                            await _send(child, {"go": False})
                            sound = True
                            raise
                        await _send(child, {"go": True})
                        size, content = await _receive(child)
                    sound = True
            except TimeoutError:
                raise TooLarge(f"it takes more than {self.seconds:g} seconds to decode", file=name) from None
            except (OSError, EOFError):
                raise DecodeError("it cannot be decoded: the decoder broke off", file=name) from None
            finally:  # also when the client's time is over, and this task is cancelled
                if sound:
                    self._idle.append(child)
                else:
                    self._end(child)
        if "problem" in size:
            raise (TooLarge if size["too_large"] else DecodeError)(size["problem"], file=name)
        return size, content

    async def _start(self) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", MODULE, str(math.ceil(self.seconds) + 1), str(self.max_pixels)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=PIECE,
            env={**{name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}, "OMP_NUM_THREADS": "1"},
        )
        self._all.add(child)
        try:
            async with asyncio.timeout(START_SECONDS):
                await _receive(child)
        except BaseException as error:
            self._end(child)
            if isinstance(error, TimeoutError | OSError | EOFError):
                raise DecodeError("it cannot be decoded: no decoder starts", file=MODULE) from None
            raise
        return child

    def _end(self, child: asyncio.subprocess.Process) -> None:
        self._all.discard(child)
        if child.returncode is None:
            child.kill()


async def _send(child: asyncio.subprocess.Process, fields: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps({**fields, "bytes": len(data)}).encode()
    assert child.stdin is not None
    child.stdin.write(struct.pack(">I", len(text)) + text)
    child.stdin.write(data)
    await child.stdin.drain()


async def _receive(child: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytearray]:
    assert child.stdout is not None
    (length,) = struct.unpack(">I", await child.stdout.readexactly(4))  # IncompleteReadError is an EOFError
    fields: dict[str, Any] = json.loads(await child.stdout.readexactly(length))
    content = bytearray()
    while len(content) < fields["bytes"]:
        piece = await child.stdout.read(min(PIECE, fields["bytes"] - len(content)))
        if not piece:
            raise EOFError
        content += piece
    return fields, content
