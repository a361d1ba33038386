"""HTML escaping of text from data."""

from __future__ import annotations

import html

from diptych.core.terminal.control_characters import escape_controls


def escape(text: str) -> str:
    """Escaped text: markup is text, and control characters of the display are spelled out."""
    return html.escape(escape_controls(text))
