"""Captions of views: who ranks them, which stay, captions that the data bring, and pictures that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import GenerationOutput
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.curate.engine.pool import curate
from diptych.curate.operators import view_captions as module
from diptych.curate.operators.view_captions import ViewCaptions, rank_captions
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.text.captions.view_captions import view_captions
from diptych.recipes.points.ulip2 import ULIP2


class Captioner:
    """Writes one of six colours by its seed."""

    name, fingerprint = "captioner", "c"
    words = ("red", "green", "blue", "red ", "", "green")

    def stream(
        self, image: Any, prompt: Any, *, on_text: Any, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Any:
        decode(image, exact=True)
        return GenerationOutput(self.words[seed % len(self.words)], 1, 1, True)


class Ranker:
    """Cosine of a picture's mean colour with the colour that a text names."""

    name, fingerprint = "ranker", "r"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        mean_N3 = np.stack([decode(image, exact=True).mean((0, 1)) for image in images]).astype(np.float32)
        return mean_N3 / np.linalg.norm(mean_N3, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Any:
        return np.array([[float(word in text) for word in ("red", "green", "blue")] for text in texts], np.float32)


def coloured(*rgb: int) -> ArrayImage:
    return ArrayImage(np.broadcast_to(np.array(rgb, np.uint8), (8, 8, 3)).copy())


def data() -> Pool:
    views = (coloured(250, 60, 0), coloured(0, 60, 250))
    samples = [Sample("a", media={"views": MediaItem("images", views)}), Sample("b", coloured(0, 200, 90))]
    return Pool.from_samples([*samples, Sample("c", BytesImage(b"none"))])


def test_captions_of_every_view_are_ranked_and_read_by_ulip2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_address", lambda address: Captioner())
    monkeypatch.setattr(module, "open_embedder", lambda address: Ranker())
    done = curate(data(), [ViewCaptions(captioner="w", ranker="r", sampled=40, kept=2)], tmp_path / "out")
    assert [(drop.uid, drop.reason.partition(":")[0]) for drop in done.removed] == [("c", "unreadable")]
    kept = done.kept.with_table(done.columns["view_captions"])
    captions = {sample.uid: view_captions(sample) for sample in (kept[row] for row in range(len(kept)))}
    assert captions == {"a": {0: ["red", "green"], 1: ["blue", "green"]}, "b": {0: ["green", "blue"]}}
    sample = kept[list(kept.uids).index("a")]
    assert replace(ULIP2.tiny(), names="views", top=1).captions_of(sample) == {0: ["red"], 1: ["blue"]}
    assert sample.extras["view_captions"][0]["similarity"] == pytest.approx(250 / np.hypot(250, 60), abs=1e-4)


def test_captions_that_the_data_bring_are_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_embedder", lambda address: Ranker())
    with pytest.raises(DataError, match="no view of"):
        curate(data(), [ViewCaptions(ranker="r")], tmp_path / "none")
    rows = [{"view": 0, "string": text, "similarity": None} for text in ("a blue cup", "a green cup", "a red cup")]
    given = Pool.from_samples([Sample("b", coloured(0, 200, 90), extras={"view_captions": rows})])
    done = curate(given, [ViewCaptions(ranker="r", kept=2)], tmp_path / "out")
    column = done.columns["view_captions"].to_pylist()
    assert [row["string"] for row in column[0]["view_captions"]] == ["a green cup", "a blue cup"]
    with pytest.raises(ConfigError, match="--ranker MODEL"):
        ViewCaptions().run(given, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sampled 0"):
        ViewCaptions(sampled=0)
    with pytest.raises(DataError, match="no captions of views"):
        view_captions(Sample("x", extras={"view_captions": ["a cup"]}))


def test_equal_similarities_keep_their_order() -> None:
    assert [text for text, _ in rank_captions(Ranker(), coloured(9, 0, 0), ["a", "red b", "c", "red d"])] == [
        "red b",
        "red d",
        "a",
        "c",
    ]
