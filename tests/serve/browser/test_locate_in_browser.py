"""A large picture on the page: a text is located in it, with its map and frames over the picture, at a desk's width and at a phone's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import create_app

from ..conftest import COLOURS, Stub, encoded, flat, listening
from .conftest import IN_BROWSER, Page

pytestmark = IN_BROWSER
WIDE, HIGH, FIELD = 768, 512, (528, 96, 688, 256)
FRAMES = """() => { const stage = document.querySelector('#stage img, #stage').getBoundingClientRect();
    return [...document.querySelectorAll('.located')].map(frame => { const box = frame.getBoundingClientRect();
        return [(box.left + box.width / 2 - stage.left) / stage.width, (box.top + box.height / 2 - stage.top) / stage.height]; }); }"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A green scene with one red field."""
    pixels = flat(COLOURS["green"], (HIGH, WIDE))  # type: ignore[arg-type]
    left, top, right, bottom = FIELD
    pixels[top:bottom, left:right] = COLOURS["red"]
    scene = Sample("scene", BytesImage(encoded(pixels), "scene.png"), (Text("a field", "en"),))
    pool, model = Pool.from_samples([scene], name="scene"), Stub()
    index = DenseIndex.build(model, pool, tmp_path_factory.mktemp("scene") / "index", progress=False)
    app = create_app(model, index, pool=pool)
    with index, listening(app) as address:
        yield address


@pytest.mark.parametrize("width", [1300, 390])
def test_a_text_is_framed_where_it_fits(browser: Any, service: str, width: int) -> None:
    page = Page(browser, service, viewport={"width": width, "height": 844}, has_touch=width < 500)
    page.open("/?q=red")
    page.tab.wait_for_selector(".card")
    page.tab.click(".card >> nth=0 >> .look")
    page.tab.locator("#item").get_by_role("button", name="Locate", exact=True).click()
    page.tab.wait_for_selector(".located")
    left, top, right, bottom = FIELD
    x, y = page.tab.evaluate(FRAMES)[0]
    assert left / WIDE <= x <= right / WIDE
    assert top / HIGH <= y <= bottom / HIGH
    assert "probability" in page.tab.inner_text("#panel")
    assert page.tab.evaluate("document.querySelector('#item').scrollWidth") <= width
    if folder := os.environ.get("DIPTYCH_PICTURES"):
        page.tab.screenshot(path=str(Path(folder) / f"locate-{width}.png"))
    page.check()
