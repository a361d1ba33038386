"""A service in a process of its own, with few descriptors, as an attacker finds it."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from warm_programs import Program

SERVICE = """
import json, os, resource, sys, time
import numpy as np
from diptych.data.media.decode import decode
from diptych.serve import Limits, create_app, run

limits, descriptors, log = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)

class Grey:
    name, fingerprint = "grey", "f00d"
    def embed_images(self, images, *, batch_size=64):
        return np.stack([np.append(decode(image).reshape(-1, 3).mean(0), 1) for image in images]).astype(np.float32)
    def embed_texts(self, texts, *, batch_size=64):
        time.sleep(60 * ("sleep" in texts))
        return np.ones((len(texts), 4), np.float32)

app = create_app(Grey(), limits=Limits(**json.loads(limits)))
number = run(app, port=0, announce=lambda address: print(address, flush=True))
sys.exit(128 + number if number else 0)
"""


def repeated_scans(size: tuple[int, int], more: int) -> bytes:
    """A progressive JPEG of one colour whose last scan is repeated so many times."""
    file = io.BytesIO()
    Image.new("RGB", size, (9, 200, 40)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + more * last + data[-2:]


@dataclass
class Victim:
    """A service under attack. `log` is the file that its stderr goes to."""

    address: str
    process: Program
    log: Path

    @property
    def place(self) -> tuple[str, int]:
        host, port = self.address.removeprefix("http://").rstrip("/").split(":")
        return host, int(port)

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def children(self) -> list[int]:
        return [int(one) for one in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def gone(self, child: int, seconds: float = 2.0) -> bool:
        """Whether a child is ended within that time."""
        deadline = time.monotonic() + seconds
        while child in self.children and time.monotonic() < deadline:
            time.sleep(0.02)
        return child not in self.children

    def memory(self, name: str = "VmHWM") -> int:
        """Bytes of the service itself: at most so far, or now (VmRSS)."""
        (line,) = [one for one in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if one.startswith(name)]
        return 1024 * int(line.split()[1])

    def embed(self, *pictures: bytes, timeout: float = 60) -> httpx.Response:
        inputs = [{"image": base64.b64encode(picture).decode()} for picture in pictures]
        return httpx.post(f"{self.address}v1/embeddings", json={"input": inputs}, timeout=timeout)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]  # each line is JSON, or this fails

    def count(self, metric: str) -> float:
        for line in httpx.get(f"{self.address}metrics").text.splitlines():
            if line.startswith(metric + " "):
                return float(line.split()[-1])
        return 0.0

    def answers(self) -> float:
        """Seconds that an honest client waits for the cheapest answer."""
        begun = time.perf_counter()
        assert httpx.get(f"{self.address}healthz", timeout=10).status_code == 200
        return time.perf_counter() - begun


@contextmanager
def victim(folder: Path, *, descriptors: int = 400, **limits: float) -> Iterator[Victim]:
    log = folder / "log"
    process = Program("-c", SERVICE, json.dumps({"connections": 100} | limits), str(descriptors), str(log))
    address = process.stdout.readline().strip()
    assert address.startswith("http://"), log.read_text() if log.exists() else process.communicate()[1]
    started = Victim(address, process, log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                started.answers()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield started
    finally:
        process.kill()
        process.communicate()
