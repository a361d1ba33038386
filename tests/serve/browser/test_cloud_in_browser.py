"""A point cloud on the page: found by text, drawn small, and turned in the item view by itself, by keys and by dragging."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import create_app
from diptych.worlds.solids.world import solids

from ..conftest import Stub, listening
from .conftest import IN_BROWSER, Page

pytestmark = IN_BROWSER
INK = """() => { const canvas = document.querySelector('#stage canvas.cloud'), pen = canvas.getContext('2d');
    const data = pen.getImageData(0, 0, canvas.width, canvas.height).data; let ink = 0, sum = 0;
    for (let at = 0; at < data.length; at += 4) if (data[at] + data[at + 1] + data[at + 2] < 740) { ink += 1; sum += at; }
    return [ink, sum]; }"""
"""How many pixels are drawn, and a number that changes with where they are."""


class Colours(Stub):
    """The mean colour of a cloud; y is up."""

    clouds = CloudPreprocess(up="y")

    def embed_points(self, clouds: Sequence[Any]) -> np.ndarray:
        mean_N3 = np.stack([cloud_P6[:, 3:].mean(0) for cloud_P6 in clouds]).astype(np.float32)
        return mean_N3 / np.linalg.norm(mean_N3, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = solids(12, points=800, views=1, size=16)
    samples = []
    for row in range(12):
        cloud = MediaItem("cloud", (ArraySource(data[row].media["cloud"].decode()),))
        samples.append(Sample(f"solid-{row}", texts=(Text(data[row].texts[0].string),), media={"cloud": cloud}))
    pool = Pool.from_samples(samples, name="solids")
    index = DenseIndex.build(Colours(), pool, tmp_path_factory.mktemp("clouds") / "index", what="clouds", progress=False)
    with index, listening(create_app(Colours(), index, pool=pool)) as opened:
        yield opened


@pytest.mark.parametrize("reduced", ["no-preference", "reduce"])
def test_a_cloud_turns_by_itself_by_keys_and_by_dragging(browser: Any, address: str, reduced: str, tmp_path: Path) -> None:
    page = Page(browser, address, reduced_motion=reduced)
    page.open().search("red")
    assert len(page.uids()) == 12
    page.until("[...document.querySelectorAll('.card img')].every(image => image.naturalWidth > 0)")
    first = page.uids()[0]
    page.tab.click(".card .look")
    page.tab.wait_for_selector("#stage canvas.cloud")
    before = page.tab.evaluate(INK)
    assert before[0] > 5000
    for _ in range(2 if reduced == "reduce" else 50):
        page.tab.wait_for_timeout(200)
        if page.tab.evaluate(INK) != before:
            break
    assert (page.tab.evaluate(INK) == before) == (reduced == "reduce")
    page.tab.focus("#stage canvas.cloud")
    if reduced != "reduce":
        page.press("Space")
    assert page.tab.inner_text("#panel button") == "Turn"
    still = page.tab.evaluate(INK)
    page.tab.wait_for_timeout(200)
    assert page.tab.evaluate(INK) == still
    drawn = [still]
    for key in ("ArrowLeft", "ArrowUp", "+"):
        page.press(key)
        drawn.append(page.tab.evaluate(INK))
        assert drawn[-1] != drawn[-2], key
    assert drawn[-1][0] > drawn[-2][0]  # zoomed
    page.press("Home")
    if reduced == "reduce":
        assert page.tab.evaluate(INK) == before
    box = page.tab.query_selector("#stage canvas.cloud").bounding_box()
    still = page.tab.evaluate(INK)
    page.tab.mouse.move(box["x"] + 100, box["y"] + 100)
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + 160, box["y"] + 130, steps=3)
    page.tab.mouse.up()
    assert page.tab.evaluate(INK) != still
    page.tab.screenshot(path=str(tmp_path / "cloud.png"))
    assert page.tab.inner_text("#itemtitle") == page.tab.inner_text(
        f".card[data-uid={first}] .title"
    )  # keys did not leave the item
    page.tab.focus("#tabs button")
    page.press("ArrowRight")
    page.tab.wait_for_selector("#stage canvas.cloud")
    assert page.tab.inner_text("#itemtitle") == page.tab.inner_text(f".card[data-uid={page.uids()[1]}] .title")
    page.press("Escape")
    page.trouble[:] = [line for line in page.trouble if "willReadFrequently" not in line]  # this test's own reading of the canvas
    page.check()
