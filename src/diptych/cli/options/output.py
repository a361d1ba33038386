"""Printing of results and reading of arguments, common to all commands."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import arg

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.machine import DEVICE_VARIABLE
from diptych.core.terminal.control_characters import escape_controls, escape_controls_json

T = TypeVar("T")
DEVICE = Annotated[str, arg(help="auto (CUDA if available, else the processor), cpu, cuda, cuda:N or mps")]
"""Type of the option `--device`, whose value is that of "auto" as long as the command runs."""


def parse(kind: type[T], argv: Sequence[str], command: str, description: str, default: T | None = None) -> T:
    """Read `argv` into the dataclass `kind`. A wrong option is answered with near ones and exit code 2."""
    _OPTIONS.clear()
    _OPTIONS.update(field.name for field in fields(kind))  # type: ignore[arg-type]
    settings = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)
    prog, args = f"diptych {command}", list(argv)
    if default is None:
        parsed = tyro.cli(kind, args=args, prog=prog, description=description, config=settings)
    else:
        parsed = tyro.cli(kind, args=args, prog=prog, description=description, config=settings, default=default)
    _set_device(getattr(parsed, "device", None) or "auto")
    return parsed


def _set_device(name: str) -> None:
    """Makes a device that was asked for the one of "auto", here and in processes that the command starts. Raises ConfigError for one
    that is not there, before anything is read."""
    if name == "auto":
        return
    from diptych.models.io.device import choose_device

    choose_device(name)
    os.environ[DEVICE_VARIABLE] = name


_OPTIONS: set[str] = set()
"""The options of the command that is being carried out, as Python names them."""


def as_options(problem: str) -> str:
    """An error message with Python keyword arguments rewritten as command line options: ``data=`` becomes ``--data``.

    >>> _OPTIONS.update(["data", "hold_out"])
    >>> as_options("name them yourself (data=), or hold_out=0")
    'name them yourself (--data), or --hold-out 0'
    """

    def option(match: re.Match[str]) -> str:
        value = "" if match[2].strip("'\"[]. ") in ("", "True") else " " + match[2].strip("'\"")
        return f"--{match[1].replace('_', '-')}{value}"

    if not _OPTIONS & {"image", "text"} and (column := re.search(r"\b(image|text)=COLUMN", problem)):
        problem = problem.replace(column[0], f"a data set built first: diptych data build SRC OUT --{column[1]} COLUMN")
    names = "|".join(sorted(map(re.escape, _OPTIONS), key=len, reverse=True))
    return (
        re.sub(rf"(?<![\w:,./?&'\"-])({names})=(\[\.\.\.\]|True\b|'[^']*'|\"[^\"]*\"|[\w./-]*)", option, problem)
        if names
        else problem
    )


def existing_file(path: Path) -> Path:
    """Path of an existing file. Raises ConfigError for a folder, or where there is none."""
    if path.is_file():
        return path
    raise ConfigError(f"{path} is a folder (expected a file)" if path.is_dir() else f"{path} does not exist")


def listed(text: str) -> tuple[str, ...]:
    """``person, dog`` to its names, each once, in order.

    >>> listed("person, dog,person")
    ('person', 'dog')
    """
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def emit(payload: dict[str, Any]) -> None:
    """One line, one JSON object, on stdout."""
    print(escape_controls_json(json.dumps(to_plain(payload), ensure_ascii=False, allow_nan=False)), file=sys.stdout, flush=True)


def finish(payload: dict[str, Any], lines: Iterable[str], as_json: bool) -> int:
    """The result of a command: JSON for programs, lines for people."""
    if as_json:
        emit(payload)
    else:
        for line in lines:
            print(escape_controls(line))
    return 0


def say(line: str) -> None:
    """Something on the way to the result: to stderr, so that stdout stays clean."""
    print(escape_controls(line), file=sys.stderr, flush=True)


def note_empty(texts: Sequence[str]) -> None:
    """Says how many texts a model left empty, if any."""
    from diptych.core.prompt import EMPTY_TEXT

    if empty := sum(not text.strip() for text in texts):
        say(f"{empty} of {len(texts)} texts are empty: {EMPTY_TEXT}")
