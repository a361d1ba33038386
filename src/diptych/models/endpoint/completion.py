"""Parses a server's chat completion. Anything malformed is a fault, never a text."""

from __future__ import annotations

import json

from diptych.core.contracts import Reply
from diptych.models.endpoint.connection import LARGEST


def completion_of(text: str, *, chat: bool) -> Reply:
    """The first choice's text with its tokens.

    >>> completion_of('{"choices": [{"text": "a bus"}]}', chat=False).text
    'a bus'
    >>> completion_of("<html>hello</html>", chat=True).fault
    "malformed: no choice with a text in '<html>hello</html>'"
    """
    if len(text) > LARGEST:
        return Reply("", fault=f"malformed: more than {LARGEST:,} bytes")
    try:
        plain = json.loads(text)
        choice = plain["choices"][0]
        written = _written(choice["message"]) if chat else choice["text"]
        usage = plain.get("usage") or {}
        read, generated = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Reply("", fault=f"malformed: no choice with a text in {text[:120]!r}")
    if not isinstance(written, str):
        return Reply("", fault=f"malformed: the text is {type(written).__name__}")
    return Reply(written, read, generated)


def _written(message: dict[str, object]) -> object:
    """Content of a message, or its refusal where a model declines."""
    content = message["content"]
    return message.get("refusal") if content is None and message.get("refusal") else content
