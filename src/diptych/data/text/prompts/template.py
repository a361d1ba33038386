"""How a prompt is put together: words with the places of the picture and of what is asked.

Template("A picture of")                                              # LiMBeR: the picture stands first where nothing says otherwise
Template("###Human: <Img>{image}</Img> {prompt} ###Assistant: ")      # MiniGPT-4, second stage
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from diptych.core.errors import ConfigError
from diptych.data.text.prompts.layout import Piece, Slots, Words

PLACES = re.compile(r"(\{image\}|\{prompt\})")


@dataclass(frozen=True, slots=True)
class Template:
    """text  what stands before the answer; "{image}" where the picture goes (at the start, if nowhere), "{prompt}" where words that are
    asked go. An answer follows directly: a space between is part of the template or of the answer.

    >>> Template("Q: {prompt} A:").pieces(2, "how many?", "two")
    [Slots(count=2), Words(text='Q: how many? A:', answer=False, ends=True), Words(text='two', answer=True, ends=True)]
    """

    text: str = ""

    def __post_init__(self) -> None:
        for place in ("{image}", "{prompt}"):
            if self.text.count(place) > 1:
                raise ConfigError(f"template {self.text!r} has {self.text.count(place)} times {place} (expected one at most)")

    @property
    def asks(self) -> bool:
        """Whether there is a place for words that are asked."""
        return "{prompt}" in self.text

    def pieces(self, slots: int, prompt: str = "", answer: str | None = None) -> list[Piece]:
        """The row for a picture of so many tokens (0 for none). Words without a place of their own stand behind the template."""
        text = self.text if "{image}" in self.text else "{image}" + self.text
        text = text if self.asks or not prompt else text + "{prompt}"
        found: list[Piece] = []
        words = ""
        for part in PLACES.split(text):
            if part != "{image}":
                words += prompt if part == "{prompt}" else part
                continue
            found += [Words(words)] if words else []
            found += [Slots(slots)] if slots else []
            words = ""
        found += [Words(words)] if words else []
        return found if answer is None else [*found, Words(answer, answer=True)]
