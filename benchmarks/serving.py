"""The HTTP service under load: gain by batching, latency, and behaviour under overload.

    python benchmarks/serving.py [--only alive load steady engines memory growing reload] [--seconds 4] [--steady 20] [--requests 4000]

A small dual encoder with fresh weights (text: 6 layers of width 256; images: a transformer of 64 pixels) over 1,000 rendered scenes.
Service and clients share the cores; clients are plain sockets that stay open. Each service is a process of its own.

    alive    one request after the other on one open connection, milliseconds: with TCP_NODELAY, and as it was without
    load     searches by text. As many as come back in a closed loop of 32 clients (full load), in batches of one and of up to 64; half of
             that, coming by themselves (Poisson); twice of that, with a queue of 32: how many are refused, how long the others take
    steady   searches by text of 50 clients for --steady seconds at 70 % of what a closed loop of them gets: times, errors, resident memory
    engines  PyTorch against ONNX Runtime, milliseconds an input
    growing  searches of 50 clients at 30 % of a closed loop, for --steady seconds, alone and while 20 items a second come (POST /items)
    reload   the same while an index of another model is built and takes over (POST /admin/reload)
    memory   --requests requests of all kinds; resident memory on the way and at the end
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import re
import shutil
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
from pathlib import Path
from typing import Any

import numpy as np
import serving_changes
import torch
from machine_results import Figure, Peer, facts, keep, last

from diptych.core.image import ArrayImage
from diptych.data.media.decode import encode_webp
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.index.kinds.dense import DenseIndex
from diptych.models.io.export.onnx_embedder import OnnxEmbedder
from diptych.models.io.export.onnx_files import to_onnx
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.worlds import scenes

STEADY_CLIENTS, STEADY_SHARE = 50, 0.7
CLIENTS, ITEMS, ROUNDS, WORLD = 32, 1000, 4, "world:scenes?n=1000&val=1&test=1"
QUERIES = [
    f"a {size} {colour} {shape} {where} a {other} star"
    for size in ("small", "large", "tiny")
    for colour in ("red", "green", "blue", "yellow", "purple")
    for shape in ("circle", "square", "triangle", "ring", "cross")
    for where in ("left of", "right of", "above", "below")
    for other in ("red", "green", "white")
]


def model(image: str = "vit_tiny") -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(QUERIES, 600)
    text = text_tower("text_clip", vocab_size=words.vocab_size, eot_id=words.eot_id, length=24, width=256, layers=6, heads=4)
    return PairEmbedder(
        DualEncoder(image_tower(image, **({"image_size": 64} if image == "vit_tiny" else {})), text, width=128),
        Preprocess(64),
        words,
        24,
        "load",
    )


# ---------------------------------------------------------------- the service, in a process of its own


@contextmanager
def served(folder: Path, *options: str, index: str = "index", before: str = "", data: str = WORLD) -> Iterator[int]:
    """The port of `diptych serve`; `before` is run in its process first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = f"{before}import sys; from diptych.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "serve", str(folder / "model"), str(folder / index), "--data", data]
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
        if process.wait(60) != 128 + signal.SIGTERM:
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


async def closed(port: int, ask: Callable[[int], bytes], *, seconds: float = 0.0, count: int = 0, clients: int = CLIENTS) -> Seen:
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

    await asyncio.gather(*(client() for _ in range(clients)))
    seen.seconds = time.perf_counter() - begin
    return seen


async def paced(port: int, ask: Callable[[int], bytes], rate: float, seconds: float, clients: int) -> Seen:
    """Every client asks at times of its own, together `rate` a second, each on its one connection: what is late is counted from when
    it was due."""
    seen, begin, rng = Seen(), time.perf_counter(), random.Random(0)

    async def client() -> None:
        line, due = Line(port), begin + rng.expovariate(rate / clients)
        while due < begin + seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            status, head = await line.send(ask(rng.randrange(10**9)))
            seen.add(status, 1000 * (time.perf_counter() - due), head)
            due += rng.expovariate(rate / clients)

    await asyncio.gather(*(client() for _ in range(clients)))
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

