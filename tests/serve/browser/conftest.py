"""A real browser, a service with two models to look at, and a tab that notes what it must not.

Needs Chromium (Debian: apt-get install chromium) and Playwright; tests are skipped visibly where one is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import create_app

from ..conftest import COLOURS, Finder, Running, Stub, Teller, encoded, flat, listening

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
IN_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)"),
]
"""The marks of every file here."""


class Swapped(Stub):
    """A second model that takes red for blue."""

    name, fingerprint = "stub/swapped", "cafe"

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        return super().embed_texts(texts)[:, ::-1].copy()


def shades() -> Pool:
    """Ten shades of each colour; the even ones are warm, all have two regions and a relation."""
    samples = []
    for name in ("red", "green", "blue"):
        for step in range(10):
            pixels = flat(tuple(max(0, value - 9 * step) for value in COLOURS[name]), (48, 64))  # type: ignore[arg-type]
            pixels[10:20, 8 : 20 + step] = 255 - pixels[10:20, 8 : 20 + step]
            regions = (Region((8, 10, 20 + step, 20), "patch"), Region((0, 0, 64, 48), "ground"))
            extras = {"style": "cold" if step % 2 else "warm", "step": step, "split": "train" if step < 8 else "val"}
            texts = (Text(f"{name} number {step}", "en"), Text(f"not {name}", origin="negative"))
            image = BytesImage(encoded(pixels), f"{name}-{step}.png")
            licence = "MIT" if step < 5 else "CC0-1.0"
            samples.append(
                Sample(f"{name}-{step}", image, texts, regions, (Relation(0, "on", 1),), name, licence, "tests", extras)
            )
    return Pool.from_samples(samples, name="shades")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
    with playwright.sync_playwright() as driver:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])
        yield started
        started.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, pool, model = tmp_path_factory.mktemp("browser"), shades(), Stub()
    one = DenseIndex.build(model, pool, folder / "one", progress=False)
    other = DenseIndex.build(Swapped(), pool, folder / "other", progress=False)
    app = create_app(model, one, pool=pool, compare=[(Swapped(), other)], detector=Finder(), writer=Teller())
    with one, other, listening(app) as address:
        yield Running(address, model, app, None)  # type: ignore[arg-type]


class Page:
    """A tab that notes what it must not: errors, and requests to anywhere else."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(15_000)
        self.address, self.trouble, self.asked = address, [], []
        self.tab.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.tab.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.tab.on(
            "requestfailed", lambda r: self.trouble.append(f"{r.url} {r.failure}") if "ABORTED" not in r.failure else None
        )

    def open(self, path: str = "/") -> Page:
        self.tab.goto(self.address + path)
        self.tab.wait_for_selector("body[data-ready]")
        return self

    def search(self, words: str) -> None:
        self.tab.fill("#text", words)
        self.settled()

    def settled(self) -> None:
        """No search is due or under way, and what it found is shown."""
        self.tab.wait_for_selector("body:not(.searching)")

    def uids(self, side: int = 0) -> list[str]:
        found: list[str] = self.tab.eval_on_selector_all(
            f".side:nth-child({side + 1}) .card", "cards => cards.map(card => card.dataset.uid)"
        )
        return found

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)

    def until(self, expression: str) -> None:
        """Wait until it holds. Playwright's own waiting evaluates strings inside the page, which the page's policy forbids."""
        deadline = time.monotonic() + 60
        while not self.tab.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.tab.wait_for_timeout(30)

    def said(self) -> str:
        return str(self.tab.inner_text("#said"))

    def check(self) -> None:
        assert self.trouble == []
        outside = [url for url in self.asked if not url.startswith((self.address + "/", "data:", "blob:" + self.address))]
        assert outside == []
        self.context.close()


@pytest.fixture
def page(browser: Any, service: Running) -> Iterator[Page]:
    opened = Page(browser, service.address)
    yield opened
    opened.check()


def focus_is(page: Page, uid: str) -> None:
    """Focus follows a key after what the key starts, such as the closing of a dialog."""
    page.until(f"document.activeElement.closest('.card')?.dataset.uid === {json.dumps(uid)}")
