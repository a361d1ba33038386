"""The font that canvases are written with: packaged, so that a canvas has the same pixels on every machine, or a file of the user's."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from PIL import ImageFont

from diptych.core.errors import ConfigError

PACKAGED = {False: "DejaVuSans.ttf", True: "DejaVuSans-Bold.ttf"}
ABSENT = "\uffff"
"""No font has a glyph for it, so that it is drawn as the box of a missing glyph."""


@lru_cache(maxsize=8)
def open_font(path: str, size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The packaged font for "", else that of a file; letters are placed by Pillow's basic layout, which needs no further library.

    size  pixels
    Raises ConfigError for a file that is no font.
    """
    if size < 1:
        raise ConfigError(f"the text's size is {size} (expected 1 pixel or more)")
    if not path:
        letters = files("diptych.data.canvas.fonts").joinpath(PACKAGED[bold]).read_bytes()
        return ImageFont.truetype(BytesIO(letters), size, layout_engine=ImageFont.Layout.BASIC)
    try:
        return ImageFont.truetype(str(Path(path).expanduser()), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise ConfigError(f"{path} is not a readable font: {error} (expected a .ttf or .otf file)") from error


def refuse_missing(font: ImageFont.FreeTypeFont, text: str) -> None:
    """Raises ConfigError if the font has no glyph for a letter of the text, which would be drawn as an empty box."""
    absent = bytes(font.getmask(ABSENT))
    missing = [letter for letter in sorted(set(text)) if not letter.isspace() and bytes(font.getmask(letter)) == absent]
    if missing:
        shown = " ".join(missing[:5])
        raise ConfigError(
            f"the font '{font.getname()[0]}' has no letter for {shown} ({len(missing)} in all; expected a font file that has them)"
        )
