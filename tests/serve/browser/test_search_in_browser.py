"""The page in a real browser: search, a dropped picture, filters, overlays, lists, two models, keys, widths, dark mode; quiet and at home.

Needs Chromium (Debian: apt-get install chromium) and Playwright; skipped visibly where one is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.image import BytesImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import Limits, create_app

from .conftest import COLOURS, Finder, Running, Stub, Teller, b64, encoded, flat, listening

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)"),
]

QUIET = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


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
        deadline = time.monotonic() + 15
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


# ---------------------------------------------------------------- search


def test_results_come_while_one_types(page: Page) -> None:
    page.open()
    assert "30 items" in page.tab.inner_text("#welcome")
    page.tab.type("#text", "red", delay=10)
    page.settled()
    assert page.uids()[:3] == ["red-0", "red-1", "red-2"]
    assert re.fullmatch(r"30 of 30 items in [\d,]+ ms", page.said())
    assert page.tab.inner_text(".card >> nth=0").startswith("red number 0")
    page.until("document.querySelector('.card img').naturalWidth > 0")
    assert page.tab.get_attribute(".card img", "loading") == "lazy"
    assert "q=red" in page.tab.url
    page.tab.reload()  # the address holds the question
    page.tab.wait_for_selector(".card")
    assert page.uids()[0] == "red-0"
    page.search("")
    assert page.tab.is_visible("#start")
    assert page.uids() == []


def test_a_dropped_picture_is_searched_by_and_words_change_it(page: Page) -> None:
    page.open()
    picture = b64(encoded(flat(COLOURS["green"])))
    drop = """data => {
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), carried = new DataTransfer();
        carried.items.add(new File([bytes], "green.png", { type: "image/png" }));
        for (const kind of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: carried }));
    }"""
    page.tab.evaluate(drop, picture)
    page.tab.wait_for_selector(".card")
    page.settled()
    assert page.tab.is_hidden("#drop")
    assert page.uids()[0].startswith("green")
    assert page.tab.is_hidden("#weighing")
    page.search("blue")  # the picture, but blue
    assert page.uids()[0].startswith("blue")
    assert page.tab.is_visible("#weighing")
    page.tab.locator("#weight").fill("-2")  # the picture, without blue
    page.settled()
    assert page.uids()[-1].startswith("blue")
    page.tab.click("#parts .off")
    page.settled()
    assert page.tab.locator("#parts .part").count() == 0
    page.tab.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"hello"})
    assert "not a picture" in page.said()


def test_what_cannot_be_searched_by_is_answered_in_one_line(page: Page) -> None:
    page.open("/?q=red&compare=1")
    page.settled()
    page.tab.set_input_files("#file", {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture at all"})
    page.until("document.querySelector('#say').classList.contains('bad')")
    assert "not a readable image" in page.tab.inner_text("main") or "image" in page.said()
    assert page.tab.locator(".error:visible").count() == 0
    assert page.tab.locator("#parts img").count() == 0
    page.trouble[:] = [line for line in page.trouble if "400" not in line]  # the browser notes the refusals themselves
    drop = "data => { const event = new DragEvent('drop', {dataTransfer: new DataTransfer(), cancelable: true, bubbles: true});"
    drop += (
        "event.dataTransfer.setData('text/uri-list', 'https://example.org/a.png'); return document.body.dispatchEvent(event); }"
    )
    assert page.tab.evaluate(drop) is False, "the browser would leave the page"
    assert "save the picture" in page.said()


def test_the_start_shows_items_from_all_over_the_data(page: Page) -> None:
    page.open()
    shown = page.tab.locator("#examples button")
    assert shown.count() == 12
    names = shown.evaluate_all("nodes => nodes.map(node => node.title)")
    assert {name.partition("-")[0] for name in names} == {"red", "green", "blue"}
    page.until("[...document.querySelectorAll('#examples img')].some(image => image.naturalWidth > 0)")
    shown.nth(0).click()
    page.tab.locator("#item dl").wait_for()
    assert names[0] in page.tab.inner_text("#item")


def test_a_large_photograph_is_made_smaller_before_it_travels(page: Page) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (1500, 2200, 3), dtype=np.uint8)
    noise[..., 2] += 200
    large = encoded(noise, "JPEG", quality=98)
    assert len(large) > 1_000_000
    page.open()
    with page.tab.expect_request("**/search") as sent:
        page.tab.set_input_files("#file", {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": large})
    assert len(sent.value.post_data) < len(large) / 2
    page.tab.wait_for_selector(".card")
    page.settled()
    assert page.uids()[0].startswith("blue")


def test_good_and_bad_examples(page: Page) -> None:
    page.open().search("red")
    page.tab.hover(".card >> nth=0")
    first = page.uids()[0]
    page.tab.click(f'.card[data-uid="{first}"] .plus')
    page.settled()
    assert first not in page.uids()
    assert page.tab.locator("#parts .part").count() == 1
    assert page.tab.input_value("#text") == ""
    page.search("red green")
    bad = "green-0"
    page.tab.locator(f'.card[data-uid="{bad}"]').hover()
    page.tab.click(f'.card[data-uid="{bad}"] .minus')
    page.settled()
    assert page.tab.locator("#parts .part.bad").count() == 1
    assert bad not in page.uids()
    assert page.uids()[0].startswith("red")
    page.tab.reload()
    page.tab.wait_for_selector(".card")
    assert page.tab.locator("#parts .part").count() == 2


# ---------------------------------------------------------------- narrowing down


def test_filters_and_sliders(page: Page) -> None:
    page.open().search("red")
    page.tab.get_by_label("warm").check()
    page.settled()
    assert len(page.uids()) == 15
    assert all(int(uid[-1]) % 2 == 0 for uid in page.uids())
    page.tab.get_by_label("MIT").check()
    page.settled()
    assert {int(uid[-1]) for uid in page.uids()} == {0, 2, 4}
    page.tab.get_by_label("step from").fill("2")
    page.tab.get_by_label("step to").fill("3")
    page.settled()
    assert {uid[-1] for uid in page.uids()} == {"2"}
    assert json.loads(re.search(r"where=([^&]*)", page.tab.evaluate("decodeURIComponent(location.search)"))[1]) == {  # type: ignore[index]
        "style": ["warm"],
        "licence": ["MIT"],
        "step": {">=": 2, "<=": 3},
    }
    page.tab.get_by_label("step to").fill("")
    page.tab.get_by_label("step from").fill("")
    page.tab.get_by_label("MIT").uncheck()
    page.tab.get_by_label("warm").uncheck()
    page.settled()
    assert len(page.uids()) == 30
    page.tab.locator("#copies").fill("0.9")
    page.settled()
    apart = page.uids()
    assert 3 <= len(apart) < 30
    assert apart[0] == "red-0"
    page.tab.locator("#copies").fill("1")
    page.settled()
    before = len(page.asked)
    page.tab.locator("#cut").fill("50")
    page.settled()
    assert {uid[:3] for uid in page.uids()} == {"red"}
    assert not [url for url in page.asked[before:] if "/search" in url]  # scores are cut without asking again


# ---------------------------------------------------------------- one item


def test_an_item_with_its_provenance_words_and_relations(page: Page) -> None:
    page.open().search("red")
    page.tab.click('.card[data-uid="red-3"] .look')
    item = page.tab.locator("#item")
    item.locator("dl").wait_for()
    text = item.inner_text()
    for part in ("red number 3", "not red", "tests", "MIT", "64 × 48 pixels", "cold"):
        assert part in text
    item.get_by_role("button", name="Words", exact=True).click()
    item.locator("canvas").wait_for()
    assert page.tab.locator("#panel .chips button").all_inner_texts() == ["all of it"]
    page.tab.fill("#panel input", "red blue")
    page.press("Enter")
    page.until("document.querySelectorAll('#panel .chips button').length === 3")
    page.tab.locator("#panel .chips button", has_text="blue").click()
    alpha = page.tab.evaluate(
        """() => { const c = document.querySelector('#stage canvas');
        return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 3); }"""
    )
    assert len(alpha) == 49
    assert min(alpha) == 0  # the part that the word goes with is left clear
    assert max(alpha) > 100
    item.get_by_role("button", name="Relations", exact=True).click()
    assert page.tab.locator("#stage canvas").count() == 0
    assert page.tab.locator("#stage svg rect").count() >= 2
    assert page.tab.locator("#panel .plot svg text").all_inner_texts() != []
    assert "patch\non\nground" in page.tab.inner_text("#panel .edges")
    item.get_by_role("button", name="Detect", exact=True).click()
    page.tab.wait_for_selector("#panel .edges li")
    page.tab.get_by_label("Things to look for").fill("cat, mat")
    page.tab.get_by_label("Relations to look for").fill("sits on")
    page.press("Enter")
    page.until("document.querySelector('#panel .edges')?.innerText.includes('sits on')")
    page.tab.get_by_label("Next (→)").click()
    page.until("document.querySelector('#itemtitle').innerText === 'red number 4'")
    page.press("Escape")
    assert item.is_hidden()
    focus_is(page, "red-4")


def test_a_picture_of_ones_own_can_be_looked_into(page: Page) -> None:
    page.open()
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(flat(COLOURS["red"]))}
    page.tab.set_input_files("#file", picture)
    page.tab.wait_for_selector(".card")
    page.tab.click("#parts .open")
    page.tab.locator("#item").get_by_role("button", name="Detect", exact=True).click()
    page.tab.wait_for_selector("#panel .edges li")
    assert "thing" in page.tab.inner_text("#panel .edges")


def test_an_item_is_captioned_and_asked_about(page: Page, service: Running) -> None:
    teller = next(iter(service.app.state.service.writers.values())).model
    page.open().search("red")
    page.tab.click('.card[data-uid="red-3"] .look')
    item, answer = page.tab.locator("#item"), page.tab.get_by_label("Answer", exact=True)
    item.get_by_role("button", name="Ask", exact=True).click()
    page.until("document.querySelector('#panel .answer')?.innerText === 'a red picture.'")
    assert "Written by stub/teller" in answer.inner_text()
    teller.slow = 0.15
    try:
        page.tab.get_by_label("Question about the picture").fill("is it an apple?")
        page.press("Enter")
        page.until(
            "document.querySelector('#panel .answer')?.innerText === 'a red picture. is'"
        )  # words come as they are written
        page.tab.get_by_label("Question about the picture").fill("a pear?")  # another question, before the first is answered
        page.press("Enter")
        page.until("document.querySelector('#panel .answer')?.innerText === 'a red picture. a pear?'")
    finally:
        teller.slow = 0.0
    page.tab.get_by_label("Answers to choose from").fill("green, red, blue")
    page.press("Enter")
    page.tab.wait_for_selector("#panel li.wordbar")
    assert page.tab.locator("#panel li .word").all_inner_texts() == ["red", "blue", "green"]
    page.tab.get_by_label("Answers to choose from").fill("red, red")
    page.press("Enter")
    page.until("document.querySelector('#panel .error')?.innerText.includes('twice')")
    page.trouble = [line for line in page.trouble if "400" not in line]  # the browser's own line about a refusal
    page.tab.get_by_label("Answers to choose from").fill("")
    page.tab.get_by_label("Question about the picture").fill("\u202eodd")
    page.press("Enter")
    page.until("document.querySelector('#panel .answer')?.innerText.endsWith('\\\\u202eodd')")
    page.tab.get_by_label("Next (→)").click()
    page.until("document.querySelector('#itemtitle').innerText === 'red number 4'")
    assert page.tab.locator("#panel .answer").count() == 0


def test_a_picture_of_ones_own_is_captioned(page: Page) -> None:
    page.open()
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(flat(COLOURS["blue"]))}
    page.tab.set_input_files("#file", picture)
    page.tab.wait_for_selector(".card")
    page.tab.click("#parts .open")
    page.tab.locator("#item").get_by_role("button", name="Ask", exact=True).click()
    page.until("document.querySelector('#panel .answer')?.innerText === 'a blue picture.'")


# ---------------------------------------------------------------- lists, two models


def test_a_chosen_list_is_saved_and_trained_on(page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page.open().search("red")
    page.tab.locator("#cut").fill("60")
    page.tab.hover(".card >> nth=0")
    page.tab.click(".card >> nth=0 >> .pick")
    assert page.tab.inner_text("#count") == "1"
    page.tab.click("#all")
    page.tab.locator("#cut").fill("0")
    page.search("blue")
    assert int(page.tab.inner_text("#count")) == 10  # kept over searches
    page.tab.hover(".card >> nth=0")
    page.tab.click(".card >> nth=0 >> .pick")
    with page.tab.expect_download() as saved:
        page.tab.click("#save")
    file = tmp_path / "subset.txt"
    saved.value.save_as(file)
    assert saved.value.suggested_filename == "subset.txt"
    assert sorted(file.read_text().split()) == sorted([*(f"red-{step}" for step in range(10)), "blue-0"])
    assert "--subset subset.txt" in page.said()
    page.tab.click("#none")
    assert page.tab.is_hidden("#basket")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for sample in shades():
        (pictures / f"{sample.uid}.png").write_bytes(sample.image.read())  # type: ignore[union-attr]
        (pictures / f"{sample.uid}.txt").write_text(sample.texts[0].string)
    words = ["train", "clip", "--data", str(pictures), "--out", str(tmp_path / "run"), "--subset", str(file), "--no-evaluation"]
    assert main([*words, "--hold-out", "0", "--steps", "1", "--batch-size", "4"]) == 0
    assert RunFolder.open(tmp_path / "run").state["subset"] == 11


def test_two_models_side_by_side(page: Page) -> None:
    page.open().search("red")
    page.tab.get_by_role("button", name="Compare").click()
    page.settled()
    assert page.tab.locator(".side h2").all_inner_texts()[0].startswith("stub/colours")
    assert page.uids(0)[0] == "red-0"
    assert page.uids(1)[0] == "blue-0"
    assert "there at" in page.tab.inner_text(".side:nth-child(1) .card >> nth=0")
    assert page.said().startswith("30 and 30 of 30 items")
    page.tab.locator("#cut").fill("70")
    assert "only here" in page.tab.inner_text(".side:nth-child(1) .card >> nth=0")
    page.tab.locator("#cut").fill("0")
    page.tab.get_by_role("button", name="Compare").click()
    page.settled()
    page.tab.get_by_label("Model").select_option("stub/swapped")
    page.settled()
    assert page.uids()[0] == "blue-0"


# ---------------------------------------------------------------- keys, widths, colours


def test_all_of_it_without_a_mouse(page: Page) -> None:
    page.open()
    page.tab.keyboard.type("red")
    page.settled()
    page.press("ArrowDown")
    focus_is(page, "red-0")
    page.press("ArrowRight", "ArrowRight", "ArrowLeft")
    focus_is(page, "red-1")
    page.press("Space")
    assert page.tab.inner_text("#count") == "1"
    page.press("End")
    focus_is(page, page.uids()[-1])
    page.press("Home", "ArrowDown")
    columns = int(page.tab.evaluate("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"))
    focus_is(page, page.uids()[columns])
    page.press("ArrowUp", "Enter")
    page.tab.locator("#item dl").wait_for()
    page.press("ArrowRight")
    page.until("document.querySelector('#itemtitle').innerText === 'red number 1'")
    page.press("Escape")
    focus_is(page, "red-1")
    page.press("+")
    page.settled()
    assert page.tab.locator("#parts .part").count() == 1
    page.press("/")
    assert page.tab.evaluate("document.activeElement.id") == "text"
    page.press("Tab", "Tab", "?")
    assert page.tab.is_visible("#help")
    page.press("Escape", "c")
    page.settled()
    assert page.tab.locator(".side").count() == 2


def focus_is(page: Page, uid: str) -> None:
    """Focus follows a key after what the key starts, such as the closing of a dialog."""
    page.until(f"document.activeElement.closest('.card')?.dataset.uid === {json.dumps(uid)}")


@pytest.mark.parametrize(("width", "columns"), [(390, 2), (1280, 5)])
def test_it_fits_a_phone_and_a_desk(browser: Any, service: Running, width: int, columns: int) -> None:
    page = Page(browser, service.address, viewport={"width": width, "height": 844}, has_touch=width < 500)
    page.open("/?q=red")
    page.tab.wait_for_selector(".card")
    found = page.tab.evaluate("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length")
    assert found == columns
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    if width < 500:  # no pointer hovers: the box to choose is always there, and ticked on what was chosen alone
        ink = "node => getComputedStyle(node).color"
        assert page.tab.locator(".pick").nth(0).evaluate(ink) == "rgba(0, 0, 0, 0)"
        page.tab.locator(".pick").nth(0).tap()
        page.until("getComputedStyle(document.querySelector('.chosen .pick')).color !== 'rgba(0, 0, 0, 0)'")
        assert page.tab.locator(".pick[aria-pressed=true]").count() == 1
        page.tab.locator(".pick").nth(0).tap()
    narrow = page.tab.locator("#narrow")
    if width < 500:
        assert not narrow.evaluate("node => node.open")
        narrow.locator("summary").click()
    page.tab.get_by_label("warm").check()
    page.settled()
    assert len(page.uids()) == 15
    page.tab.click(".card >> nth=0 >> .look")
    page.tab.locator("#item dl").wait_for()
    assert page.tab.evaluate("document.querySelector('#item').getBoundingClientRect().width") <= width
    assert page.tab.evaluate("document.querySelector('#item').scrollWidth") <= width
    page.tab.locator("#item").get_by_role("button", name="Ask", exact=True).click()
    page.tab.get_by_label("Question about the picture").fill("what is " + "averylongwordthatneverends" * 8)
    page.tab.get_by_label("Answers to choose from").fill("one, " + "anotherverylongword" * 4)
    page.press("Enter")
    page.tab.wait_for_selector("#panel li.wordbar")
    assert page.tab.evaluate("document.querySelector('#item').scrollWidth") <= width
    page.check()


def test_the_pictures_of_the_documentation_can_be_taken(browser: Any, service: Running, tmp_path: Path) -> None:
    """By the script that takes them of larger data: each view of the page, by its functions."""
    path = Path(__file__).parents[2] / "scripts/page_pictures.py"
    spec = importlib.util.spec_from_file_location("page_pictures", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    views = {
        "search": ("/?q=red", script.search, {}),
        "item": ("/?q=red", script.words, {}),
        "two": ("/?q=red&compare=1", script.search, {"dark": True}),
        "phone": ("/?q=red", script.search, {"size": (390, 780)}),
        "relations": ("/?q=red", script.relations, {"dark": True}),
    }
    taken = {}
    for name, (where, act, options) in views.items():
        script.take(browser, service.address, where, act, tmp_path / f"{name}.png", **options)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == options.get("size", (1280, 800))
            taken[name] = picture.convert("RGB").tobytes()
    assert len(set(taken.values())) == len(views), "no two views look the same"
    for name in views:
        assert f"search-{name}.png" in path.read_text(encoding="utf-8") or name == "search"


def test_light_and_dark_by_the_system_and_by_choice(browser: Any, service: Running) -> None:
    def bright() -> float:
        colour = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return float(np.mean([int(value) for value in re.findall(r"\d+", colour)[:3]]))

    page = Page(browser, service.address, color_scheme="dark")
    page.open("/?q=red")
    assert bright() < 60
    page.tab.emulate_media(color_scheme="light")
    assert bright() > 200
    page.tab.click("#theme")  # light
    page.tab.click("#theme")  # dark, whatever the system says
    assert bright() < 60
    page.tab.reload()
    page.tab.wait_for_selector(".card")
    assert bright() < 60
    ink = page.tab.evaluate(CONTRAST)
    assert ink >= 4.5
    page.check()


CONTRAST = """() => {
    const part = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(v => part(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = light(getComputedStyle(document.querySelector('.card')).backgroundColor);
    const worst = [...document.querySelectorAll('.card .title, .card .score')].map(node => {
        const ink = light(getComputedStyle(node).color);
        return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
    });
    return Math.min(...worst);
}"""


# ---------------------------------------------------------------- guarded, busy, hostile


def test_with_a_token_it_is_asked_for_once_and_pictures_come(browser: Any, tmp_path: Path) -> None:
    pool, model = shades(), Stub()
    index = DenseIndex.build(model, pool, tmp_path / "index", progress=False)
    app = create_app(model, index, pool=pool, token="s3cret")
    with index, listening(app) as address:
        page = Page(browser, address)
        page.tab.goto(address)
        page.tab.wait_for_selector("#ask[open]")
        page.tab.fill("#token", "wrong")
        page.press("Enter")
        page.tab.wait_for_selector("#ask[open]")
        page.tab.fill("#token", "s3cret")
        page.press("Enter")
        page.tab.wait_for_selector("body[data-ready]")
        page.search("red")
        page.until("document.querySelector('.card img').naturalWidth > 0")
        assert page.uids()[0] == "red-0"
        assert "s3cret" not in page.tab.url
        page.trouble = [line for line in page.trouble if "401" not in line]  # the browser's own lines about the refusals
        page.check()


def test_a_busy_service_is_asked_again(browser: Any, tmp_path: Path) -> None:
    pool, model = shades(), Stub()
    index = DenseIndex.build(model, pool, tmp_path / "index", progress=False)
    app = create_app(model, index, pool=pool, limits=Limits(rate=0.3, burst=1))
    with index, listening(app) as address:
        page = Page(browser, address)
        page.open("/?q=red")
        page.tab.wait_for_selector(".card")
        page.tab.fill("#text", "blue")
        page.until("document.querySelector('.card').dataset.uid === 'blue-0'")
        assert any("429" in line for line in page.trouble), "it was never busy"
        page.trouble = [line for line in page.trouble if "429" not in line]
        page.check()


def test_hostile_data_is_text_and_nothing_more(browser: Any, tmp_path: Path) -> None:
    nasty = '<img src=x onerror="alert(1)">"\'</script><script>alert(2)</script>'
    samples = [
        Sample(f"a/..{i}<b>", BytesImage(encoded(flat(COLOURS["red"]))), (Text(nasty),), extras={"kind": nasty, "n": i})
        for i in range(2)
    ]
    pool, model = Pool.from_samples([*samples, Sample("cut", BytesImage(half_png()), (Text("half"),))]), Stub()
    index = DenseIndex.build(model, pool, tmp_path / "index", progress=False)
    app = create_app(model, index, pool=pool)
    with index, listening(app) as address:
        page = Page(browser, address)
        dialogs: list[str] = []
        page.tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.open("/?q=red")
        page.tab.wait_for_selector(".card")
        assert nasty in page.tab.inner_text(".card >> nth=0")
        page.tab.click(".card >> nth=0 >> .look")
        page.tab.locator("#item dl").wait_for()
        assert nasty in page.tab.inner_text("#item")
        assert dialogs == []
        page.check()


def test_characters_that_act_on_a_display_are_spelled_out(browser: Any, tmp_path: Path) -> None:
    nasty = "bus \u202egpj.exe\x1b[2J\x85"
    spelled = "bus \\u202egpj.exe\\x1b[2J\\x85"
    samples = [
        Sample(
            f"{nasty}{i}",
            BytesImage(encoded(flat(COLOURS["red"]))),
            (Text(nasty),),
            licence=f"{nasty}{i}",
            extras={"kind": nasty},
        )
        for i in range(2)
    ]
    pool, model = Pool.from_samples(samples), Stub()
    index = DenseIndex.build(model, pool, tmp_path / "index", progress=False)
    with index, listening(create_app(model, index, pool=pool)) as address:
        page = Page(browser, address)
        page.open("/?q=red")
        page.tab.wait_for_selector(".card")
        assert spelled in page.tab.inner_text(".card >> nth=0")
        assert spelled in page.tab.inner_text("#filters")
        page.tab.click(".card >> nth=0 >> .look")  # its address still holds the uid as it is
        page.tab.locator("#item dl").wait_for()
        assert page.tab.inner_text("#item").count(spelled) >= 4  # title, text, uid, licence, kind
        assert page.tab.get_attribute("#stage img", "alt") == spelled
        everything = page.tab.evaluate("document.documentElement.innerText")
        assert not re.search("[\u202e\x1b\x85]", everything)
        page.tab.get_by_label("Close (Esc)").click()
        page.tab.locator("#filters input[type=checkbox]").first.check()  # a filter still asks for the value as it is
        page.settled()
        assert len(page.uids()) == 1
        page.check()


def half_png() -> bytes:
    """A PNG whose header is sound and whose pixels end early."""
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + chunk
