"""Stop sequences in streamed text: a possible beginning of one is held back until it is resolved."""

from __future__ import annotations

from collections.abc import Sequence


class StopSequenceFilter:
    """Cuts pieces of text before the first of `stops`, wherever the pieces are cut.

    >>> stops = StopSequenceFilter(["\\n\\n", "END"])
    >>> stops.take("a cat\\n"), stops.take("on a mat E"), stops.take("ND and more"), stops.found
    ('a cat', '\\non a mat ', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def take(self, piece: str) -> str:
        """Text that can be sent now: everything before a stop, without an ending that may be the beginning of one."""
        if self.found:
            return ""
        text = self._held + piece
        positions = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if positions:
            self.found, self._held = True, ""
            return text[: min(positions)]
        held = max((self._letters_of_stop(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Text that was held back, once the model has finished."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _letters_of_stop(text: str, stop: str) -> int:
        """Length of the longest ending of the text that is a beginning of the stop."""
        return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
