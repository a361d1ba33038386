"""Pages in a real browser at the width of a phone: nothing is cut off at the right."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from diptych.report import page
from diptych.report.curves import Bar, LineSeries, interval_chart, line_chart

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)"),
]
HEAD = ("held out", "arm", "mean", "difference [95 % t over seeds]", "p", "verdict", "for these runs only", "1 point needs")
ROW = (
    "retrieval on unseen_style",
    "locked",
    0.314,
    "+0.120 [+0.081, +0.159]",
    "0.0004",
    "higher",
    "[+0.090, +0.150]",
    "12 seeds",
)


def written(tmp_path: Path) -> str:
    curve = line_chart("loss", [LineSeries("clip", ((0, 2.0), (12_500, 1.0)))])
    charts = (curve, interval_chart("recall", [Bar("a name of 28 letters, no more", 0.5, 0.4, 0.6)]))
    blocks = (page.table(HEAD, [ROW, ROW]), page.table(("metric", "value"), [("r@1", "0.314 [0.281, 0.350]")]), *charts)
    path = tmp_path / "report.html"
    path.write_text(page.page("Comparison", "two arms", [page.Section("Results", blocks)]), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_every_cell_is_seen(tmp_path: Path, width: int) -> None:
    with playwright.sync_playwright() as driver:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu", *root])
        shown: Any = browser.new_page(viewport={"width": width, "height": 844})
        shown.goto(written(tmp_path))
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        outside = "cells => cells.filter(c => c.getBoundingClientRect().right > innerWidth).map(c => c.textContent)"
        assert shown.eval_on_selector_all("td, svg", outside) == []
        heights = shown.eval_on_selector_all("svg text", "texts => texts.map(t => t.getBoundingClientRect().height)")
        assert min(heights) >= (9 if width < 390 else 11), "pixels of a line of text in a chart"
        cut = (
            "texts => texts.filter(t => { const own = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();"
        )
        cut += " return own.left < all.left - 1 || own.right > all.right + 1; }).map(t => t.textContent)"
        assert shown.eval_on_selector_all("svg text", cut) == []
        stacked = shown.eval_on_selector(".stack td", "cell => getComputedStyle(cell).display") == "flex"
        assert stacked == (width < 640)
        named = shown.eval_on_selector_all(".stack td", "cells => cells.map(c => getComputedStyle(c, '::before').content)")
        assert (f'"{HEAD[0]}"' in named) == stacked
        browser.close()
