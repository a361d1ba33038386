"""Mutation testing on a sample: small faults are put into the rooms that compute, and fast tests must see them.

    python scripts/mutants.py                                   # 40 mutants over all rooms
    python scripts/mutants.py --rooms train index --sample 10 --seed 3
    python scripts/mutants.py --skip 26                         # goes on behind the first 26 of the sample

A mutant is one operator, comparison, number or condition of one module that says something else. It is imported in place of the module in
a process of its own, so the source tree is never edited. The fast tests of the files that import the module are run until the first fails:
those of its own room first, then of other rooms, then files that import a module which imports it; at most --files of them. Survivors are
printed with the line as it was and as it became: each wants a test, or a reason in `tests/equal_mutants.toml`, whose mutants are not run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES, TESTS = ROOT / "src/diptych", ROOT / "tests"
EQUAL = TESTS / "equal_mutants.toml"
ROOMS = ("objectives", "tasks/_scoring", "index", "data/load", "train")
LIMIT, WAIT = 60, 600
"""Processor seconds, and seconds by the clock, of one test: one that runs on sees the mutant, as it would hang."""

FILES, FIRST = 6, 2
"""Test files of one mutant, and how many of them are collected and run before the others."""

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """path      of the module
    source    of the mutated module
    line      number of the line where the mutated node begins, and its column
    before    the node's text, and after
    """

    path: Path
    source: str
    line: int
    column: int
    before: str
    after: str

    @property
    def module(self) -> str:
        return module_of(self.path)

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """File, text of the line, column in it, and the change: what a reason in `tests/equal_mutants.toml` stands under."""
        line = self.path.read_text(encoding="utf-8").splitlines()[self.line - 1]
        indent = len(line) - len(line.lstrip())
        return self.path.relative_to(SOURCES).as_posix(), line.strip(), self.column - indent, self.before, self.after


def reasons() -> dict[tuple[str, str, int, str, str], str]:
    """Why mutants compute the same, by `Mutant.key`."""
    rows = tomllib.loads(EQUAL.read_text(encoding="utf-8"))["mutant"]
    return {(row["file"], row["line"], row["column"], row["before"], row["after"]): row["reason"] for row in rows}


def can_change(node: ast.AST) -> bool:
    """True for a number, a condition, and an operator that has an opposite."""
    match node:
        case ast.Constant(value=bool() | int() | float()) | ast.If() | ast.IfExp():
            return True
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.Compare(ops=[operator, *_]):
            return type(operator) in SWAPPED
    return False


class Sites(ast.NodeVisitor):
    """Nodes that can be mutated: none in annotations, docstrings, decorators, messages of errors and f-strings."""

    def __init__(self) -> None:
        self.nodes: list[ast.AST] = []

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
            return
        if can_change(node):
            self.nodes.append(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(node, ast.Call):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)


def sites_of(tree: ast.AST) -> list[ast.AST]:
    sites = Sites()
    sites.visit(tree)
    return sites.nodes


def mutated(path: Path, number: int) -> Mutant:
    """The mutant at the site `number` of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = sites_of(tree)[number]
    before = ast.unparse(node)
    match node:
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant(value=int() | float()):
            node.value += 1
        case ast.Compare():
            node.ops[0] = SWAPPED[type(node.ops[0])]()  # type: ignore[call-overload]
        case ast.BinOp() | ast.BoolOp():
            node.op = SWAPPED[type(node.op)]()  # type: ignore[assignment]
        case ast.If() | ast.IfExp():
            before, node.test = ast.unparse(node.test), ast.UnaryOp(ast.Not(), node.test)
    after = ast.unparse(node.test if isinstance(node, ast.If | ast.IfExp) else node)
    line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
    return Mutant(path, ast.unparse(ast.fix_missing_locations(tree)), line, column, before, after)


def sample(rooms: list[str], count: int, seed: int) -> Iterator[tuple[str, Mutant]]:
    """`count` mutants, the same number of each room, drawn evenly from all sites of its modules."""
    rng = random.Random(seed)
    for position, room in enumerate(rooms):
        sites = []
        for path in sorted((SOURCES / room).rglob("*.py")):
            sites += [(path, number) for number in range(len(sites_of(ast.parse(path.read_text(encoding="utf-8")))))]
        share = count // len(rooms) + (position < count % len(rooms))
        yield from ((room, mutated(path, number)) for path, number in rng.sample(sites, share))


