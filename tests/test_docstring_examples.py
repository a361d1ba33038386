"""The examples in docstrings print what they say: each file that has some is run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src"
EXAMPLE = re.compile(r"^\s*>>> (?!.*# doctest: \+SKIP)", re.MULTILINE)
FILES = sorted(path for path in (PACKAGE / "diptych").rglob("*.py") if EXAMPLE.search(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE / "diptych")))
def test_an_example_prints_what_it_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed, capsys.readouterr().out


def test_files_with_examples_are_found() -> None:
    assert len(FILES) > 150
