"""Every rule of `scripts/check_language.py` refuses a planted line and passes its plain form."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/check_language.py"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script over an empty project."""
    spec = spec_from_file_location("check_language", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "SOURCES", tmp_path / "src/diptych")
    monkeypatch.setattr("sys.argv", ["check_language.py"])
    return module


def planted(root: Path, text: str, file: str = "src/diptych/one.py") -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


REFUSED = {
    "class Wanted:\n    pass": "src/diptych/one.py:1: class Wanted (better: ReadOptions",
    "class Twin:\n    pass": "class Twin is also in src/diptych/one.py:1",
    'def f():\n    """What comes out."""': "src/diptych/one.py:1: docstring opens with 'What'",
    'class Box:\n    """How wide and high."""': "src/diptych/one.py:1: docstring opens with 'How'",
    'async def f():\n    """Whether it is open."""': "docstring opens with 'Whether'",
    '"""Why this is here."""': "src/diptych/one.py:1: docstring opens with 'Why'",
    "def f():\n    found = 1": "src/diptych/one.py:2: variable found (better: what it holds",
    "def f(known):\n    pass": "src/diptych/one.py:1: variable known",
    "for place in ():\n    pass": "src/diptych/one.py:1: variable place",
    'def f():\n    """Rows that were told apart."""': "src/diptych/one.py:1: 'told' (better: given",
    '"""Costs 64 tokens a text."""': "'tokens a text' (better: ... per ...)",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_planted_line_is_refused_with_the_better_word(
    text: str, check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(tmp_path, text)
    if "Twin" in text:
        planted(tmp_path, text, "src/diptych/two.py")
    assert check.main() == 1
    assert REFUSED[text] in capsys.readouterr().out


@pytest.mark.parametrize("file", ["README.md", "docs/page.md", "docs/data/page.md"])
def test_pages_are_read_too(file: str, check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted(tmp_path, "# Title\n\nIt keeps what it heard.\n", file)
    assert check.main() == 1
    assert f"{file}:3: 'heard' (better: received)" in capsys.readouterr().out


PASSED = [
    'class ReadOptions:\n    """Columns of a table."""',
    "class _Twin:\n    pass",
    "class Options:\n    known: str = ''",
    "x = thing.found",
    "call(told=1)",
    '"""Whatever comes."""',
    '"""Costs 64 tokens per text."""',
]


@pytest.mark.parametrize("text", PASSED)
def test_plain_lines_pass(text: str, check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Among them private classes of one name in two files, and fields, which users have written into configurations."""
    planted(tmp_path, text)
    if "Twin" in text:
        planted(tmp_path, text, "src/diptych/two.py")
    assert check.main() == 0
    assert capsys.readouterr().out == ""


def test_a_name_that_saved_folders_hold_stays_in_its_file_alone(check: Any, tmp_path: Path) -> None:
    ((file, name),) = check.SAVED_NAMES
    planted(tmp_path, f"def f({name}):\n    pass", file)
    assert check.main() == 0
    planted(tmp_path, f"def f({name}):\n    pass", "src/diptych/other.py")
    check._parsed.cache_clear()
    assert check.main() == 1


def test_the_counts(check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    planted(tmp_path, "class Look:\n    pass\n\n\nfound = told = 1")
    monkeypatch.setattr("sys.argv", ["check_language.py", "--count"])
    assert check.main() == 0
    assert capsys.readouterr().out == "{'class name': 1, 'variable': 2}\n"
