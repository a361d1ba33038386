"""Normalised syntax of a source text: its tree without comments, docstrings and module paths, which cannot change a result."""

from __future__ import annotations

import ast
import re

ENTRY = re.compile(r"diptych(\.\w+)+(:\w+)?")
FILE = re.compile(r"[a-z_]+(/\w+)+\.py")
"""A file of the package from its root, as the table of systems names it: `index/kinds/late.py`."""


class _Strip(ast.NodeTransformer):
    """Imports keep what they bind and lose where it lives; entry strings and files keep the last name."""

    def visit_Import(self, node: ast.Import) -> ast.AST:
        return ast.Import([ast.alias("", name.asname) if name.name.startswith("diptych") else name for name in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if not (node.module or "").startswith("diptych"):
            return node
        return ast.ImportFrom("diptych", sorted(node.names, key=lambda name: name.name), 0)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and ENTRY.fullmatch(node.value):
            return ast.Constant(re.split(r"[.:]", node.value)[-1])
        if isinstance(node.value, str) and FILE.fullmatch(node.value):
            return ast.Constant(node.value.rpartition("/")[2])
        return node


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, with docstrings and other bare strings removed in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_docstring(item)] or [ast.Pass()]
    return tree


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def strip_syntax(tree: ast.Module) -> str:
    """The tree as text without positions; "" when nothing is left but imports.

    >>> strip_syntax(ast.parse("x = 1  # one")) == strip_syntax(ast.parse("'''Ones.'''\\nx   =   1"))
    True
    """
    kept = _Strip().visit(without_docstrings(tree))
    assert isinstance(kept, ast.Module)
    body = [node for node in kept.body if not isinstance(node, ast.Pass)]
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    rest = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if not rest:
        return ""
    lines = sorted({ast.unparse(ast.fix_missing_locations(node)) for node in _split_imports(imports)})
    return "\n".join([*lines, *(ast.unparse(ast.fix_missing_locations(node)) for node in rest)])


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
