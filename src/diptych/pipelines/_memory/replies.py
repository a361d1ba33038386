"""Parses language model replies into windows, or an option with a confidence. An unparsable reply is marked as unread, never
guessed.

Replies are never executed: they are parsed as JSON, then as Python literals, then by the patterns of the published code.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["read", "unknown", "unread"]
Window = tuple[float, float]
_NUMBER = r"-?\d+(?:\.\d+)?"
_WINDOW = re.compile(rf"({_NUMBER})\s*(?:,|-|–|to)\s*({_NUMBER})")
_PLAIN = re.compile(r"\W*(\d+)\W*|.*\b(?:option|answer)(?:\s+is)?\W*(\d+)\b.*", re.IGNORECASE | re.DOTALL)
_PREDICTION = re.compile(r"prediction\s*[^\d]*\s*(\d+)", re.IGNORECASE)
UNKNOWN = ("na", "n/a", "none", "unknown", "nan")


@dataclass(frozen=True, slots=True)
class WindowReply:
    """windows      frames, best first
    outcome      "read", "unknown" (NA), or "unread"
    confidence   1 to 3; None if none was given
    """

    windows: tuple[Window, ...]
    outcome: Outcome
    explanation: str = ""
    confidence: int | None = None


@dataclass(frozen=True, slots=True)
class OptionReply:
    """option  its number from 0; None if the reply has none"""

    option: int | None
    explanation: str = ""
    confidence: int | None = None


UNREAD = WindowReply((), "unread")


def parse_windows(reply: str, numbers: Sequence[int]) -> dict[int, WindowReply]:
    """Parses windows by question from a reply's table; a question without a row is unread. Rows for other numbers are ignored.

    Columns are identified by the header if there is one, else by the requested order.
    """
    lines = [line for line in reply.replace("```", "\n").splitlines() if line.strip() and line.strip().lower() != "tsv"]
    names = ["query_index", "predictions", "explanation", "confidence"]
    windows: dict[int, WindowReply] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split("\t")]
        lowered = [cell.lower() for cell in cells]
        if "query_index" in lowered:
            names = lowered
            continue
        row = dict(zip(names, cells, strict=False))
        number = _whole(row.get("query_index", ""))
        if number is not None and number in numbers and number not in windows:
            windows[number] = _parse_window(row)
    return {number: windows.get(number, UNREAD) for number in numbers}


def _parse_window(row: dict[str, str]) -> WindowReply:
    prediction = row.get("predictions", row.get("prediction", ""))
    explanation, confidence = row.get("explanation", ""), confidence_of(row.get("confidence", ""))
    if prediction.strip("[]'\" .").lower() in UNKNOWN:
        return WindowReply((), "unknown", explanation, confidence)
    pairs = [(float(a), float(b)) for a, b in _WINDOW.findall(prediction)]
    windows = tuple((a, b) for a, b in pairs if a <= b)
    return WindowReply(windows, "read" if windows else "unread", explanation, confidence)


def parse_option(reply: str, options: int, *, released: bool = False) -> OptionReply:
    """Parses an option: from a dictionary; else the number after "prediction"; else a bare number or one after "option" or
    "answer".

    A number that is not an option is ignored. released: like the published code, which evaluates the whole reply as Python,
    discards the result if it is not a dictionary (for example a bare number), and if evaluation fails finally takes the first
    number in the reply.
    """
    fields = _evaluated(reply) if released else _dictionary(reply)
    if fields is not None:
        prediction = fields.get("prediction")
        number = _whole(str(prediction)) if prediction is not None else None
        if number is None and isinstance(prediction, str):
            named = re.fullmatch(r"\s*option\s*(\d+)\b.*", prediction, re.IGNORECASE | re.DOTALL)
            number = int(named[1]) if named else None
        choice = OptionReply(number, str(fields.get("explanation", "")), confidence_of(str(fields.get("confidence", ""))))
    else:
        behind = _PREDICTION.search(reply)
        match = behind[1] if behind else _last_resort(reply, released)
        tail = re.search(r"confidence[^\d]*(\d)", reply, re.IGNORECASE)
        choice = OptionReply(None if match is None else int(match), reply, confidence_of(tail[1]) if tail else None)
    in_range = choice.option is not None and 0 <= choice.option < options
    return choice if in_range else OptionReply(None, choice.explanation, choice.confidence)


def _last_resort(reply: str, released: bool) -> str | None:
    if released:
        first = re.search("[0-9]+", reply)
        return first[0] if first else None
    plain = _PLAIN.fullmatch(reply)
    return (plain[1] or plain[2]) if plain else None


def _evaluated(reply: str) -> dict[str, Any] | None:
    """Parses a whole reply as a Python dictionary literal; returns {} for another value, None if it is not a value.
    Names and calls are not evaluated."""
    try:
        tree = ast.parse(reply.lstrip(" \t"), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # ValueError: a null byte, before Python 3.12
        return None
    if any(isinstance(node, ast.Name | ast.Call | ast.Attribute) for node in ast.walk(tree)):
        return None
    try:
        value = ast.literal_eval(tree)
    except ValueError:
        return {}  # such as `2 is 2`: a value, but not a dictionary
    except (TypeError, MemoryError, RecursionError):
        return None
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else {}


def _dictionary(reply: str) -> dict[str, Any] | None:
    text = re.sub(r"^```\w*|```$", "", reply.strip()).strip()
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    text = text[start : end + 1]
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        if isinstance(value, dict):
            return {str(name).strip().lower(): one for name, one in value.items()}
    return None


def confidence_of(text: str) -> int | None:
    """Confidence: 1, 2 or 3.

    >>> tuple(confidence_of(text) for text in ("3", "Level 2", "2.0", "high", "7"))
    (3, 2, 2, None, None)
    """
    match = re.fullmatch(r"(?:level\s*)?([123])(?:\.0+|/3)?", text.strip(), re.IGNORECASE)
    return int(match[1]) if match else None


def _whole(text: str) -> int | None:
    match = re.fullmatch(r"\s*(\d+)(?:\.0+)?\s*", text)
    return int(match[1]) if match else None
