"""Reasons for mutants that no test can see: each stands for a change that scripts/mutants.py can make."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/mutants.py"


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


def test_every_reason_is_for_a_mutant_of_the_code_as_it_is(mutants: ModuleType) -> None:
    """A line that has changed leaves no reason behind, which would hide another mutant."""
    equal = mutants.reasons()
    keys = set()
    for file in {key[0] for key in equal}:
        path = mutants.SOURCES / file
        lines = {line for other, line, *_ in equal if other == file}
        text = path.read_text(encoding="utf-8").splitlines()
        nodes = mutants.sites_of(ast.parse("\n".join(text)))
        keys |= {mutants.mutated(path, n).key for n, node in enumerate(nodes) if text[node.lineno - 1].strip() in lines}
    assert set(equal) - keys == set()
    assert all(len(reason) > 20 for reason in equal.values())


def test_a_mutant_says_something_else_and_compiles(mutants: ModuleType) -> None:
    drawn = list(mutants.sample(["index"], 10, seed=0))
    assert drawn == list(mutants.sample(["index"], 10, seed=0))
    for room, mutant in drawn:
        assert room == "index"
        assert mutant.before != mutant.after
        whole = ast.unparse(ast.parse(mutant.path.read_text(encoding="utf-8")))
        changed = [(old, new) for old, new in zip(whole.splitlines(), mutant.source.splitlines(), strict=True) if old != new]
        assert len(changed) == 1
        compile(mutant.source, mutant.path, "exec")
