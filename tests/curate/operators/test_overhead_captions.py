"""Captions for pictures with a label alone: who keeps which, what turning decides, and meta captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import GenerationOutput
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.core.sample import Sample
from diptych.curate.engine.pool import curate
from diptych.curate.operators import overhead_captions
from diptych.curate.operators.overhead_captions import OverheadCaptions, most_similar
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.text.captions.geo_templates import covered_blocks, geo_caption
from diptych.data.text.captions.meta_captions import OPENINGS, meta_caption


class Captioner:
    """Says one of eight sentences by its seed."""

    name, fingerprint = "captioner", "c"
    said = ("a pier", "a pier at the top", "ships", "ships at the top", "a road", "a forest", "a car park", "")

    def __init__(self) -> None:
        self.calls = 0

    def stream(
        self, image: Any, prompt: Any, *, on_text: Any, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Any:
        decode(image, exact=True)
        self.calls += 1
        assert (max_tokens, temperature, top_p) == (30, 1.0, 0.9)
        return GenerationOutput(f" {self.said[seed % len(self.said)]} ", 1, 1, True)


class Scorer:
    """Likes some words; with `sided` it likes "top" as far as the upper half is brighter."""

    def __init__(self, liked: Sequence[str], *, sided: bool = False) -> None:
        self.name = self.fingerprint = "-".join(liked)
        self.liked, self.sided = liked, sided

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        rows = []
        for image in images:
            pixels = decode(image, exact=True)
            top = float(pixels[: len(pixels) // 2].mean() > pixels[len(pixels) // 2 :].mean())
            rows.append([1.0, top if self.sided else 0.5])
        return np.array(rows, np.float32)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Any:
        return np.array([[float(any(w in t for w in self.liked)), float("top" in t)] for t in texts], np.float32)


def picture() -> ArrayImage:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:5] = 255
    return ArrayImage(image)


def data(**extras: Any) -> Pool:
    rows: dict[str, ImageSource] = {"a": picture(), "b": BytesImage(b"none"), "c": picture()}
    return Pool.from_samples(Sample(uid, image, extras={"label": "Harbor", **extras}) for uid, image in rows.items())


def test_each_model_keeps_its_own_and_turning_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, scorers = Captioner(), {"s": Scorer(("pier", "ships", "road")), "r": Scorer(("pier", "ships"), sided=True)}
    monkeypatch.setattr(overhead_captions, "open_address", lambda address: captioner)
    monkeypatch.setattr(overhead_captions, "open_embedder", scorers.__getitem__)
    step = OverheadCaptions(captioner="w", scorer="s", reranker="r", sampled=60, first=5, second=4, kept=2)
    done = curate(data(), [step], tmp_path / "out")
    assert captioner.calls == 120  # nothing is drawn of the picture that cannot be read, which fails at its first call
    assert [drop.uid for drop in done.removed] == ["b"]
    assert done.removed[0].reason.startswith("unreadable")
    rows = done.columns["text_variants"].to_pylist()
    texts = {row["uid"]: [text["string"] for text in row["text_variants"]] for row in rows}
    assert {*texts} == {"a", "c"}
    for captions in texts.values():
        assert {*captions[:2]} == {"a pier", "ships"}  # with "top" they change as the picture turns
        assert len(captions) == 3
        assert captions[2] in {opening.format("harbor") for opening in OPENINGS}


def test_the_most_similar_stay_in_order() -> None:
    captions = ["a road", "ships", "a pier at the top", "a pier"]
    kept = most_similar(Scorer(("pier", "ships")), picture(), captions, 3)
    assert kept == ["a pier at the top", "ships", "a pier"]


def test_meta_captions_alone(tmp_path: Path) -> None:
    done = curate(
        data(country="Spain", month="2016-07-09", longitude=-3.7, latitude=40.4, location="the upper left"), [OverheadCaptions()]
    )
    assert len(done.kept) == 3  # nothing is decoded
    first = done.columns["text_variants"].to_pylist()[0]["text_variants"][0]
    assert first["string"].endswith(" in the upper left of the picture in Spain in July, UTM zone 30N")
    assert (first["style"], first["origin"]) == ("meta", "synthetic")
    rng = np.random.default_rng(1)
    assert {meta_caption({"label": "x"}, rng) for _ in range(60)} == {opening.format("x") for opening in OPENINGS}
    assert meta_caption({"country": "Spain"}, rng) == ""


def test_templates_are_filled_as_rs5m_fills_its_own() -> None:
    """Texts that helper.py of RS5M (084cdd9) gave for these facts."""
    fmow = {
        "country": "Turkey",
        "city": "Ankara",
        "label": "Airport_Hangar",
        "timestamp": "2016-07-29T19:05:01.123Z",
        "utm_zone": "36S",
    }
    fmow |= {"box": (174, 363, 1429, 661), "image_width": 1800, "image_height": 1500, "ground_sample_distance": 2.3287}
    fmow |= {"cloud_cover_rate": 3, "scan_direction": "Forward", "target_azimuth": 87.7678, "off_nadir": 27.8149}
    names = ("country", "season", "class_label", "relative_location", "ground_sample_distance", "utm_zone", "timestamp")
    names += ("cloud_cover_rate", "scan_direction", "target_azimuth", "off_nadir")
    ben = {"label": ["Arable_land", "Pastures"], "timestamp": "2017-10-02 11:21:12", "utm_zone": "29N"}
    rng = np.random.default_rng(0)
    assert geo_caption(["|".join(f"{{{name}}}" for name in names)], fmow, rng) == (
        "Ankara, Turkey|Summer|airport_hangar|center and center-left blocks|2.33|36S|19 o'clock, July 29, 2016|3|forward|87.77|27.81"
    )
    assert geo_caption(["{season}|{class_labels}|{utm_zone}|{timestamp}"], ben, rng) == (
        "Fall|arable-land, pastures|29N|11 o'clock, October 2, 2017"
    )
    boxes = {
        (0, 0, 10, 10): "top-left and top-center blocks",
        (1200, 1200, 600, 600): "bottom-right and top-left blocks",
        (500, 500, 500, 500): "center and center-left blocks",
        (900, 0, 900, 300): "top-right and top-center blocks",
    }
    assert {box: covered_blocks(box, 1800, 1500) for box in boxes} == boxes
    assert geo_caption(["{season}"], {"label": "x", "timestamp": "soon"}, rng) == ""


def test_templates_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    file.write_text('{"plain": ["{class_label} of {country}", "{country}: {class_label}"], "none": []}')
    pool = data(country="Spain", timestamp="2016-07-09")
    done = curate(pool, [OverheadCaptions(templates=f"{file}#plain")])
    rows = done.columns["text_variants"].to_pylist()
    texts = {row["text_variants"][0]["string"] for row in rows}
    assert texts <= {"harbor of Spain", "Spain: harbor"}
    for address, words in (
        (f"{file}#other", "it has none, plain"),
        (f"{file}#none", "no list of texts"),
        ("x.json#a", "No such file"),
    ):
        with pytest.raises(ConfigError, match=words):
            OverheadCaptions(templates=address)


def test_what_does_not_fit_is_refused() -> None:
    for options in (
        {"captioner": "w"},
        {"scorer": "s", "reranker": "r"},
        {"meta": False},
        {"sampled": 5},
        {"kept": 6},
        {"angles": (0.0,)},
        {"temperature": 0.0},
    ):
        with pytest.raises(ConfigError):
            OverheadCaptions(**options)