def module_of(path: Path) -> str:
    """The dotted name under which a file is imported.

    >>> module_of(SOURCES / "core/errors.py"), module_of(TESTS / "helpers/__init__.py")
    ('diptych.core.errors', 'tests.helpers')
    """
    root = SOURCES.parent if path.is_relative_to(SOURCES) else ROOT
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports, inside functions, too. Of `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def nearest_tests(room: str, path: Path, most: int = FILES) -> list[Path]:
    """Test files of the source file, nearest first: those that import it, then those that import a module which imports it. Within both
    those in the folder of the room come first, then those in the folders around it.

    >>> [file.name for file in nearest_tests("objectives", SOURCES / "objectives/pairs/topology.py")][0]
    'test_topology.py'
    """
    module = module_of(path)
    users = {module_of(file) for folder in (SOURCES, TESTS) for file in folder.rglob("*.py") if module in imports(file)}
    near = {str(parent): depth for depth, parent in enumerate(reversed((TESTS / room).relative_to(ROOT).parents))}
    near[str((TESTS / room).relative_to(ROOT))] = len(near)

    def distance(file: Path) -> tuple[bool, int, bool, Path]:
        common = max(near.get(str(parent), 0) for parent in file.relative_to(ROOT).parents)
        return module not in imports(file), -common, path.stem not in file.stem, file

    files = [file for file in TESTS.rglob("test_*.py") if imports(file) & {module, *users}]
    return sorted(files, key=distance)[:most]


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant where its module is asked for."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.mutant.module:
            return None
        package = [str(self.mutant.path.parent)] if self.mutant.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.mutant.path, loader=self, submodule_search_locations=package)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, self.mutant.path, "exec"), module.__dict__)


class Limited:
    """A plugin of pytest that ends the process when one test runs on."""

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        signal.alarm(WAIT)


def survives(mutant: Mutant, files: list[Path]) -> bool:
    """True if all tests pass with the mutant, in processes forked from this one, which has imported the large libraries."""
    return all(passes(mutant, some) for some in (files[:FIRST], files[FIRST:]) if some)


def passes(mutant: Mutant, files: list[Path]) -> bool:
    import pytest

    child = os.fork()
    if not child:
        os.setsid()
        signal.alarm(WAIT)
        with open(os.devnull, "w") as silence:
            os.dup2(silence.fileno(), 1)
            os.dup2(silence.fileno(), 2)
        sys.meta_path.insert(0, Replaced(mutant))
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        os._exit(int(pytest.main([*options, *map(str, files)], plugins=[Limited()])))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if code == 4:  # a wrong option
        raise RuntimeError(f"pytest ran no test of {', '.join(map(str, files))}")
    return code in (0, 5)  # 5: no fast test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS))
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="mutants of the sample that have been run already")
    parser.add_argument("--files", type=int, default=FILES, help="test files that are run for one mutant, at most")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    for library in ("torch", "torchvision", "timm", "transformers", "scipy.stats", "sklearn", "pyarrow.parquet", "open_clip"):
        importlib.import_module(library)
    ends, equal, begun = Counter[tuple[str, str]](), reasons(), time.monotonic()
    for room, mutant in islice(sample(options.rooms, options.sample, options.seed), options.skip, None):
        if mutant.key in equal:
            end = "equal"
        else:
            end = "SURVIVES" if survives(mutant, nearest_tests(room, mutant.path, options.files)) else "seen"
        ends[room, end] += 1
        where = f"{mutant.path.relative_to(SOURCES)}:{mutant.line}"
        print(f"{end:8}  {where}  {mutant.before}  ->  {mutant.after}", flush=True)
    print(f"\nmutants that fast tests see, {time.monotonic() - begun:.0f} s")
    for room in options.rooms:
        seen, lived = ends[room, "seen"], ends[room, "SURVIVES"]
        print(f"{seen:4} of {seen + lived:<4} {room}, {ends[room, 'equal']} equal ones left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
