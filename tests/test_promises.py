"""The page of promises names tests that exist, and says of each whether it is slow."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/promises.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if NAMED.search(line)]


def the_test(file: Path, name: str) -> ast.FunctionDef | None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def is_slow(file: Path, test: ast.FunctionDef) -> bool:
    return any(ast.unparse(one) == "pytest.mark.slow" for one in test.decorator_list) or bool(
        re.search(r"^pytestmark = pytest\.mark\.slow$", file.read_text(encoding="utf-8"), re.MULTILINE)
    )


@pytest.mark.parametrize("line", LINES, ids=lambda line: NAMED.findall(line)[0][1])
def test_every_promise_has_the_test_that_it_names(line: str) -> None:
    for path, name in NAMED.findall(line):
        file = ROOT / path
        assert file.is_file(), path
        test = the_test(file, name)
        assert test is not None, f"{path} has no {name}"
        assert is_slow(file, test) == ("*slow*" in line), f"{name} is{'' if is_slow(file, test) else ' not'} slow"


def test_the_page_has_promises_and_what_is_none() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(LINES) > 30
    assert "## Not guaranteed" in text
    for part in ("tenants", "Trustworthy weights"):
        assert part in text


def test_the_numbers_of_cases_are_those_of_the_tests() -> None:
    source = (ROOT / "tests/attacks/fuzzing.py").read_text(encoding="utf-8")
    ((fast, slow),), (seconds,) = re.findall(r"FAST, SLOW = (\d+), (\d+)", source), re.findall(r"SECONDS = (\d+)", source)
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"`make test` runs {fast} fixed cases of each" in text
    assert f"`make test-all` {int(slow):,}" in text
    assert f"within {seconds} seconds" in text
