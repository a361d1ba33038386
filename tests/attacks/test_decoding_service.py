"""What pictures can do to the service: keep a decoder busy, take memory by declaring pixels, hold up its end."""

from __future__ import annotations

import io
import os
import signal
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import Victim, repeated_scans, victim

LIMITS = {"image_pixels": 400_000_000, "decode_seconds": 1.5, "seconds": 8, "queue_bytes": 120_000_000, "drain_seconds": 1}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with victim(tmp_path_factory.mktemp("victim"), **LIMITS) as started:
        wait_for_decoder(started)
        yield started


def wait_for_decoder(service: Victim) -> None:
    """On a busy machine a decoder takes longer to start than a request may wait."""
    assert any(service.embed(png(8, 8)).status_code == 200 for _ in range(10)), "no decoder has started"


def png(width: int, height: int) -> bytes:
    """A sound picture of one colour, in next to no bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x10\x20\x30" * width) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def error(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def busy(process: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_pixels_are_those_of_the_library(service: Victim) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    alpha = pixels[..., 3:].astype(int)
    white = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    (found,) = service.embed(file.getvalue()).json()["data"]
    assert found["embedding"][:3] == pytest.approx(white.reshape(-1, 3).mean(0), abs=1e-3)


def test_a_picture_of_repeated_scans_is_refused_by_counting(service: Victim) -> None:
    bomb = repeated_scans((4000, 4000), 5000)
    answer = service.embed(bomb)
    assert answer.status_code == 413
    assert "5,010 scans over 4,000 x 4,000 pixels" in error(answer)  # and not that it took too long


def test_a_decoder_that_takes_too_long_is_ended(service: Victim) -> None:
    slow = repeated_scans((5600, 5600), 85)  # fewer than a picture of that size may have
    before = set(service.children)
    answer = service.embed(slow)
    assert answer.status_code == 413
    assert "more than 1.5 seconds to decode" in error(answer)
    deadline = time.monotonic() + 5
    while before <= set(service.children):
        assert time.monotonic() < deadline, "the decoder is still there"
        time.sleep(0.02)
    assert service.embed(png(8, 8)).status_code == 200


def test_honest_clients_are_answered_meanwhile(service: Victim) -> None:
    slow = repeated_scans((5600, 5600), 85)
    with ThreadPoolExecutor(8) as threads:
        attack = [threads.submit(service.embed, slow) for _ in range(8)]
        waits = [service.answers() for _ in range(10)]
        texts = httpx.post(f"{service.address}v1/embeddings", json={"input": "a"}, timeout=10)
        assert {future.result().status_code for future in attack} <= {413, 429, 503}
    assert texts.status_code == 200
    assert max(waits) < 3.0
    time.sleep(0.3)
    before = {child: busy(child) for child in service.children}
    time.sleep(1.0)
    assert all(busy(child) - before[child] < 0.2 for child in service.children if child in before), "decoding goes on for nobody"


def test_memory_is_admitted_by_declared_pixels(tmp_path: Path) -> None:
    large = png(5500, 5500)  # 30 million pixels, 91 MB; one fits
    assert len(large) < 505_000
    with victim(tmp_path, image_pixels=100_000_000, queue_bytes=120_000_000) as service:
        wait_for_decoder(service)
        before = service.memory("VmRSS")
        with ThreadPoolExecutor(6) as threads:
            statuses = [answer.status_code for answer in threads.map(lambda _: service.embed(large), range(6))]
        assert 200 in statuses
        assert 429 in statuses
        assert set(statuses) == {200, 429}
        assert service.memory() - before < 300e6  # one picture, and the model's own sums
        assert service.embed(png(8, 8)).status_code == 200, "memory was not given back"


def test_one_request_cannot_ask_for_more_than_all(service: Victim) -> None:
    answer = service.embed(*[png(3000, 3000)] * 20)
    assert answer.status_code == 413
    assert "120,000,000 bytes" in error(answer)
    assert service.embed(png(3000, 3000)).status_code == 200


def test_the_time_of_an_answer_holds_for_pictures_too(tmp_path: Path) -> None:
    with victim(tmp_path, image_pixels=400_000_000, decode_seconds=60, seconds=2) as service:
        wait_for_decoder(service)
        (child,) = service.children
        answer = service.embed(repeated_scans((8000, 8000), 64))
        assert answer.status_code == 503
        assert "no answer within 2 seconds" in error(answer)
        assert service.gone(child, 5)


def test_it_ends_in_time_with_a_model_that_does_not(tmp_path: Path) -> None:
    with victim(tmp_path, **LIMITS) as service:
        with ThreadPoolExecutor(2) as threads:
            asked = threads.submit(httpx.post, f"{service.address}v1/embeddings", json={"input": "sleep"}, timeout=30)
            time.sleep(0.5)
            begun = time.perf_counter()
            service.process.send_signal(signal.SIGTERM)
            service.process.wait(LIMITS["drain_seconds"] + 8)
            assert time.perf_counter() - begun < LIMITS["drain_seconds"] + 6
            assert service.process.returncode == 143
            assert isinstance(asked.exception(), httpx.TransportError) or asked.result().status_code == 503
        assert [event["event"] for event in service.events if event["event"] != "request"][-1] == "stopped"
