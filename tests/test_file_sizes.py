"""A file has one concern: what grows over 450 lines is two files. A room of more than 24 files has folders."""

from __future__ import annotations

from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src/diptych"
MOST = 450
FILES = 24
BY_NAME = ("claims/systems", "cli/commands", "recipes/contrastive")
"""Rooms whose files are found by a name that the reader has: a system's, a command's, a recipe's."""


def test_no_file_of_the_package_is_longer_than_a_newcomer_reads() -> None:
    kinds = (".py", ".js", ".css", ".html")
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES.rglob("*") if path.suffix in kinds}
    assert len(lines) > 500
    long = {str(path.relative_to(SOURCES)): count for path, count in lines.items() if count > MOST}
    assert not long, f"longer than {MOST} lines: {long}"


def test_no_room_is_a_flat_drawer() -> None:
    rooms = {path for path in SOURCES.rglob("*") if path.is_dir()}
    counts = {str(room.relative_to(SOURCES)): len([*room.glob("*.py")]) - (room / "__init__.py").is_file() for room in rooms}
    assert set(BY_NAME) <= counts.keys()
    full = {room: count for room, count in counts.items() if count > FILES and room not in BY_NAME}
    assert not full, f"more than {FILES} files in one folder: {full}"
