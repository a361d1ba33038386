"""What the largest pictures that are allowed take of memory: a stated number of bytes a pixel, however many threads decode."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from diptych.core.image import BytesImage
from diptych.data.media import decode as module
from diptych.data.media.decode import BYTES_A_PIXEL, DECODING, MAX_PIXELS, decode, on_white
from diptych.data.media.weighted_semaphore import WeightedSemaphore


def rgba_png(width: int, height: int) -> bytes:
    """Half transparent red, in next to no bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    deflate, row = zlib.compressobj(1), b"\0" + b"\xff\x00\x00\x80" * width
    rows = b"".join([*(deflate.compress(row) for _ in range(height)), deflate.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_transparent_pixels_in_stripes_are_what_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels_HW4 = np.random.default_rng(0).integers(0, 256, (37, 11, 4), dtype=np.uint8)
    for mode in ("RGBA", "LA", "P", "L", "RGB", "PA", "RGBa"):
        picture = Image.fromarray(pixels_HW4)
        picture = picture.quantize(16) if mode in ("P", "PA") else picture
        picture = picture.convert(mode)
        whole = on_white(module._eight_bits(picture, "x"))
        monkeypatch.setattr(module, "STRIPE", 40)
        np.testing.assert_array_equal(module._on_white(picture, "x"), whole)
        monkeypatch.undo()
    file = io.BytesIO()
    Image.fromarray(pixels_HW4[..., :3]).save(file, "PNG", transparency=tuple(pixels_HW4[5, 5, :3].tolist()))
    whole = decode(BytesImage(file.getvalue()))
    assert whole[5, 5].tolist() == [255, 255, 255]
    monkeypatch.setattr(module, "STRIPE", 40)
    np.testing.assert_array_equal(decode(BytesImage(file.getvalue())), whole)


LARGEST = [pytest.param(11_000, 9_000, threads, marks=pytest.mark.slow) for threads in (1, 3)]


@pytest.mark.parametrize(("width", "height", "threads"), [(4_000, 3_000, 1), *LARGEST])
def test_memory_of_a_transparent_picture_is_what_is_stated(width: int, height: int, threads: int) -> None:
    script = f"""
        import json, sys, threading
        sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
        from test_large_pictures import rgba_png
        from diptych.core.image import BytesImage
        from diptych.data.media import decode as module
        module.DECODING.__init__({width * height})  # room for one of them
        def peak():
            with open("/proc/self/status") as status:
                return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        picture = BytesImage(rgba_png({width}, {height}))
        module.decode(BytesImage(rgba_png(8, 8)))
        before, seen = peak(), []
        def one():
            pixels = module.decode(picture)
            seen.append((pixels.shape, pixels[5, 5].tolist()))
        every = [threading.Thread(target=one) for _ in range({threads})]
        for thread in every: thread.start()
        for thread in every: thread.join()
        print(json.dumps([peak() - before, seen]))
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    taken, seen = json.loads(done.stdout)
    assert seen == threads * [[[height, width, 3], [255, 127, 127]]]
    most = 9 * width * height + 3 * width * height * (threads - 1) + (48 << 20)  # what others have finished stays theirs
    assert taken < most, f"{taken / (width * height):.1f} bytes a pixel"


def test_the_bound_is_what_the_page_says() -> None:
    assert (MAX_PIXELS, BYTES_A_PIXEL, DECODING.whole) == (100_000_000, 24, MAX_PIXELS)


# ---------------------------------------------------------------- the room


def test_no_more_than_the_whole_is_taken_and_nobody_waits_for_ever() -> None:
    room, guard = WeightedSemaphore(10), threading.Lock()
    inside, most, done = 0, 0, 0

    def work(units: int) -> None:
        nonlocal inside, most, done
        for _ in range(20):
            with room.reserved(units):
                with guard:
                    inside += min(units, 10)
                    most = max(most, inside)
                time.sleep(0.0002)
                with guard:
                    inside -= min(units, 10)
        with guard:
            done += 1

    threads = [threading.Thread(target=work, args=(units,), daemon=True) for units in (1, 2, 3, 7, 10, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, most <= 10, most > 5) == (6, True, True)


def test_what_fails_gives_its_room_back() -> None:
    room = WeightedSemaphore(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), room.reserved(10):
            raise ValueError("x")
    with room.reserved(10):
        pass
