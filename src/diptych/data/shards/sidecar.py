"""Sidecar files of an image: a text file, a JSON object, a class. Shared by folders and tars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import PICTURE_SUFFIXES
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.read_options import TEXT_NAMES, ReadOptions

IMAGES = frozenset(PICTURE_SUFFIXES)
TEXTS = ("txt", "caption", "text")
LARGEST = 16 * 2**20
"""Maximum bytes of a sidecar; larger files are rejected."""
MOST_FIELDS = 1_000
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_JSON_TEXT = tuple(name for rank in TEXT_NAMES for name in rank)


def text_of(data: bytes, uid: str, file: str) -> str | QuarantineEntry:
    """A caption file as a string, or which byte is not UTF-8. A byte order mark is taken off, half-read text never comes out."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return QuarantineEntry(uid, "text", "is UTF-16, not UTF-8 (byte order mark at byte 0); convert it with iconv", file)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        return QuarantineEntry(uid, "text", f"is not UTF-8: byte {at} is 0x{data[at]:02x}; convert it with iconv", file)


def fields_of(data: bytes, uid: str, file: str) -> dict[str, Any] | QuarantineEntry:
    """A JSON member as a dict, or why not."""
    text = text_of(data, uid, file)
    if isinstance(text, QuarantineEntry):
        return text
    try:
        value = parse_json(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails where half a surrogate pair was spelled out
    except json.JSONDecodeError as error:
        return QuarantineEntry(
            uid, "text", f"is not JSON: {error.msg} at byte {len(text[: error.pos].encode('utf-8', 'surrogatepass'))}", file
        )
    except UnicodeEncodeError:
        return QuarantineEntry(uid, "text", "holds half a surrogate pair, which is not a character", file)
    except ValueError as error:
        return QuarantineEntry(uid, "text", str(error), file)
    if not isinstance(value, dict):
        return QuarantineEntry(uid, "text", f"holds a JSON {type(value).__name__}, not an object", file)
    if len(value) > MOST_FIELDS:
        return QuarantineEntry(uid, "text", f"holds {len(value):,} fields, and at most {MOST_FIELDS:,} become columns", file)
    return value


def row_of(
    members: Mapping[str, bytes], uid: str, files: Mapping[str, str], options: ReadOptions
) -> dict[str, Any] | QuarantineEntry:
    """The columns of one sample from its members by extension (the image left out); `files` names each member for messages.

    "txt" is the caption: of the text file, else of the JSON object. Columns that the user named as texts stay as they are.
    """
    row: dict[str, Any] = {}
    if "json" in members:
        fields = fields_of(members["json"], uid, files["json"])
        if isinstance(fields, QuarantineEntry):
            return fields
        row.update(fields)
    for extension in TEXTS:
        if extension in members:
            text = text_of(members[extension], uid, files[extension])
            if isinstance(text, QuarantineEntry):
                return text
            if text:
                row["txt"] = text
            break
    if "cls" in members:
        text = text_of(members["cls"], uid, files["cls"])
        if isinstance(text, QuarantineEntry):
            return text
        row["cls"] = int(text) if _WHOLE.fullmatch(text) else text
    if options.text is None:
        text_field = next((name for name in _JSON_TEXT if row.get(name)), None) if "txt" not in row else None
        if text_field:
            row["txt"] = row.pop(text_field)
        row.pop("caption", None)  # the same words again
    return row
