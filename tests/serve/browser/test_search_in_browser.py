"""Search on the page: words, pictures, examples, filters, and what is shown of one item."""

from __future__ import annotations

import json
import re

import numpy as np

from ..conftest import COLOURS, Running, b64, encoded, flat
from .conftest import IN_BROWSER, Page, focus_is

pytestmark = IN_BROWSER
REMEMBER = """() => {
  window.said = [];
  const remember = () => window.said.push(document.querySelector('#panel .answer')?.innerText);
  new MutationObserver(remember).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""
"""Keeps every state of the answer: one that stands for a moment may be gone before it is asked for."""


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
    page.tab.evaluate(REMEMBER)
    try:
        page.tab.get_by_label("Question about the picture").fill("is it an apple?")
        page.press("Enter")
        page.until("window.said.includes('a red picture. is')")  # words come as they are written
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
