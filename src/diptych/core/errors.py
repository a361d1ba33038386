"""Error classes whose messages name the value, its location, and what would have worked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires


class DiptychError(Exception):
    """Base class of errors that a user can cause and fix. The message is one line, even if names in the user's data contain line
    breaks; the command line prints it without a traceback.

    >>> print(DiptychError("no column 'a\\nb'"))
    no column 'a\\nb'
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(str(text).replace("\r", "\\r").replace("\n", "\\n"))


class DataError(DiptychError):
    """Something in the user's data is wrong. Names the file and, if there is one, the row and the field.

    >>> print(DataError("caption is empty", file="pairs.csv", row=3, field="caption", expected="some text"))
    pairs.csv, row 3, field 'caption': caption is empty (expected some text)
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        row: int | None = None,
        field: str | None = None,
        expected: str | None = None,
    ) -> None:
        self.problem, self.file, self.row, self.field, self.expected = problem, file, row, field, expected
        parts = [str(file)] if file is not None else []
        parts += [f"row {row}"] if row is not None else []
        parts += [f"field '{field}'"] if field is not None else []
        where = ", ".join(parts) + ": " if parts else ""
        super().__init__(f"{where}{problem}" + (f" (expected {expected})" if expected else ""))


class DecodeError(DataError):
    """A medium whose bytes cannot be trusted: truncated, not what it should be, too large. Costs that sample only.

    medium  the kind of medium, which is the stage of its row in the quarantine
    """

    def __init__(
        self,
        problem: str,
        *,
        medium: str = "image",
        file: object = None,
        row: int | None = None,
        field: str | None = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(problem, file=file, row=row, field=field, expected=expected)
        self.medium = medium


class TooLarge(DecodeError):
    """An image above the limits of memory or work; it may be sound."""


class ShapeError(DiptychError, ValueError):
    """A tensor or array of the wrong shape. Says the expected and the received shape."""


class ConfigError(DiptychError):
    """A field or option with a value that cannot work."""


class PromptTooLong(ConfigError):
    """A prompt that leaves no room for this many tokens. `room` is how many there is room for; 0 or less: none."""

    def __init__(self, text: str = "", room: int = 0) -> None:
        self.room = room
        super().__init__(text)


class RunError(DiptychError):
    """A run folder, an index or a checkpoint that cannot be used."""


LISTED = 300
"""Characters of known names, in all, that an error still lists."""


class UnknownName(DiptychError):
    """Unknown name, with the nearest valid ones.

    >>> print(UnknownName("recipe", "fillip", ["clip", "filip", "align"]))
    unknown recipe 'fillip'; did you mean 'filip'?
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str], *, hint: str = "") -> None:
        name = str(name)  # what a file says may be anything
        self.kind, self.name = kind, name
        valid = sorted(valid)
        near = difflib.get_close_matches(name.lower().replace("-", "_"), valid, n=3, cutoff=0.6)
        if near:
            best = difflib.SequenceMatcher(None, name, near[0]).ratio()
            near = [n for n in near if difflib.SequenceMatcher(None, name, n).ratio() > best - 0.02]
            tail = "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
        elif not valid:
            tail = hint or "there is none"
        elif len(valid) <= 12 or (not hint and sum(map(len, valid)) <= LISTED):
            tail = "known: " + ", ".join(valid)
        else:
            tail = hint or f"{len(valid)} names are known"
        super().__init__(f"unknown {kind} '{name}'; {tail}")


class MissingExtra(DiptychError):
    """An optional package is not installed. Names the package as package indexes do, and the extra that lists it."""

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        packages = " ".join(f"'{name}'" for name in _packages_of(extra)) or f"'{package}'"
        super().__init__(f"{needed_for} needs the package '{package}': pip install {packages}   (the extra diptych[{extra}])")


def _packages_of(extra: str) -> list[str]:
    """The requirements of an extra of the installed distribution: ``tensorboard>=2.19``."""
    try:
        lines = requires("diptych") or []
    except PackageNotFoundError:  # run from its sources alone
        return []
    marked = (line.partition(";") for line in lines)
    return [name.strip() for name, _, mark in marked if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", mark)]
