"""The service under load, on this machine: what batching gains, how long answers take, what happens beyond what it can do.

    python benchmarks/serving.py [--seconds 8] [--requests 20000]

A small dual encoder with fresh weights (text: 6 layers of width 256; images: a transformer of 64 pixels) over 1,000 rendered scenes.
Service and clients share the cores; clients are plain sockets that stay open. One service at a time, each in a process of its own.

    throughput  as many as come back in a closed loop of 32 clients, batches of one against batches of up to 64
    latency     requests that come by themselves (Poisson) at half of that, and the closed loop itself (full load)
    beyond      twice as many as it can answer, a queue of 32: how many are refused, and how long the others take
    memory      20,000 requests of all kinds; resident memory on the way and at the end
    engines     PyTorch against ONNX Runtime, milliseconds an input
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.core.environment import environment
from diptych.core.files import write_json
from diptych.core.image import ArrayImage
from diptych.data.decode import encode_webp
from diptych.data.tokenize import Tokenizer
from diptych.data.transforms import Preprocess
from diptych.index.dense import DenseIndex
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedder import PairEmbedder
from diptych.models.export import to_onnx
from diptych.models.onnx_embedder import OnnxEmbedder
from diptych.models.towers import image_tower, text_tower
from diptych.worlds import scenes

CLIENTS, ITEMS, WORLD = 32, 1000, "world:scenes?n=1000&val=1&test=1"
QUERIES = [
    f"a {size} {colour} {shape} {where} a {other} star"
    for size in ("small", "large", "tiny")
    for colour in ("red", "green", "blue", "yellow", "purple")
    for shape in ("circle", "square", "triangle", "ring", "cross")
    for where in ("left of", "right of", "above", "below")
    for other in ("red", "green", "white")
]


def model() -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(QUERIES, 600)
    text = text_tower("text_clip", vocab_size=words.vocab_size, eot_id=words.eot_id, length=24, width=256, layers=6, heads=4)
    return PairEmbedder(DualEncoder(image_tower("vit_tiny", image_size=64), text, width=128), Preprocess(64), words, 24, "load")


# ---------------------------------------------------------------- the service, in a process of its own


@contextmanager
def served(folder: Path, *options: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "diptych.cli", "serve", str(folder / "model"), str(folder / "index"), "--data", WORLD]
    process = subprocess.Popen([*command, "--port", str(port), *options], stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the service did not start") from None
                time.sleep(0.1)
        yield port
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise SystemExit(f"the service ended with {process.returncode}")
    finally:
        process.kill()


# ---------------------------------------------------------------- clients


@dataclass
class Seen:
    """What clients saw: milliseconds by status."""

    ms: dict[int, list[float]] = field(default_factory=dict)
    without_time: int = 0  # refusals that do not say when to try again
    seconds: float = 0.0

    def add(self, status: int, ms: float, head: bytes) -> None:
        self.ms.setdefault(status, []).append(ms)
        self.without_time += status == 429 and b"retry-after:" not in head.lower()

    @property
    def good(self) -> list[float]:
        return self.ms.get(200, [])

    def row(self) -> dict[str, Any]:
        cuts = statistics.quantiles(self.good, n=100) if len(self.good) > 1 else [0.0] * 99
        return {
            "answers_per_second": round(len(self.good) / self.seconds, 1),
            "p50_ms": round(cuts[49], 1),
            "p95_ms": round(cuts[94], 1),
            "p99_ms": round(cuts[98], 1),
            "statuses": {str(status): len(times) for status, times in sorted(self.ms.items())},
        }


class Line:
    """One open connection."""

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer = port, None, None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        await self.reader.readexactly(int(length[1]) if length else 0)
        if b"connection: close" in head.lower():
            self.writer.close()
            self.writer = None
        return int(head[9:12]), head


def post(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def words(number: int) -> bytes:
    return post("/search", {"text": QUERIES[number % len(QUERIES)], "k": 10})


async def closed(port: int, ask: Callable[[int], bytes], *, seconds: float = 0.0, count: int = 0) -> Seen:
    """Every client asks again as soon as it has its answer."""
    seen, begin, numbers = Seen(), time.perf_counter(), iter(range(count or 10**9))

    async def client() -> None:
        line = Line(port)
        for number in numbers:
            start = time.perf_counter()
            status, head = await line.send(ask(number))
            seen.add(status, 1000 * (time.perf_counter() - start), head)
            if seconds and time.perf_counter() - begin > seconds:
                return

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    seen.seconds = time.perf_counter() - begin
    return seen


async def opened(port: int, ask: Callable[[int], bytes], rate: float, seconds: float) -> Seen:
    """Requests come by themselves, `rate` a second, whether others have been answered or not."""
    seen, begin, rng, free, tasks = Seen(), time.perf_counter(), random.Random(0), list[Line](), list[asyncio.Task[None]]()

    async def one(number: int, due: float) -> None:
        line = free.pop() if free else Line(port)
        status, head = await line.send(ask(number))
        seen.add(status, 1000 * (time.perf_counter() - due), head)  # from when it was due: a client that lags hides nothing
        free.append(line)

    due, number = begin, 0
    while due < begin + seconds:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number, due)))
        due, number = due + rng.expovariate(rate), number + 1
    await asyncio.gather(*tasks)
    seen.seconds = time.perf_counter() - begin
    return seen


# ---------------------------------------------------------------- the parts


def throughput_and_latency(folder: Path, seconds: float) -> dict[str, Any]:
    with served(folder, "--batch", "1") as port:
        asyncio.run(closed(port, words, seconds=2))
        one = asyncio.run(closed(port, words, seconds=seconds))
    with served(folder) as port:
        asyncio.run(closed(port, words, seconds=2))
        full = asyncio.run(closed(port, words, seconds=seconds))
        rate = len(full.good) / full.seconds
        half = asyncio.run(opened(port, words, rate / 2, seconds))
    ratio = round(rate / (len(one.good) / one.seconds), 2)
    return {"unbatched": one.row(), "full load": full.row(), "half load": half.row(), "batched_to_unbatched": ratio}


def beyond(folder: Path, seconds: float, rate: float) -> dict[str, Any]:
    with served(folder, "--queue", "32") as port:
        asyncio.run(closed(port, words, seconds=2))
        seen = asyncio.run(opened(port, words, 2 * rate, seconds))
        after = asyncio.run(opened(port, words, rate / 4, 2.0))
    asked = sum(map(len, seen.ms.values()))
    return {
        **seen.row(),
        "asked_per_second": round(asked / seconds, 1),
        "refused_share": round(len(seen.ms.get(429, [])) / asked, 3),
        "refused_without_a_time": seen.without_time,
        "statuses_after": after.row()["statuses"],
    }


def memory(folder: Path, requests: int) -> dict[str, Any]:
    data = scenes(20, seed=1)
    images = [data[row].image for row in range(20)]
    pictures = [encode_webp(image.pixels_HWC) for image in images if isinstance(image, ArrayImage)]
    texts = [base64.b64encode(picture).decode() for picture in pictures]
    uids = list(scenes(ITEMS, seed=0).uids)

    def ask(number: int) -> bytes:
        kinds: list[Callable[[], bytes]] = [
            lambda: words(number),
            lambda: post("/search", {"image": texts[number % 20], "k": 10, "distinct": 0.95}),
            lambda: post("/v1/embeddings", {"input": [QUERIES[number % len(QUERIES)], {"image": texts[number % 20]}]}),
            lambda: get(f"/image/{uids[number % ITEMS]}"),
            lambda: get(f"/items/{uids[number % ITEMS]}"),
            lambda: post("/search", {"image": "no picture"}),
        ]
        return kinds[number % len(kinds)]()

    with served(folder) as port:
        statuses: Counter[int] = Counter()
        marks, step = [], requests // 5
        for _ in range(5):
            seen = asyncio.run(closed(port, ask, count=step))
            statuses.update({status: len(times) for status, times in seen.ms.items()})
            marks.append(round(resident(port) / 1e6, 1))
    return {
        "requests": requests,
        "megabytes_after_each_fifth": marks,
        "megabytes_more_from_the_second_fifth_on": round(marks[-1] - marks[1], 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
    }


def resident(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = re.search(r"^process_resident_memory_bytes (\S+)", answer.read().decode(), re.MULTILINE)
    if found is None:
        raise SystemExit("no memory among the metrics")
    return float(found[1])


def engines(folder: Path) -> list[dict[str, Any]]:
    ours = model()
    to_onnx(ours, folder / "onnx")
    theirs = OnnxEmbedder(folder / "onnx")
    data = scenes(64, seed=2)
    images = [data[row].image for row in range(64)]
    inputs: dict[str, tuple[str, list[Any]]] = {"text": ("embed_texts", QUERIES[:64]), "image": ("embed_images", images)}
    rows = []
    for what, (name, given) in inputs.items():
        worst = float(np.abs(getattr(ours, name)(given) - getattr(theirs, name)(given)).max())
        for size in (1, 64):
            took = {"torch": [], "onnx": []}
            for _ in range(15):  # the ways take turns
                for engine, embed in (("torch", getattr(ours, name)), ("onnx", getattr(theirs, name))):
                    start = time.perf_counter()
                    embed(given[:size])
                    took[engine].append((time.perf_counter() - start) / size * 1000)
            torch_ms, onnx_ms = (statistics.median(took[engine]) for engine in ("torch", "onnx"))
            ratio = {"torch_ms": round(torch_ms, 3), "onnx_ms": round(onnx_ms, 3), "times": round(torch_ms / onnx_ms, 2)}
            rows.append({"input": what, "batch": size, **ratio, "largest_difference": float(f"{worst:.1e}")})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--requests", type=int, default=20_000, help="of the memory test")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = model()
        made.save(folder / "model")
        DenseIndex.build(made, scenes(ITEMS, seed=0), folder / "index", progress=False).close()
        found: dict[str, Any] = throughput_and_latency(folder, options.seconds)
        show(found, "unbatched", "full load", "half load")
        print(f"batched to unbatched: {found['batched_to_unbatched']}", flush=True)
        found["beyond"] = beyond(folder, options.seconds, found["full load"]["answers_per_second"])
        show(found, "beyond")
        found["engines"] = engines(folder)
        for row in found["engines"]:
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        found["memory"] = memory(folder, options.requests)
        show(found, "memory")
    load = round(os.getloadavg()[0], 2)
    facts = {"name": "serving", "date": datetime.now(UTC).date().isoformat(), "environment": environment(), "load_average": load}
    write_json(Path(__file__).parent / "results" / "serving.json", {**facts, **found})


def show(found: dict[str, Any], *parts: str) -> None:
    for part in parts:
        print(f"{part:10} " + "  ".join(f"{name} {value}" for name, value in found[part].items()), flush=True)


if __name__ == "__main__":
    main()
