"""The service over rendered data and a real index: hits, conditions and examples, from many clients at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from diptych.core.image import ArrayImage
from diptych.data.media.decode import decode, encode_png
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import create_app
from diptych.worlds import scenes

from .conftest import b64, listening


class Pixels:
    """Images by their shrunken pixels; texts by a fixed direction."""

    name, fingerprint = "pixels", "1"

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        rows = np.stack([decode(image)[::8, ::8].ravel() for image in images]).astype(np.float32) - 100
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        return np.full((len(texts), 192), 192**-0.5, np.float32)


def test_every_picture_finds_itself_from_any_client(tmp_path: Path) -> None:
    data = scenes(40, seed=0)
    index = DenseIndex.build(Pixels(), data, tmp_path / "index", progress=False)
    app = create_app(Pixels(), index, pool=data)
    with index, listening(app) as address, httpx.Client(base_url=address, timeout=20) as http:
        assert http.get("/info").json()["models"][0]["count"] == 40

        def first(row: int) -> str:
            image = data[row].image
            assert isinstance(image, ArrayImage)
            body = {"image": b64(encode_png(image.pixels_HWC)), "k": 3}
            return http.post("/search", json=body).json()["hits"][0]["uid"]

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(first, range(40))) == list(data.uids)
        label = data[0].extras["label"]
        hits = http.get("/search", params={"q": "anything", "k": 40, "where": json.dumps({"label": label})}).json()["hits"]
        expected = {uid for row, uid in enumerate(data.uids) if data[row].extras["label"] == label}
        assert {hit["uid"] for hit in hits} == expected
        like = http.post("/search", json={"like": data.uids[0], "k": 39}).json()["hits"]
        assert {hit["uid"] for hit in like} == set(data.uids[1:])
        item = http.get(f"/items/{data.uids[0]}").json()
        assert item["texts"][0]["text"] == data[0].texts[0].string
        assert len(item["graph"]["regions"]) == len(data[0].regions)
        assert http.post("/search", json={"text": "a", "where": {"labl": "x"}}).status_code == 400
