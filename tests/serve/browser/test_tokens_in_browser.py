"""Patches that image tokens stand for, on the page: lines over the picture, and one token at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import create_app

from ..conftest import Stub, listening
from ..test_image_tokens import small
from .conftest import IN_BROWSER, Page

pytestmark = IN_BROWSER
DRAWN = """() => { const canvas = document.querySelector('#stage canvas'), pen = canvas.getContext('2d');
    const data = pen.getImageData(0, 0, canvas.width, canvas.height).data; let drawn = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at]) drawn += 1;
    return drawn; }"""
"""Pixels of the overlay that are not clear."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from diptych.recipes.bridges.simvlg import SimVLG

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    pool = Pool.from_samples([Sample("noise", ArrayImage(noise), (Text("a red noise"),))], name="noises")
    index = DenseIndex.build(Stub(), pool, tmp_path_factory.mktemp("tokens") / "index", progress=False)
    with index, listening(create_app(Stub(), index, pool=pool, writer=small(SimVLG))) as opened:
        yield opened


def test_a_token_is_chosen_below_the_picture_and_in_it(browser: Any, address: str) -> None:
    page = Page(browser, address)
    page.open().search("red")
    page.tab.click(".card .look")
    page.tab.click("#tabs button:has-text('Tokens')")
    page.tab.wait_for_selector("#stage canvas")
    words = page.tab.inner_text("#panel")
    assert "tokens for 4 × 4 patches" in words
    assert "All tokens" in words
    lines = page.tab.evaluate(DRAWN)
    assert lines > 0
    page.tab.focus("#panel input[type=range]")
    page.press("ArrowRight")
    assert "Token 1 of" in page.tab.inner_text("#panel")
    assert page.tab.evaluate(DRAWN) > lines, "the patches of other tokens are veiled"
    page.tab.click("#stage canvas", position={"x": 3, "y": 3})
    assert "patches" in page.tab.inner_text("#panel label")
