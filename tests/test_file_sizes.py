"""A file has one concern: what grows over 450 lines is two files. A room of more than 24 files has folders, here as in the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.core import systems

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src/diptych"
MOST = 450
FILES = 24
BY_NAME = {
    "src/diptych": ("claims/systems", "cli/commands", "curate/operators", "recipes/contrastive"),
    "tests": ("recipes/contrastive",),
    "benchmarks": (".",),
}
"""Rooms whose files are found by a name that the reader has: a system's, a command's, a recipe's, that of what is measured."""


def test_no_file_of_the_package_is_longer_than_a_newcomer_reads() -> None:
    kinds = (".py", ".js", ".css", ".html")
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES.rglob("*") if path.suffix in kinds}
    assert len(lines) > 500
    long = {str(path.relative_to(SOURCES)): count for path, count in lines.items() if count > MOST}
    assert not long, f"longer than {MOST} lines: {long}"


@pytest.mark.parametrize("place", BY_NAME)
def test_no_room_is_a_flat_drawer(place: str) -> None:
    counts = files_by_room(ROOT / place)
    assert set(BY_NAME[place]) <= counts.keys()
    full = {room: count for room, count in counts.items() if count > FILES and room not in BY_NAME[place]}
    assert not full, f"more than {FILES} files in one folder of {place}: {full}"


def files_by_room(top: Path) -> dict[str, int]:
    """Folder under `top` -> its modules, and beside tests the data that they read: all but records that are named after systems."""
    named = {system.slug for system in systems.rows()}
    counts = {}
    for room in (top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")):
        files = [path for path in room.iterdir() if path.is_file() and path.name != "__init__.py"]
        if top == SOURCES:
            files = [path for path in files if path.suffix == ".py"]
        counts[str(room.relative_to(top))] = sum(path.suffix != ".json" or path.stem not in named for path in files)
    return counts
