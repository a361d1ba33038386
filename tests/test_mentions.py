"""Files and modules that docs and docstrings name are there: `room/file.py`, `room.module`, `tests/...`. A move is followed everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/diptych"
ROOMS = "|".join(sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")))
PLACE = re.compile(rf"`(?:src/diptych/)?((?:{ROOMS})/[a-z_0-9/]+\.py)`")
BESIDE = re.compile(r"`((?:tests|scripts|benchmarks|examples)/[a-z_0-9/]+\.(?:py|json))(?:::\w+)?`")
MODULE = re.compile(rf"`(diptych\.)?((?:{ROOMS})\.[a-z_0-9]+(?:\.[a-z_0-9]+)*)")
FILE_NAMES = re.compile(r"\w+\.(json|html|py|md|noun)")  # `index.json` is a file, and no module of the room `index`
PAGES = [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name not in ("claims", "decisions"))]


def module_is_there(name: str) -> bool:
    """Whether a module or folder has this name, or the beginning of it and speaks of what stands behind."""
    place = PACKAGE
    for part in name.split("."):
        if place.is_file() or not ((place / part).is_dir() or (place / f"{part}.py").is_file()):
            own = place if place.is_file() else place / "__init__.py"
            return bool(re.search(rf"\b{part}\b", own.read_text(encoding="utf-8")))
        place = place / part if (place / part).is_dir() else place / f"{part}.py"
    return True


@pytest.mark.parametrize("folder", ["docs", *sorted(ROOMS.split("|"))])
def test_what_is_named_is_there(folder: str) -> None:
    paths = PAGES if folder == "docs" else sorted((PACKAGE / folder).rglob("*.py"))
    gone = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        named = [
            *((PACKAGE / place, place) for place in PLACE.findall(text)),
            *((ROOT / place, place) for place in BESIDE.findall(text)),
        ]
        gone += [f"{path.name}: {place}" for file, place in named if not file.is_file()]
        whole = folder == "docs"  # where `index.search` is a call on what the reader has
        modules = [name for package, name in MODULE.findall(text) if (package or not whole) and not FILE_NAMES.fullmatch(name)]
        gone += [f"{path.name}: {name}" for name in modules if not module_is_there(name)]
    assert not gone