DELAYED = "import socket, diptych.serve.server as server; server.listening_socket = lambda *place: socket.create_server(place); "


def alive(folder: Path) -> dict[str, dict[str, Any]]:
    """Both services stay up and take turns. `DELAYED` undoes what gives the listening socket its protocol number."""
    rows: dict[str, dict[str, Any]] = {}
    shutil.copytree(folder / "index", folder / "copy", dirs_exist_ok=True)
    with served(folder) as with_nodelay, served(folder, index="copy", before=DELAYED) as without:
        for name, request in (("GET /healthz", get("/healthz")), ("POST /search", words(0))):
            took: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(5):
                for way, port in (("with", with_nodelay), ("without", without)):
                    took[way] += asyncio.run(one_by_one(port, request, 40))
            rows[name] = {f"{cut}_ms_{way}_nodelay": _cut(took[way], cut) for way in took for cut in ("p50", "p99")}
    return rows


async def one_by_one(port: int, request: bytes, count: int) -> list[float]:
    """Milliseconds of each answer on a connection that stays open."""
    line, took = Line(port), list[float]()
    for _ in range(count):
        start = time.perf_counter()
        status, _ = await line.send(request)
        took.append(1000 * (time.perf_counter() - start))
        if status != 200:
            raise SystemExit(f"the service answered {status}")
    return took


def _cut(ms: list[float], name: str) -> float:
    return round(statistics.quantiles(ms, n=100)[int(name[1:]) - 1], 2)


