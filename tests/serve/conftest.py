"""What tests of the service share: a model that knows colours, data with a few pictures, an application behind a real socket."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from diptych.core.contracts import GenerationOutput
from diptych.core.errors import ConfigError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import Limits, create_app

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "orange": (255, 120, 0)}


class Stub:
    """Mean colour of an image, colour word of a text. Notices when two threads are inside, and how much came at once."""

    name, fingerprint = "stub/colours", "f00d"

    def __init__(self) -> None:
        self.inside = self.collisions = 0
        self.slow = 0.0
        self.batches: list[int] = []

    def _enter(self, count: int) -> None:
        self.inside += 1
        self.collisions += self.inside > 1
        self.batches.append(count)
        time.sleep(self.slow)
        self.inside -= 1

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        self._enter(len(images))
        mean = np.stack([decode(image).reshape(-1, 3).mean(0) for image in images]).astype(np.float32) + 1
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        self._enter(len(texts))
        if "explode" in texts:
            raise RuntimeError("secret path /home/somebody")
        words = [[COLOURS[word] for word in text.split() if word in COLOURS] or [(128, 128, 128)] for text in texts]
        colour = np.array([np.mean(found, axis=0) for found in words], np.float32) + 1
        return colour / np.linalg.norm(colour, axis=1, keepdims=True)


class Finder:
    """A detector that finds the left and the right half of every picture."""

    name, fingerprint = "stub/halves", "beef"
    objects, relations = ("thing", "other"), ("beside",)

    def detect(self, images, *, objects, relations=(), **options) -> list[SceneGraph]:
        graphs = []
        for image in images:
            height, width = decode(image).shape[:2]
            halves = ((0, 0, width / 2, height), (width / 2, 0, width, height))
            regions = tuple(Region(box, objects[i % len(objects)], score=0.9 - 0.2 * i) for i, box in enumerate(halves))
            graphs.append(SceneGraph(regions, tuple(Relation(0, name, 1, 0.8) for name in relations)))
        return graphs


class Teller:
    """Writes the colour of a picture and what was asked, word by word; ranks answers by their length."""

    name, fingerprint = "stub/teller", "7e11"

    def __init__(self) -> None:
        self.slow = 0.0
        self.told = self.inside = self.collisions = 0
        self.asked: list[Any] = []

    def _text(self, image, prompt, most: int) -> list[str]:
        self.asked.append(prompt)
        if prompt == "explode":
            raise RuntimeError("secret path /home/somebody")
        if prompt == "too long":
            raise ConfigError("picture and prompt take 99 of the 64 places of 'stub/teller' (expected a shorter prompt)")
        mean = decode(image).reshape(-1, 3).mean(0)
        colour = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
        words = f"a {colour} picture. {prompt if isinstance(prompt, str) else 'parts'}".split()
        return [word if place == 0 else f" {word}" for place, word in enumerate(words)][:most]

    def generate(self, images, prompts, *, max_tokens: int = 64) -> list[str]:
        return ["".join(self._text(image, prompt, max_tokens)) for image, prompt in zip(images, prompts, strict=True)]

    def stream(self, image, prompt, *, on_text, max_tokens=64, temperature=0.0, top_p=1.0, seed=0) -> GenerationOutput:
        pieces = self._text(image, prompt, 10**6)
        if temperature:
            pieces = [*pieces, f" drawn {seed} {top_p:g}"]
        told = []
        self.inside += 1
        self.collisions += self.inside > 1
        try:
            for piece in pieces[:max_tokens]:
                time.sleep(self.slow)
                told.append(piece)
                self.told += 1
                if not on_text(piece):
                    break
                if piece == " burst":
                    raise RuntimeError("secret path /home/somebody")
        finally:
            self.inside -= 1
        return GenerationOutput("".join(told), 5, len(told), len(told) == len(pieces))

    def answer_nll(self, images, prompts, candidates) -> list[np.ndarray]:
        return [np.array([[2.0 * len(answer), 2.0] for answer in answers]) for answers in candidates]


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def a_pool() -> Pool:
    """Three plain pictures with columns, one of them with regions and a relation; one that cannot be read; one without image."""
    regions = (Region((0, 0, 10, 20), "left"), Region((10, 0, 30, 20), "right"))
    samples = [
        Sample(
            f"{name}-1",
            BytesImage(encoded(flat(COLOURS[name])), f"{name}.png"),
            (Text(name, "en"), Text(f"wrong {name}", origin="negative")),
            regions if name == "red" else (),
            (Relation(0, "beside", 1),) if name == "red" else (),
            group=name,
            licence="MIT" if name == "red" else "CC0-1.0",
            source="tests",
            extras={
                "style": "warm" if name == "red" else "cold",
                "score": 0.25 * place,
                "split": "train",
                "tags": [name, "flat"],
                "boxes": [{"x": 1}],
            },
        )
        for place, name in enumerate(("red", "green", "blue"))
    ]
    return Pool.from_samples([*samples, Sample("rotten", BytesImage(b"nothing", "rotten.png")), Sample("bare")], name="colours")


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Run an application on a free port of this machine, in a thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def refusal(answer: httpx.Response) -> str:
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]["code"] == answer.status_code
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    return message


@dataclass
class Running:
    """A service that listens."""

    address: str
    model: Stub
    app: Any
    http: httpx.Client


SMALL = Limits(body_bytes=200_000, image_pixels=10_000, inputs=4, text_characters=50, k=20)


@contextmanager
def running(folder: Path, *, limits: Limits = SMALL, model: Stub | None = None, **options: Any) -> Iterator[Running]:
    model, pool = model or Stub(), a_pool()
    with DenseIndex.build(model, pool, folder / "index", progress=False) as index:
        app = create_app(model, index, pool=pool, limits=limits, **{"detector": Finder(), "writer": Teller(), **options})
        with listening(app) as address, httpx.Client(base_url=address, timeout=20) as http:
            yield Running(address, model, app, http)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as started:
        yield started
