"""Pages in a real browser: screenshots, and the boxes that the browser gives its elements."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import ConfigError, MissingExtra
from diptych.worlds.screens.pages import Page, to_html

Box = tuple[float, float, float, float]


def screenshots(pages: Iterable[Page], size: int) -> Iterator[tuple[npt.NDArray[np.uint8], list[Box]]]:
    """Pixels [size, size, 3] of each page in Chromium, by Playwright, and the boxes of its elements from 0 to 1.

    Raises ConfigError if there is no Chromium (Debian: apt-get install chromium; or CHROMIUM with its path). Nothing is downloaded, and
    the page is loaded from memory.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise MissingExtra("playwright", "dev", needed_for="screenshots of pages") from None
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        raise ConfigError("no Chromium for screenshots (expected `chromium` on the path, or CHROMIUM with its path)")
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        shown = browser.new_page(viewport={"width": size, "height": size})
        for made in pages:
            shown.set_content(to_html(made, size))
            boxes = [_box(shown.locator(f"#e{number}").bounding_box(), size) for number in range(len(made.elements))]
            yield np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("RGB")), boxes
        browser.close()


def _box(rectangle: Mapping[str, Any] | None, size: int) -> Box:
    assert rectangle is not None
    x, y = rectangle["x"] / size, rectangle["y"] / size
    return (x, y, x + rectangle["width"] / size, y + rectangle["height"] / size)
