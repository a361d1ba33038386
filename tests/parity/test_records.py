"""What tests/parity/SLUG.json says is measured by a test that is there, for every system that is built."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from diptych.core import systems

TESTS = Path(__file__).parents[1]
RECORDS = sorted(path for path in Path(__file__).parent.glob("*.json") if path.stem in {system.slug for system in systems.rows()})


def test_every_system_that_is_built_has_a_record() -> None:
    assert set(systems.slugs(built=True)) <= {path.stem for path in RECORDS}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_each_check_is_measured_by_a_test_that_names_it(path: Path) -> None:
    checks = json.loads(path.read_text(encoding="utf-8"))["checks"]
    assert checks
    for check in checks:
        assert 0 <= check["difference"] <= check["tolerance"], check["what"]
        file, _, name = check["test"].partition("::")
        read = read_tests(TESTS / file)
        assert name in read.names, f"{check['test']} is gone: take its check out of {path.name}"
        for words in (path.stem, check["what"], check["against"]):
            assert read.says(words), f"{check['test']} no longer measures {words!r}"


@dataclass(frozen=True)
class Read:
    """names     functions of a file of tests
    strings  every string of it
    patterns of its f-strings: where one fills something in, it may be anything
    """

    names: frozenset[str]
    strings: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def says(self, words: str) -> bool:
        return words in self.strings or any(pattern.fullmatch(words) for pattern in self.patterns)


@cache
def read_tests(path: Path) -> Read:
    """A file of tests, which most records name several times."""
    names, strings, patterns = set[str](), set[str](), list[re.Pattern[str]]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in node.values]
            patterns.append(re.compile("".join(parts), re.DOTALL))
    return Read(frozenset(names), frozenset(strings), tuple(patterns))


def test_words_are_found_in_strings_and_in_filled_in_ones(tmp_path: Path) -> None:
    path = tmp_path / "test_made.py"
    path.write_text("def test_it():\n    parity('clip', f'loss at {rate} of all', 'a (naive) loop')\n", encoding="utf-8")
    read = read_tests(path)
    assert read.names == {"test_it"}
    assert all(read.says(words) for words in ("clip", "a (naive) loop", "loss at 0.5 of all"))
    assert not any(read.says(words) for words in ("cli", "a (naive) loops", "loss at  of al", "rate"))