def load(folder: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Rounds of both ways take turns, so that what else the machine does falls on both."""
    one, full, half = [], [], []
    shutil.copytree(folder / "index", folder / "copy", dirs_exist_ok=True)  # an index is open in one process at a time
    with served(folder, "--batch", "1", index="copy") as single, served(folder) as many:
        for port in (single, many):
            asyncio.run(closed(port, words, seconds=2))
        for _ in range(ROUNDS):
            one.append(asyncio.run(closed(single, words, seconds=seconds / ROUNDS)))
            full.append(asyncio.run(closed(many, words, seconds=seconds / ROUNDS)))
            half.append(asyncio.run(opened(many, words, len(full[-1].good) / full[-1].seconds / 2, seconds / ROUNDS)))
    rows = {"batches of one": joined(one).row(), "full load": joined(full).row(), "half load": joined(half).row()}
    ratios = [(len(b.good) / b.seconds) / (len(a.good) / a.seconds) for a, b in zip(one, full, strict=True)]
    rows["batched to unbatched"] = {"times": round(statistics.median(ratios), 2), "rounds": [round(ratio, 2) for ratio in ratios]}
    rows["twice the full load"] = beyond(folder, seconds, rows["full load"]["answers_per_second"])
    return rows


def steady(folder: Path, seconds: float) -> dict[str, Any]:
    """What an evening looks like: many clients, some way below the limit."""
    with served(folder) as port:
        asyncio.run(closed(port, words, seconds=3, clients=STEADY_CLIENTS))
        full = asyncio.run(closed(port, words, seconds=10, clients=STEADY_CLIENTS))
        rate = STEADY_SHARE * len(full.good) / full.seconds
        rounds, marks = list[Seen](), [round(resident(port) / 1e6, 1)]
        for _ in range(6):
            rounds.append(asyncio.run(paced(port, words, rate, seconds / 6, STEADY_CLIENTS)))
            marks.append(round(resident(port) / 1e6, 1))
    row = joined(rounds).row()
    errors = sum(count for status, count in row["statuses"].items() if status != "200")
    asked = {"full_load_per_second": round(len(full.good) / full.seconds, 1), "asked_per_second": round(rate, 1)}
    return {**asked, **row, "errors": errors, "megabytes_before_and_after_each_sixth": marks}


def joined(rounds: list[Seen]) -> Seen:
    whole = Seen(seconds=sum(seen.seconds for seen in rounds))
    for seen in rounds:
        whole.without_time += seen.without_time
        for status, times in seen.ms.items():
            whole.ms.setdefault(status, []).extend(times)
    return whole


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


def engines(folder: Path) -> dict[str, dict[str, Any]]:
    """As many threads for both."""
    data = scenes(64, seed=2)
    images = [data[row].image for row in range(64)]
    rows: dict[str, dict[str, Any]] = {}
    for what, tower, name, given in (
        ("text", "vit_tiny", "embed_texts", QUERIES[:64]),
        ("image, transformer", "vit_tiny", "embed_images", images),
        ("image, convolutions", "convnet_tiny", "embed_images", images),
    ):
        ours = model(tower)
        to_onnx(ours, folder / "onnx")
        ways = {
            "torch": getattr(ours, name),
            "onnx": getattr(OnnxEmbedder(folder / "onnx", threads=torch.get_num_threads()), name),
        }
        worst = float(np.abs(ways["torch"](given) - ways["onnx"](given)).max())
        for size in (1, 64):
            took: dict[str, list[float]] = {engine: [] for engine in ways}
            for _ in range(15):  # the ways take turns
                for engine, embed in ways.items():
                    start = time.perf_counter()
                    embed(given[:size])
                    took[engine].append((time.perf_counter() - start) / size * 1000)
            torch_ms, onnx_ms = (statistics.median(took[engine]) for engine in ways)
            ratio = {"torch_ms": round(torch_ms, 3), "onnx_ms": round(onnx_ms, 3), "times": round(torch_ms / onnx_ms, 2)}
            rows[f"{what}, {size} at once"] = {**ratio, "largest_difference": float(f"{worst:.1e}")}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--steady", type=float, default=20.0, help="seconds of the steady load")
    parser.add_argument("--requests", type=int, default=4_000, help="of the memory test")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the others keep their last result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = model()
        made.save(folder / "model")
        DenseIndex.build(made, scenes(ITEMS, seed=0), folder / "index", progress=False).close()
        if {"growing", "reload"} & set(options.only):
            serving_changes.grown_folder(folder, ITEMS, made)
        for part in options.only:
            found = PARTS[part](folder, options)
            for name, row in found.items():
                print(f"{part}: {name}  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            parts = {**last("serving").get("parts", {}), part: {**facts(), "rows": found}}
            keep("serving", {"parts": parts}, figures(parts))


def figures(parts: dict[str, dict[str, Any]]) -> list[Figure]:
    found = []
    for what, row in parts.get("alive", {}).get("rows", {}).items():
        before = Peer("without TCP_NODELAY", row["p50_ms_without_nodelay"])
        found.append(Figure(f"{what}, one after the other, p50", "ms", row["p50_ms_with_nodelay"], (before,)))
    if load := parts.get("load", {}).get("rows", {}):
        one = Peer("batches of one", load["batches of one"]["answers_per_second"])
        found.append(
            Figure("searches asked by 32 clients", "answers/s", load["full load"]["answers_per_second"], (one,), less=False)
        )
    for what, row in parts.get("engines", {}).get("rows", {}).items():
        found.append(Figure(f"ONNX Runtime: {what}", "ms", row["onnx_ms"], (Peer("PyTorch", row["torch_ms"]),)))
    for what, row in parts.get("steady", {}).get("rows", {}).items():
        found.append(Figure(f"{what}, p99", "ms", row["p99_ms"]))
    return found


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, dict[str, Any]]]] = {
    "alive": lambda folder, options: alive(folder),
    "load": lambda folder, options: load(folder, options.seconds),
    "steady": lambda folder, options: {"50 clients at 70 %": steady(folder, options.steady)},
    "engines": lambda folder, options: engines(folder),
    "growing": lambda folder, options: serving_changes.growing(folder, options.steady, sys.modules[__name__]),
    "reload": lambda folder, options: serving_changes.reload(folder, lambda: model("convnet_tiny"), sys.modules[__name__]),
    "memory": lambda folder, options: {"all kinds of requests": memory(folder, options.requests)},
}

if __name__ == "__main__":
    main()
