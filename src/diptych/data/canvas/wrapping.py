"""Text in lines of at most this many pixels.

`measured_lines` measures what it draws. `released_lines` is the rule of the code published with In-Image Learning (2402.17971): it
splits at every mark, estimates a line from the mean width of capitals, other letters and Chinese characters, and so may break inside
"don't", begin a line with a space, run past the edge with a long word and put an empty line before a first word that is too long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from PIL import ImageFont

from diptych.core.errors import ConfigError

Font = ImageFont.FreeTypeFont
CHINESE = re.compile("[\u4e00-\u9fff]")
_UNITS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]| +|[^ \u3040-\u30ff\u3400-\u9fff\uff00-\uffef]+")


def measured_lines(text: str, font: Font, limit: int) -> list[str]:
    """Lines no wider than `limit` pixels: broken at spaces and between characters of Chinese and Japanese, a longer word inside.

    Empty lines of the text stay; spaces at the end of a line go. Raises ConfigError if not one letter fits.
    """
    return [line for paragraph in text.split("\n") for line in _paragraph(paragraph, font, limit)]


def _paragraph(text: str, font: Font, limit: int) -> Iterator[str]:
    line = ""
    for unit in _UNITS.findall(text):
        if font.getlength((line + unit).rstrip()) <= limit:
            line += unit
            continue
        if line.strip():
            yield line.rstrip()
        line = "" if unit.isspace() else unit
        while font.getlength(line) > limit:
            fits = next((size for size in range(len(line) - 1, 0, -1) if font.getlength(line[:size]) <= limit), 0)
            if not fits:
                raise ConfigError(
                    f"no letter of {line[:10]!r} fits into {limit} pixels (expected a wider canvas or smaller text)"
                )
            yield line[:fits]
            line = line[fits:]
    yield line.rstrip()


def released_lines(text: str, font: Font, limit: int) -> list[str]:
    """Lines as the published code breaks them, spaces and all.

    Chinese is cut into words by the package jieba, as there. Raises ConfigError if the text has Chinese and jieba is not installed.
    """
    upper, lower, chinese = (font.getbbox(sample)[2] / 4 for sample in ("ABCD", "abcd", "你好，啊"))

    def fits(line: str) -> bool:
        capitals = sum(letter.isupper() for letter in line)
        characters = len(CHINESE.findall(line))
        return bool(capitals * upper + characters * chinese + (len(line) - capitals - characters) * lower <= limit)

    lines: list[str] = []
    line = ""
    for word in _jieba_words(text):
        if "\n" in word:  # alone, or after a carriage return, which stays
            *before, last = word.split("\n")
            for part in before:
                if not fits(line + part):  # a word that is too long before a line break leaves an empty line
                    lines.append(line)
                    line = ""
                lines.append(line + part)
                line = ""
            if not fits(last):  # also of nothing, on a canvas of fewer than 10 pixels
                lines.append(line)
            line = last
        elif fits(f"{line} {word}" if line else word):  # counts a space that is not drawn
            line += word
        else:
            lines.append(line)
            line = word
    return [*lines, line]


_BLOCKS = re.compile("([\u4e00-\u9fd5a-zA-Z0-9+#&\\._%\\-]+)")
_INSIDE = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")


def _jieba_words(text: str) -> list[str]:
    """Words of a text as jieba cuts it. Without Chinese: runs of letters and digits, each mark and space alone."""
    if CHINESE.search(text):
        try:
            import jieba
        except ImportError as error:
            raise ConfigError(
                "the text has Chinese, which wrap=released cuts by jieba: pip install jieba, or wrap=measured"
            ) from error
        return list(jieba.cut(text, cut_all=False))
    words: list[str] = []
    for number, block in enumerate(_BLOCKS.split(text)):
        if number % 2:
            words += [part for part in _INSIDE.split(block) if part]
        else:
            words += [part for piece in re.split(r"(\r\n|\s)", block) for part in ([piece] if piece.isspace() else piece)]
    return words
