"""Hits that are judged on the page, saved as the file that `diptych index judge` reads; and words that the page suggests."""

from __future__ import annotations

import json
from pathlib import Path

from diptych.index.judging import read_judgements

from .conftest import IN_BROWSER, Page

pytestmark = IN_BROWSER


def test_judged_hits_are_saved_for_the_command(page: Page, tmp_path: Path) -> None:
    page.open()
    assert page.tab.is_hidden("#judge")
    page.search("red")
    page.tab.click("#judge")
    verdict = "[data-uid={}] [data-grade='{}']"
    page.tab.click(verdict.format("red-0", 1))
    page.tab.click(verdict.format("red-1", 0))
    page.tab.click(verdict.format("red-2", 1))
    page.tab.click(verdict.format("red-2", 1))  # once more takes it back
    page.search("blue")
    page.tab.click(verdict.format("blue-3", 0))
    assert page.tab.inner_text("#judged") == "3 judged in 2 queries"
    page.tab.reload()
    page.tab.wait_for_selector(".card")
    page.search("red")
    page.tab.click("#judge")
    assert page.tab.get_attribute(verdict.format("red-0", 1), "aria-pressed") == "true"
    assert page.tab.get_attribute(verdict.format("red-2", 1), "aria-pressed") == "false"
    with page.tab.expect_download() as saved:
        page.tab.click("#savejudged")
    saved.value.save_as(tmp_path / "queries.csv")
    assert read_judgements(tmp_path / "queries.csv") == {"red": {"red-0": 1.0, "red-1": 0.0}}
    assert page.said().startswith("Saved as queries.csv, without 1 that has nothing right.")
    page.tab.click("#dropjudged")
    assert page.tab.is_hidden("#judgements")


def test_only_words_alone_are_judged(page: Page) -> None:
    page.open()
    page.search("red")
    assert page.tab.is_visible("#judge")
    page.tab.click(".card .look")
    page.tab.click("text=More like this")
    page.settled()
    assert page.tab.is_hidden("#judge")


def test_a_suggestion_is_searched_by_a_click(page: Page) -> None:
    def with_suggestion(route) -> None:  # type: ignore[no-untyped-def]
        answer = route.fetch()
        meant = "red" if json.loads(route.request.post_data)["text"] == "rde" else ""
        route.fulfill(response=answer, json=answer.json() | {"suggestion": meant})

    page.tab.route("**/search", with_suggestion)
    page.open()
    page.search("rde")
    assert page.tab.inner_text("#meant") == "Did you mean “red”?"
    page.tab.click("#meant")
    page.settled()
    assert page.tab.input_value("#text") == "red"
    assert page.tab.is_hidden("#meant")
