"""Pictures of the search page for the documentation, taken in Chromium of services that run already.

diptych train clip --data emoji --out runs/clip && diptych train locked --data emoji --out runs/locked
for model in clip locked; do diptych index build runs/$model emoji runs/$model.index --split unseen_style; done
diptych serve runs/locked runs/locked.index --data emoji --compare runs/clip --compare-index runs/clip.index --port 8000
diptych index build runs/locked "world:scenes?n=200&val=1&test=1" runs/scenes.index
diptych serve runs/locked runs/scenes.index --data "world:scenes?n=200&val=1&test=1" --port 8001
diptych train instructblip --preset tiny --data "world:questions?n=3000" --out runs/asked \\
    --small-steps 900 --small-image-steps 250 --steps 500
diptych index build runs/locked "world:questions?n=200&val=1&test=1" runs/questions.index
diptych serve runs/locked runs/questions.index --data "world:questions?n=200&val=1&test=1" --writer runs/asked --port 8002
python examples/real_slide.py colon/ && diptych slides cut colon/slides.csv colon/tiles --size 256 --mpp 0.5
diptych train keep --preset tiny --data "world:tissue?n=2000" --out runs/keep && diptych index build runs/keep colon/tiles colon/tiles.index
diptych serve runs/keep colon/tiles.index --data colon/tiles --port 8003
python scripts/page_pictures.py --emoji http://localhost:8000 --scenes http://localhost:8001 --written http://localhost:8002 \
    --slide http://localhost:8003
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from diptych.worlds.scenes.questions import questions

OUT = Path(__file__).resolve().parents[1] / "docs/images"
QUIET = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", default="", help="address of a service over the emoji, with a second model")
    parser.add_argument("--scenes", default="", help="address of a service over scenes, whose relations are known")
    parser.add_argument("--slide", default="", help="address of a service over tiles of a slide")
    parser.add_argument("--written", default="", help="address of a service with a model that writes")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    with sync_playwright() as driver:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*QUIET, *root])
        if options.emoji:
            take(browser, options.emoji, "/?q=a+place+to+sleep", search, options.out / "search.png")
            take(
                browser,
                options.emoji,
                "/?q=red+apple&where=%7B%22subgroup%22:%5B%22food-fruit%22%5D%7D",
                words,
                options.out / "search-item.png",
            )
            take(browser, options.emoji, "/?q=a+wild+animal&compare=1", search, options.out / "search-two.png", dark=True)
            take(browser, options.emoji, "/?q=rainy+weather", search, options.out / "search-phone.png", size=(390, 780))
        if options.scenes:
            take(
                browser,
                options.scenes,
                "/?q=a+red+circle+above+a+star",
                relations,
                options.out / "search-relations.png",
                dark=True,
            )
        if options.slide:
            for name, size in (("slide-search.webp", (1280, 1080)), ("slide-phone.webp", (390, 844))):
                take(browser, options.slide, "/?q=a+gland+with+a+lumen", where, options.out / name, size=size)
        if options.written:
            take(browser, options.written, "/", ask, options.out / "search-ask.png", size=(1280, 900))
        browser.close()


def search(tab: Any) -> None:
    tab.wait_for_selector(".card")


def words(tab: Any) -> None:
    tab.click(".card >> nth=0 >> .look")
    tab.locator("#item").get_by_role("button", name="Words", exact=True).click()
    tab.locator("#item canvas").wait_for(timeout=60_000)


def relations(tab: Any) -> None:
    tab.click(".card >> nth=0 >> .look")
    tab.locator("#item").get_by_role("button", name="Relations", exact=True).click()
    tab.locator("#panel .plot svg").wait_for()


def where(tab: Any) -> None:
    tab.click(".card >> nth=0 >> .look")
    tab.locator("#item").get_by_role("button", name="Place", exact=True).click()
    tab.wait_for_selector("#panel img")


def ask(tab: Any) -> None:
    """A picture that is dropped, and the first of the questions that its world asks about it."""
    sample = questions(1, split="test")[0]
    asked = sample.extras["questions"][0]
    png = io.BytesIO()
    Image.fromarray(sample.image.pixels_HWC).resize((256, 256), Image.Resampling.NEAREST).save(png, "PNG")
    tab.set_input_files("#file", {"name": "scene.png", "mimeType": "image/png", "buffer": png.getvalue()})
    tab.wait_for_selector(".card")
    tab.click("#parts .open")
    tab.locator("#item").get_by_role("button", name="Ask", exact=True).click()
    tab.locator("#panel .answer").wait_for(timeout=60_000)
    tab.get_by_label("Question about the picture").fill(asked["question"])
    tab.get_by_label("Answers to choose from").fill(", ".join(dict.fromkeys((asked["answer"], "red", "green", "pink"))))
    tab.keyboard.press("Enter")
    tab.locator("#panel li.wordbar").first.wait_for(timeout=60_000)


def take(
    browser: Any,
    address: str,
    path: str,
    act: Callable[[Any], None],
    out: Path,
    *,
    dark: bool = False,
    size: tuple[int, int] = (1280, 800),
) -> None:
    with opened(browser, address + path, dark, size) as tab:
        act(tab)
        tab.wait_for_timeout(1500)  # pictures, and what fades in
        image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    if out.suffix == ".webp":  # tissue has more colours than a palette
        image.save(out, quality=70, method=6)
    else:
        image.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size:,} bytes")


@contextmanager
def opened(browser: Any, address: str, dark: bool, size: tuple[int, int]) -> Iterator[Any]:
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light", device_scale_factor=1)
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]", timeout=60_000)
    yield tab
    context.close()


if __name__ == "__main__":
    main()
