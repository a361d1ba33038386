"""Patches that image tokens stand for: asked of the service, and drawn in the report of a run."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from diptych.api.models import load
from diptych.core.image import ArrayImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.pipelines.token_report import token_sections
from diptych.pipelines.token_sources import token_sources
from diptych.recipes.bridges.llava import LLaVA
from diptych.recipes.bridges.simvlg import SimVLG
from diptych.report.pages.run import run_report
from diptych.serve import create_app
from diptych.worlds.resolve import resolve

from .conftest import Stub, b64, encoded, listening

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
POOL = Pool.from_samples([Sample("noise", ArrayImage(NOISE), (Text("much <b>noise"),)), Sample("bare", texts=(Text("nothing"),))])


def small(kind: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_weights": "", "image_tower": "vit_micro", "image_size": 64, "small_steps": 2, "steps": 10}
    made = replace(kind.tiny(), **sizes).prepare(resolve("world:scenes?n=8").split("train"))
    return made.deploy(made.model().eval())


@pytest.fixture(scope="module")
def merging() -> Any:
    return small(SimVLG)


def test_the_service_says_which_patches_a_token_stands_for(merging: Any) -> None:
    with listening(create_app(Stub(), pool=POOL, writer=merging)) as address, httpx.Client(base_url=address) as http:
        assert http.get("/info").json()["writers"][0]["reduces"] is True
        answer = http.post("/tokens", json={"uid": "noise"}).json()
        sources = token_sources(merging, [ArrayImage(NOISE)])
        assert answer["owner"] == sources.owners[0].tolist()
        assert answer["tokens"] == len(sources.share_KTHW) < answer["rows"] * answer["columns"]
        assert answer["box"] == [0, 0, 1, 1]
        assert http.post("/tokens", json={"image": b64(encoded(NOISE))}).status_code == 200
        assert http.post("/tokens", json={"uid": "bare"}).status_code == 404


def test_a_model_that_keeps_its_patches_is_refused() -> None:
    with listening(create_app(Stub(), pool=POOL, writer=small(LLaVA))) as address, httpx.Client(base_url=address) as http:
        assert http.get("/info").json()["writers"][0]["reduces"] is False
        refused = http.post("/tokens", json={"uid": "noise"})
        assert refused.status_code == 422
        assert "reduces no image tokens" in refused.text


def test_the_report_of_a_run_draws_tokens(merging: Any, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", slug="simvlg", environment={"packages": {}})
    for name, text in (("config.yaml", "recipe: {}\nrun: {}\n"), ("prepared.json", "{}")):
        (folder.path / name).write_text(text)
    assert token_sections(folder, POOL, load) == [], "no model yet"
    merging.save(folder.model)
    text = run_report(folder, POOL, token_sections(folder, POOL, load)).read_text()
    section = text[text.index("Image tokens") :]
    assert "much &lt;b&gt;noise" in section
    assert "nothing (" not in section, "a sample without a picture is left out"
    encoded = re.findall(r"data:image/webp;base64,([^\"]+)", section[section.index("Lines lie") :])[0]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    assert drawn.shape[1] > 1.9 * drawn.shape[0], "the picture, and beside it the tokens' colours"
