"""Parser of a comparison's arguments: a budget, and a name with options of its own (``clip:lr=2e-4,batch_size=64``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml

from diptych.core.errors import ConfigError
from diptych.core.own_recipes import split_commas

Kind = Literal["steps", "samples", "seconds"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Training budget of every arm.

    steps    optimiser steps
    samples  samples seen, repeats included; rounded up to whole batches
    seconds  of training on this machine; turned into steps by the time of a few real ones (`compare.py` says when)
    """

    kind: Kind
    amount: int

    @classmethod
    def parse(cls, words: str) -> Budget:
        """
        >>> Budget.parse("samples:25600")
        Budget(kind='samples', amount=25600)
        """
        kind, colon, number = words.strip().partition(":")
        digits = number.replace(",", "").replace("_", "")
        if kind not in get_args(Kind) or not colon or not digits.isdigit() or int(digits) < 1:
            raise ConfigError(f"budget {words!r} (expected steps:N, samples:N or seconds:N with N from 1, such as steps:200)")
        return cls(kind, int(digits))  # type: ignore[arg-type]

    def steps_of(self, batch_size: int, seconds_a_step: float = math.nan) -> int:
        """Optimiser steps that this budget pays for; at least one."""
        if self.kind == "steps":
            return self.amount
        if self.kind == "samples":
            return math.ceil(self.amount / batch_size)
        return max(1, int(self.amount / seconds_a_step))

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount}"


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
