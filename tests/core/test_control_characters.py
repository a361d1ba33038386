"""Characters that act on a display are spelled out; everything that people write stays."""

from __future__ import annotations

import json
import re
import unicodedata
from importlib import resources

import pytest

from diptych.core.terminal.control_characters import escape_controls, escape_controls_json
from diptych.report.escape import escape


def test_what_acts_is_spelled_out_by_its_class_in_unicode() -> None:
    """Every control character, direction mark, line separator and half of a pair; and nothing that can be seen."""
    for code in range(0x30000):
        character = chr(code)
        acts = (
            (unicodedata.category(character) == "Cc" and character not in "\n\t")
            or unicodedata.bidirectional(character) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
            or unicodedata.category(character) in ("Zl", "Zp", "Cs")
        )
        if acts:
            assert escape_controls(character).isascii(), hex(code)
            assert escape_controls(character)[0] == "\\"
        elif unicodedata.category(character) != "Cf":
            assert escape_controls(character) == character, hex(code)


@pytest.mark.parametrize(
    "text", ["a red bus", "שלום", "مرحبا", "می‌خواهم", "👨‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "tab\tand\nnewline", "C:\\temp", "é ü 漢字"]
)
def test_what_people_write_stays(text: str) -> None:
    assert escape_controls(text) == text


def test_json_says_the_same_as_before() -> None:
    value = {"caption": "\x1b]0;owned\x07 \x85 \u202egpj.exe \ud800 \\u202e é"}
    line = escape_controls_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(line) == value
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800]", line)
    line.encode()


def test_pages_show_it_too() -> None:
    assert escape("<b>\u202e\x1b") == "&lt;b&gt;\\u202e\\x1b"


def test_the_page_of_the_service_spells_out_the_same_characters() -> None:
    source = (resources.files("diptych.serve.page") / "dom.js").read_text()
    (inside,) = re.findall(r"const ACTIVE = /(\[.*\])/g;", source)
    theirs = re.compile(inside)
    for code in (*range(0xD800), *range(0xE000, 0x30000)):  # a browser has no halves of pairs to show
        assert bool(theirs.match(chr(code))) == (escape_controls(chr(code)) != chr(code)), hex(code)
