"""A real slide on the page: its tiles are searched by text, and a hit is drawn at its place, at a desk's width and at a phone's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.image import FileImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.slides.cut import MARK, tile_samples
from diptych.data.slides.tiling import Tiling
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import create_app

from ..conftest import listening
from .conftest import IN_BROWSER, Page

pytest.importorskip("openslide", reason="needs the extra 'slides'")
pytestmark = IN_BROWSER
SIDE, TILE = 2048, 128
SLIDE_PLACE = (
    """() => { const image = document.querySelector('#panel img'), canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0);
    const data = pen.getImageData(0, 0, canvas.width, canvas.height).data, box = [1e9, 1e9, -1, -1];
    for (let at = 0; at < data.length; at += 4)
        if (Math.abs(data[at] - R) + Math.abs(data[at + 1] - G) + Math.abs(data[at + 2] - B) < 120) {
            const x = (at / 4) % canvas.width, y = Math.floor(at / 4 / canvas.width);
            box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y); box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
        }
    return [...box, canvas.width, canvas.height]; }""".replace("R)", f"{MARK[0]})")
    .replace("G)", f"{MARK[1]})")
    .replace("B)", f"{MARK[2]})")
)


class Stains:
    """The mean colour of a tile beyond that of all; "brown" and "blue" ask along the two stains."""

    name, fingerprint = "stains", "1"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        shade_N3 = np.array([decode(image).mean((0, 1)) for image in images], np.float32) - 170
        return shade_N3 / np.linalg.norm(shade_N3, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Any:
        along_N3 = np.array([(1, 0, -1) if "brown" in text else (-1, 0, 1) for text in texts], np.float32)
        return along_N3 / np.linalg.norm(along_N3, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Pool]]:
    """Tiles of the immunostained colon of scikit-image, as `tifffile` writes it, brown in one quarter alone."""
    data, tifffile = (pytest.importorskip(name, reason="needs the extra 'peers'") for name in ("skimage.data", "tifffile"))
    folder = tmp_path_factory.mktemp("slide")
    whole = np.tile(data.immunohistochemistry(), (SIDE // 512, SIDE // 512, 1)).copy()
    grey = whole.mean(2, keepdims=True)
    bluish = np.clip(grey * (0.75, 0.85, 1.15), 0, 255).astype(np.uint8)
    mask = np.ones((SIDE, SIDE, 1), bool)
    mask[SIDE // 2 :, : SIDE // 2] = False  # below left it stays as it was stained
    whole = np.where(mask, bluish, whole)
    file = folder / "colon.tif"
    tifffile.imwrite(file, whole, tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    slides = Pool.from_samples(
        [Sample("colon", media={"slide": MediaItem("slide", (FileImage(file),))}, group="p")], name="colon"
    )
    tiles = Pool.from_samples([*tile_samples(slides, Tiling(size=TILE, mpp=1.0, tissue=0.1))], name="tiles")
    index = DenseIndex.build(Stains(), tiles, folder / "index", progress=False)
    app = create_app(Stains(), index, pool=tiles)
    with index, listening(app) as address:
        yield address, tiles


@pytest.mark.parametrize("width", [1280, 390])
def test_a_hit_is_drawn_at_its_place_on_the_slide(browser: Any, service: tuple[str, Pool], width: int) -> None:
    address, tiles = service
    page = Page(browser, address, viewport={"width": width, "height": 844}, has_touch=width < 500)
    page.open("/?q=brown+stain")
    page.tab.wait_for_selector(".card")
    found = {sample.uid: sample for sample in tiles}
    for uid in page.uids()[:4]:
        x, y = found[uid].extras["x"], found[uid].extras["y"]
        assert x < SIDE / 2 <= y, "brown is what was left so"
    first = found[page.uids()[0]]
    page.tab.click(".card >> nth=0 >> .look")
    page.tab.locator("#item").get_by_role("button", name="Place", exact=True).click()
    page.until("document.querySelector('#panel img')?.complete && document.querySelector('#panel img').naturalWidth > 0")
    left, top, right, bottom, wide, high = page.tab.evaluate(SLIDE_PLACE)
    scale = wide / SIDE
    assert wide == high
    extent = first.extras["extent"]
    assert extent == 2 * TILE
    for seen, place in ((left, first.extras["x"]), (top, first.extras["y"])):
        assert abs(seen - place * scale) <= 5
    for seen, place in ((right, first.extras["x"] + extent), (bottom, first.extras["y"] + extent)):
        assert abs(seen - place * scale) <= 5
    box = page.tab.locator("#panel img").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["width"] > 200
    page.until(
        "(box => box.top >= 0 && box.bottom <= innerHeight + 1)(document.querySelector('#panel img').getBoundingClientRect())"
    )
    assert page.tab.evaluate("document.querySelector('#item').scrollWidth") <= width
    if folder := os.environ.get("DIPTYCH_PICTURES"):
        page.tab.screenshot(path=str(Path(folder) / f"place-{width}.png"))
    page.check()
