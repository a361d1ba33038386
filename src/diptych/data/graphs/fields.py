"""Fields of an annotation file: each read with its kind, and a `DataError` that names it where it is something else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError


def need(entry: Any, name: str, *kinds: type) -> Any:
    """`entry[name]`, of one of these kinds. Anything else is a `DataError` that names the field."""
    if not isinstance(entry, dict):
        raise DataError(f"is {type(entry).__name__}", expected="an object")
    if name not in entry:
        raise DataError(f"has no '{name}' among {', '.join(map(str, entry)) or 'no keys'}", field=name)
    value = entry[name]
    if kinds and not isinstance(value, kinds):
        raise DataError(f"is {type(value).__name__}", field=name, expected=" or ".join(kind.__name__ for kind in kinds))
    return value


def listed(entry: dict[str, Any], name: str) -> list[Any]:
    """A list that may be missing or null."""
    return need(entry, name, list) if entry.get(name) is not None else []


def ident(entry: Any, name: str) -> Any:
    """An id by which other parts of the file name this one."""
    return need(entry, name, int, str)


def whole(value: Any, what: str) -> int:
    """An id that may be written as a string with white space around it (HICO-DET has "5\\n")."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DataError(f"{value!r:.60} is not a number", field=what, expected="a whole number") from None


def real(value: Any, what: str) -> float:
    """A score or confidence."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or not math.isfinite(value):
        raise DataError(f"{value!r:.60} is not a number", field=what, expected="a finite number")
    return float(value)


def corners(value: Any, *, sides: bool = False) -> tuple[float, float, float, float]:
    """Four numbers as xyxy; `sides` for (x, y, width, height)."""
    try:
        x0, y0, x1, y1 = map(float, value)
    except (TypeError, ValueError, OverflowError):
        return (math.nan, math.nan, math.nan, math.nan)
    return (x0, y0, x0 + x1, y0 + y1) if sides else (x0, y0, x1, y1)


def split_of(file: Path) -> str:
    """The split in a file's name: ``test_hico.json`` test, ``vcoco_trainval.json`` train, else ""."""
    words = file.stem.lower().replace("-", "_").replace("2015", "").split("_")
    split_by_word = {"train": "train", "trainval": "train", "val": "val", "validation": "val", "test": "test"}
    return next((split_by_word[word] for word in words if word in split_by_word), "")
