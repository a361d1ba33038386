"""Parsers of words on a command line: a name with options of its own (``clip:lr=2e-4,batch_size=64``), and ``FIELD=VALUE``."""

from __future__ import annotations

from typing import Any

import yaml

from diptych.core.errors import ConfigError
from diptych.core.own_recipes import split_commas


def parse_name(words: str) -> tuple[str, dict[str, Any]]:
    """A name and its options; values are read as YAML.

    >>> parse_name("clip:lr=2e-4,same_group=negative")
    ('clip', {'lr': 0.0002, 'same_group': 'negative'})
    >>> parse_name("vg150:ks=[20, 50],tags=[a,b]")
    ('vg150', {'ks': [20, 50], 'tags': ['a', 'b']})
    """
    name, _, tail = words.partition(":")
    return name, options(split_commas(tail) if tail else ())


def split_names(words: str) -> tuple[str, ...]:
    """Names with commas between them; what holds "=" and no colon is one more option of the name before.

    >>> split_names("retrieval, zero_shot:label=group_name,language=de")
    ('retrieval', 'zero_shot:label=group_name,language=de')
    >>> split_names("vg150:ks=[5,10],weight=[1,2],retrieval")
    ('vg150:ks=[5,10],weight=[1,2]', 'retrieval')
    """
    names: list[str] = []
    for word in (piece.strip() for piece in split_commas(words)):
        if names and "=" in word and ":" not in word.partition("=")[0]:
            names[-1] += f",{word}"
        elif word:
            names.append(word)
    return tuple(names)


def options(words: Any) -> dict[str, Any]:
    """``FIELD=VALUE`` words as a dict."""
    values: dict[str, Any] = {}
    for word in words:
        field, equals, text = word.partition("=")
        if not equals or not field.strip():
            raise ConfigError(f"option {word!r} (expected FIELD=VALUE)")
        values[field.strip()] = value(text)
    return values


def value(text: str) -> Any:
    """A YAML scalar; numbers such as 2e-4, which YAML takes for text, are numbers here."""
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(read, str):
        try:
            return float(read)
        except ValueError:
            return read
    return "" if read is None else read
