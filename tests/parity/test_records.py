"""What tests/parity/SLUG.json says is measured by a test that is there, for every system that is built."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from diptych.core import systems

TESTS = Path(__file__).parents[1]
RECORDS = sorted(path for path in Path(__file__).parent.glob("*.json") if path.stem in {system.slug for system in systems.rows()})


@pytest.mark.parametrize("slug", systems.slugs(built=True))
def test_every_system_that_is_built_has_a_record(slug: str) -> None:
    assert (Path(__file__).parent / f"{slug}.json") in RECORDS


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_each_check_is_measured_by_a_test_that_names_it(path: Path) -> None:
    checks = json.loads(path.read_text(encoding="utf-8"))["checks"]
    assert checks
    for check in checks:
        assert 0 <= check["difference"] <= check["tolerance"], check["what"]
        file, _, name = check["test"].partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{check['test']} is gone: take its check out of {path.name}"
        patterns = spoken(tree)
        for words in (path.stem, check["what"], check["against"]):
            assert any(pattern.fullmatch(words) for pattern in patterns), f"{check['test']} no longer measures {words!r}"


def spoken(tree: ast.AST) -> list[re.Pattern[str]]:
    """Every string of a file; where an f-string fills something in, it may be anything."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.escape(node.value))
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in node.values]
            found.append("".join(parts))
    return [re.compile(pattern, re.DOTALL) for pattern in found]
