r"""Escaping of text from data for display: characters that control a terminal or the writing direction are spelled out.

A caption may hold an escape sequence that rewrites the screen, or a right-to-left override that makes `exe.gpj` read `jpg.exe`
(CVE-2021-42574). Data keep them; pages and terminals show `\x1b` and `\u202e`. Joiners stay, for emoji and some scripts need them.
"""

from __future__ import annotations

import re

ACTIVE = re.compile(
    "["
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction
    r"\u200b\u2028\u2029\u2060-\u2064\ufeff\ufff9-\ufffb"  # invisible characters and line separators
    r"\ud800-\udfff"  # halves of pairs, which cannot be written out
    "]"
)


def escape_controls(text: str) -> str:
    r"""The same with such characters escaped; newlines and tabs stay.

    >>> print(escape_controls("red\x1b[2J \u202egpj.exe"))
    red\x1b[2J \u202egpj.exe
    """
    return ACTIVE.sub(lambda match: _escaped(match[0]), text)


def escape_controls_json(text: str) -> str:
    """The same for a line of JSON, in JSON's own spelling, so that it reads back as it was."""
    return ACTIVE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
