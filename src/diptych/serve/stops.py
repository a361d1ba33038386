"""Texts that end an answer: what may be the beginning of one is held back until it is known."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Cuts pieces of text before the first of `stops`, wherever the pieces are cut.

    >>> stops = Stops(["\\n\\n", "END"])
    >>> stops.take("a cat\\n"), stops.take("on a mat E"), stops.take("ND and more"), stops.found
    ('a cat', '\\non a mat ', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def take(self, piece: str) -> str:
        """What can be given away now."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        kept = max((self._letters_of_stop(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _letters_of_stop(text: str, stop: str) -> int:
        """How many letters at the end of the text may be the beginning of the stop."""
        return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
