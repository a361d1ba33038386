"""Which modules of this package a claim can reach, computed from their import statements, and one hash over their syntax.

Imports inside functions count. Comments, docstrings, formatting and the places of modules do not, so that tidying and moving leave
the hash as it is. What is looked up by a string at run time is not followed: recipes and operators that a claim uses are imported.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from diptych.core.sources.syntax import PACKAGE, statements, strip_syntax

SOURCES = Path(__file__).resolve().parents[3]
"""The folder that holds the package."""


def closure_hash(*modules: str, sources: Path = SOURCES) -> str:
    """Twelve hex digits over everything that these modules import, directly or not."""
    texts = {_read_module(sources, module)[0] for module in closure(*modules, sources=sources)}
    return hashlib.sha256("\n\n".join(sorted(texts - {""})).encode()).hexdigest()[:12]


def closure(*modules: str, sources: Path = SOURCES) -> set[str]:
    """The names of these modules and of all modules of the package that they import, directly or not."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module == PACKAGE or module_file(sources, module) is None:
            continue
        seen.add(module)
        waiting += _read_module(sources, module)[1]
        waiting += (
            [module.rpartition(".")[0]] if module.count(".") > 1 else []
        )  # the package itself imports its whole public face
    return seen


def module_file(sources: Path, module: str) -> Path | None:
    """The file of a module or package; None if there is no such file under `sources`."""
    stem = sources.joinpath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _read_module(sources: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Syntax of a module, and what it imports of the package."""
    path = module_file(sources, module)
    assert path is not None
    return _parse_module(sources, path, path.stat().st_mtime_ns)


@cache
def _parse_module(sources: Path, path: Path, changed: int) -> tuple[str, tuple[str, ...]]:
    stripped, imported = _parse(path.read_text(encoding="utf-8"))
    return stripped, tuple(name for name in imported if name.split(".")[0] == PACKAGE and module_file(sources, name) is not None)


@cache
def _parse(text: str) -> tuple[str, tuple[str, ...]]:
    """Syntax of a source text, and what it may import. A copy of the package is parsed no second time."""
    tree = ast.parse(text)
    for node in statements(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = [ast.Pass()]
    imported: list[str] = []
    for node in statements(tree):
        if isinstance(node, ast.Import):
            imported += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return strip_syntax(tree), tuple(imported)
