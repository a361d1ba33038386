"""The service over a real index: the engine is entered from the server's worker threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from starlette.testclient import TestClient

from diptych.data.decode import decode
from diptych.index.dense import DenseIndex
from diptych.serve import create_app
from diptych.worlds import scenes


class Pixels:
    """Images by their shrunken pixels; texts by a fixed direction."""

    name, fingerprint = "pixels", "1"

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        rows = np.stack([decode(image)[::8, ::8].ravel() for image in images]).astype(np.float32) - 100
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        return np.full((len(texts), 192), 192**-0.5, np.float32)


def test_search_like_an_item_finds_it_first_from_any_thread(tmp_path) -> None:
    data = scenes(40, seed=0)
    with DenseIndex.build(Pixels(), data, tmp_path / "index", progress=False) as index:
        client = TestClient(create_app(Pixels(), index, pool=data))
        assert client.get("/healthz").json()["index"] == {"count": 40}

        def like(uid: str) -> str:
            return client.post("/search", json={"like": uid, "k": 3}).json()["hits"][0]["uid"]

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(like, data.uids)) == list(data.uids)
        label = data[0].extras["label"]
        hits = client.get("/search", params={"q": "anything", "k": 40, "where": json.dumps({"label": label})}).json()["hits"]
        expected = {uid for row, uid in enumerate(data.uids) if data[row].extras["label"] == label}
        assert {hit["uid"] for hit in hits} == expected
        both = client.post("/search", json={"like": data.uids[0], "text": "brighter", "weight": 0.1, "k": 1}).json()
        assert both["hits"][0]["uid"] == data.uids[0]
        assert both["hits"][0]["payload"]["caption"] == data[0].texts[0].string
        assert client.post("/search", json={"text": "a", "where": {"labl": "x"}}).status_code == 400
