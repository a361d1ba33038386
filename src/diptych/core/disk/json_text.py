"""JSON from untrusted files: unreadable or unsafe input raises a `ValueError` that describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.core.disk.paths import read_file

DEEPEST = 100
"""Lists and objects inside of each other. Deeper ones are no data, and each level costs a frame wherever they are written again."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `json.JSONDecodeError` with its place, UnicodeDecodeError, or ValueError with a line that says
    why: too deep, or a number too long.

    >>> parse_json("[1, 2]")
    [1, 2]
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError:
        raise ValueError(_deep()) from None
    except ValueError:
        raise ValueError("contains a number with more digits than Python accepts (4,300)") from None
    opening = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    opened: int = sum(text.count(one) for one in opening)  # type: ignore[arg-type, misc]  # of the text's own kind
    if opened > DEEPEST and _exceeds_depth(value, DEEPEST):
        raise ValueError(_deep())
    return value


def _exceeds_depth(value: Any, most: int) -> bool:
    """True if containers are nested more than `most` deep; without recursion."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _deep() -> str:
    return f"is nested more than {DEEPEST} deep"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object out of one of our own files. Raises ValueError with a line that says what is wrong: no file, no UTF-8, no JSON, no
    object. The caller's error names the file."""
    try:
        value = parse_json(read_file(path))
    except FileNotFoundError:
        raise ValueError("does not exist") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start:,}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} in line {error.lineno}") from error
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__}, not an object")
    return value
