"""Normalised syntax of a source text: its tree without comments, docstrings and module paths, which cannot change a result."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

PACKAGE = "diptych"
ENTRY = re.compile(r"diptych(\.\w+)+(:\w+)?")
FILE = re.compile(r"[a-z_]+(/\w+)+\.py")
"""A file of the package from its root, as the table of systems names it: `index/kinds/late.py`."""


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements of a tree, nested ones too, each before those inside it. Expressions, most of a tree's nodes, are not entered."""
    waiting: list[Any] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        for part in ("cases", "finalbody", "orelse", "handlers", "body"):
            waiting += reversed(getattr(node, part, ()))


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, with docstrings and other bare strings removed in place."""
    for node in (tree, *statements(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_docstring(item)] or [ast.Pass()]
    return tree


def _without_places(tree: ast.Module) -> None:
    """Imports keep what they bind and lose where it lives; entry strings and files keep the last name. In place."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            node.names = [ast.alias("", name.asname) if name.name.startswith(PACKAGE) else name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            node.module, node.level = PACKAGE, 0
            node.names.sort(key=lambda name: name.name)
    for part in ast.walk(tree):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            if ENTRY.fullmatch(part.value):
                part.value = re.split(r"[.:]", part.value)[-1]
            elif FILE.fullmatch(part.value):
                part.value = part.value.rpartition("/")[2]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def strip_syntax(tree: ast.Module) -> str:
    """The tree as text without positions; "" when nothing is left but imports.

    >>> strip_syntax(ast.parse("x = 1  # one")) == strip_syntax(ast.parse("'''Ones.'''\\nx   =   1"))
    True
    """
    _without_places(without_docstrings(tree))
    body = [node for node in tree.body if not isinstance(node, ast.Pass)]
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    rest = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if not rest:
        return ""
    lines = sorted({ast.unparse(node) for node in _split_imports(imports)})
    return "\n".join([*lines, *(ast.unparse(node) for node in rest)])


def _split_imports(imports: list[ast.Import | ast.ImportFrom]) -> list[ast.Import | ast.ImportFrom]:
    """One import a bound name, so that what moves from one module to two leaves no trace."""
    singles: list[ast.Import | ast.ImportFrom] = []
    for node in imports:
        for name in node.names:
            if isinstance(node, ast.ImportFrom):
                singles.append(ast.ImportFrom(node.module, [name], node.level))
            else:
                singles.append(ast.Import([name]))
    return singles
