"""A file has one concern: what grows over 450 lines is two files."""

from __future__ import annotations

from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src/diptych"
MOST = 450


def test_no_file_of_the_package_is_longer_than_a_newcomer_reads() -> None:
    kinds = (".py", ".js", ".css", ".html")
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES.rglob("*") if path.suffix in kinds}
    assert len(lines) > 500
    long = {str(path.relative_to(SOURCES)): count for path, count in lines.items() if count > MOST}
    assert not long, f"longer than {MOST} lines: {long}"
