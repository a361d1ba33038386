"""Text from data as HTML."""

from __future__ import annotations

import html

from diptych.core.terminal.control_characters import visible


def escape(text: str) -> str:
    """Markup is text, and characters that act on the display are spelled out."""
    return html.escape(visible(text))
