"""Whoever opens a file of these rooms reads first what it is for, and of every public function and class what it gives."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src/diptych"
ROOMS = ("core", "curate", "data", "index", "models", "objectives", "report", "tasks", "train")
BY_CONTRACT = ("main", "add")
"""Of every command and of every group of routes the same: their contract says what they do."""


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_says_what_it_gives(room: str) -> None:
    silent = []
    for path in sorted((SOURCES / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and path.name != "__init__.py" and not ast.get_docstring(tree):
            silent.append(str(path.relative_to(SOURCES)))
        named = [item for item in tree.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        for item in named:
            if not ast.get_docstring(item) and not item.name.startswith("_") and item.name not in BY_CONTRACT:
                silent.append(f"{path.relative_to(SOURCES)}:{item.lineno} {item.name}")
    assert not silent, "\n".join(silent)
