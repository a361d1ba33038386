"""Prompt templates: words with placeholders for the picture and for the user's prompt.

Template("A picture of")                                              # LiMBeR: the picture stands first where nothing says otherwise
Template("###Human: <Img>{image}</Img> {prompt} ###Assistant: ")      # MiniGPT-4, second stage
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from diptych.core.errors import ConfigError
from diptych.data.text.prompts.layout import ImageSlots, Piece, TextPiece

PLACES = re.compile(r"(\{image\}|\{prompt\})")


@dataclass(frozen=True, slots=True)
class Template:
    """Prompt template with placeholders for image and question.

    text  what comes before the answer; "{image}" where the picture goes (without it: at the start), "{prompt}" where the question
          goes. An answer follows directly: a space between is part of the template or of the answer

    >>> Template("Q: {prompt} A:").pieces(2, "how many?", "two")
    [ImageSlots(count=2), TextPiece(text='Q: how many? A:', answer=False, ends=True), TextPiece(text='two', answer=True, ends=True)]
    """

    text: str = ""

    def __post_init__(self) -> None:
        for placeholder in ("{image}", "{prompt}"):
            if self.text.count(placeholder) > 1:
                raise ConfigError(
                    f"template {self.text!r} has {self.text.count(placeholder)} times {placeholder} (expected one at most)"
                )

    @property
    def asks(self) -> bool:
        """True if the template has a placeholder for a prompt."""
        return "{prompt}" in self.text

    def pieces(self, slots: int, prompt: str = "", answer: str | None = None) -> list[Piece]:
        """Prompt row for a picture of this many tokens (0 for none). A prompt without placeholder comes after the template."""
        text = self.text if "{image}" in self.text else "{image}" + self.text
        text = text if self.asks or not prompt else text + "{prompt}"
        row: list[Piece] = []
        words = ""
        for part in PLACES.split(text):
            if part != "{image}":
                words += prompt if part == "{prompt}" else part
                continue
            row += [TextPiece(words)] if words else []
            row += [ImageSlots(slots)] if slots else []
            words = ""
        row += [TextPiece(words)] if words else []
        return row if answer is None else [*row, TextPiece(answer, answer=True)]
