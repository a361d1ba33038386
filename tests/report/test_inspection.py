"""The page of the data report: what is planted is shown, what comes from data is escaped, large pictures are named and not drawn."""

from __future__ import annotations

import html
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from diptych.cli import main
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.columns import MadeBy
from diptych.data.dataset import Pool
from diptych.data.inspect import inspect
from diptych.data.shards.build import build, open_built
from diptych.data.split import save_split
from diptych.report.pages.inspection import inspection_page
from diptych.report.pictures import data_uri


class Seen(HTMLParser):
    """Headings, words and pictures of a page; every tag must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        if tag not in ("img", "meta", "br", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def seen(page: str) -> Seen:
    reader = Seen()
    reader.feed(page)
    assert not reader.open, reader.open
    return reader


def pixels(number: int, height: int = 20, width: int = 30) -> ArrayImage:
    return ArrayImage(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def planted(tmp_path: Path) -> Pool:
    """Thirty rows: five times one file, six times one text, markup in a text, a broken image, an identical image in two splits."""
    rows = []
    for n in range(30):
        image = pixels(0 if n < 5 else n, width=300 if n == 29 else 30)
        text = "a <b>bold</b> & plain" if n == 10 else "the same words" if n > 23 else f"number {n}"
        rows.append(Sample(f"u{n:02}", image, (Text(text),), extras={"split": "train" if n % 2 else "test"}))
    rows.append(Sample("broken", BytesImage(b"\x89PNG broken", "broken"), (Text("x"),), extras={"split": "train"}))
    build(Pool.from_samples(rows, name="planted"), tmp_path / "data")
    pool = open_built(tmp_path / "data")
    save_split(tmp_path / "data", pool, MadeBy("by hand"))
    return open_built(tmp_path / "data")


def test_what_is_planted_is_shown(planted: Pool) -> None:
    report = inspect(planted, batch_size=16, read_language=lambda texts: ["en"] * len(texts))
    page = seen(inspection_page(planted, report))
    assert page.headings == [
        "Decide", "A look", "The same picture again", "Captions", "Pictures", "Languages and licences", "Splits", "Left out",
    ]  # fmt: skip
    words = " ".join(page.words)
    assert "5 samples share their file with another one, in 1 groups" in words
    assert "the same words" in words
    assert "a <b>bold</b> & plain" in words, "shown as text, not as markup"
    assert "300 x 20" in words
    assert "the same image" in words
    assert "languages as they read" in words
    assert "not an image" in words.lower() or "broken" in words
    assert len(page.pictures) > 40
    assert all(picture.startswith("data:image/webp;base64,") for picture in page.pictures)


def test_what_helps_stands_beside_what_is_odd(planted: Pool) -> None:
    report = inspect(planted, batch_size=16)
    rows = inspection_page(planted, report).split("<tr>")
    assert len(report.decisions) >= 3
    for problem, remedy in report.decisions:
        assert remedy
        row = next(row for row in rows if html.escape(problem) in row)
        assert html.escape(remedy) in row


def test_pairs_with_the_same_image_in_a_batch(planted: Pool) -> None:
    """Five of thirty rows have one file: ten pairs; a batch of 16 of 30 holds each with 16 x 15 / (30 x 29)."""
    report = inspect(planted, batch_size=16)
    assert report.same_image_pairs == pytest.approx(10 * 16 * 15 / (30 * 29))
    assert any("with the same image but no common group" in warning for warning in report.warnings)
    assert report.words == {"2-3": 29, "4-7": 1}


def test_large_pictures_are_not_drawn(planted: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[inspection_page.__module__], "DRAWN_PIXELS", 1000)
    page = seen(inspection_page(planted, inspect(planted)))
    assert "u29: 300 x 20, too large to draw here" in " ".join(page.words)


def test_before_a_build_and_without_splits() -> None:
    pool = Pool.from_samples([Sample(f"u{n}", pixels(n), (Text(f"t {n}"),)) for n in range(3)])
    words = " ".join(seen(inspection_page(pool, inspect(pool))).words)
    assert "Not known before" in words
    assert "There are none yet" in words
    assert "Everything could be read." in words


def test_the_command_writes_text_json_and_page(planted: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "inspect", str(tmp_path / "data"), "--page", str(tmp_path / "page.html"), "--text-length", "4"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "texts (" in shown
    assert "are longer than 4 tokens and will be cut" in shown
    assert f"page: {tmp_path / 'page.html'}" in shown
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["truncated"] > 0
    assert facts["text_length"] == 4
    assert facts["duplicate_images"] == 5
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_other_media_are_shown_by_their_thumbnails() -> None:
    volumes = [np.arange(3 * 20 * 30, dtype=np.int16).reshape(3, 20, 30) + n for n in range(4)]
    media = [{"volume": MediaItem("volume", (ArraySource(volume),))} for volume in volumes]
    pool = Pool.from_samples([Sample(f"u{n}", texts=(Text(f"number {n}"),), media=one) for n, one in enumerate(media)])
    page = seen(inspection_page(pool, inspect(pool)))
    words = " ".join(page.words)
    assert "int16 3 x 20 x 30" in words
    assert len(set(page.pictures)) == 1  # four scans that differ by a constant look alike, and are not grey squares
    grey = data_uri(np.full((96, 96, 3), 200, np.uint8))
    assert page.pictures[0] != grey
