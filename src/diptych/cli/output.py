"""What a command prints, and how it reads its arguments."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import tyro

from diptych.core.config import to_plain
from diptych.core.visible import visible, visible_json

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], command: str, description: str, default: T | None = None) -> T:
    """Read `argv` into the dataclass `kind`. A wrong option is answered with near ones and exit code 2."""
    settings = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)
    prog, args = f"diptych {command}", list(argv)
    if default is None:
        return tyro.cli(kind, args=args, prog=prog, description=description, config=settings)
    return tyro.cli(kind, args=args, prog=prog, description=description, config=settings, default=default)


def listed(text: str) -> tuple[str, ...]:
    """``person, dog`` to its names, each once, in order.

    >>> listed("person, dog,person")
    ('person', 'dog')
    """
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def emit(payload: dict[str, Any]) -> None:
    """One line, one JSON object, on stdout."""
    print(visible_json(json.dumps(to_plain(payload), ensure_ascii=False, allow_nan=False)), file=sys.stdout, flush=True)


def finish(payload: dict[str, Any], lines: Iterable[str], as_json: bool) -> int:
    """The result of a command: JSON for programs, lines for people."""
    if as_json:
        emit(payload)
    else:
        for line in lines:
            print(visible(line))
    return 0


def say(line: str) -> None:
    """Something on the way to the result: to stderr, so that stdout stays clean."""
    print(visible(line), file=sys.stderr, flush=True)
