"""The page as a whole: lists, two models, keys, widths, light and dark; guarded, busy, and with hostile data."""

from __future__ import annotations

import importlib.util
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.image import BytesImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import Limits, create_app
from diptych.serve.admission import guard
from diptych.serve.admission.rate import RateLimiter

from ..conftest import COLOURS, Running, Stub, encoded, flat, listening
from .conftest import IN_BROWSER, Page, focus_is, shades

pytestmark = IN_BROWSER


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
    path = Path(__file__).parents[3] / "scripts/page_pictures.py"
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


class Clock:
    """Seconds that fly, so that a client may always come in; once they stand still it is refused, however slow the machine is."""

    seconds, stands = 0.0, False

    def __call__(self) -> float:
        self.seconds += 0 if self.stands else 60
        return self.seconds


def test_a_busy_service_is_asked_again(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(guard, "RateLimiter", partial(RateLimiter, now=clock))
    pool, model = shades(), Stub()
    index = DenseIndex.build(model, pool, tmp_path / "index", progress=False)
    app = create_app(model, index, pool=pool, limits=Limits(rate=1, burst=1))
    with index, listening(app) as address:
        page = Page(browser, address)
        page.open("/?q=red")
        page.tab.wait_for_selector(".card")
        page.settled()
        clock.stands = True
        page.tab.fill("#text", "blue")
        page.until("document.getElementById('said').textContent === 'The service is busy; asking again in 1 s.'")
        assert page.uids()[0] == "red-0"
        clock.stands = False
        page.until("document.querySelector('.card').dataset.uid === 'blue-0'")
        assert any("429" in line for line in page.trouble)
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
