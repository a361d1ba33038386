"""Full-size constants of a claim: the numbers and texts in the code of its own cells and worlds that its arms reach, name by name.

A trace runs at smoke-test size, so it cannot see that 500 tested rows became 50. These constants can: names, order and places of what
holds them do not count, and neither do 0 and 1, indices, axes, types, messages of errors, and strings that are one word (columns, modes),
for a trace sees those. Definitions of other claims in the same file are not reached and do not count.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from diptych.claims.claim import Claim
from diptych.claims.closure import SOURCES, module_file
from diptych.claims.declared import definitions_of
from diptych.claims.syntax import ENTRY, FILE, without_docstrings
from diptych.claims.tree import run_at

OWN = ("diptych.claims.cells.", "diptych.claims.systems.", "diptych.worlds.")
WORD = re.compile(r"[A-Za-z_][\w/.-]*")
RECOUNT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("present_constants", sys.argv[1])
sys.modules["present_constants"] = present = importlib.util.module_from_spec(spec)
spec.loader.exec_module(present)
from diptych.claims import registry
print(json.dumps({claim.key: present.constants(claim) for claim in registry.every()}))
"""
"""Counts the sources of another commit by the present rule."""
Definition = tuple[str, str]
"""Module and name."""


def constants(claim: Claim, sources: Path = SOURCES) -> Counter[str]:
    """Constant as it is printed -> how often it stands in what the claim reaches."""
    seen: set[Definition] = set()
    waiting, counted = list(definitions_of(claim)), Counter[str]()
    while waiting:
        module, name = waiting.pop()
        file = module_file(sources, module) if module.startswith(OWN) else None
        if (module, name) in seen or file is None:
            continue
        seen.add((module, name))
        defined, imported = _read(sources, file, file.stat().st_mtime_ns)
        if name in imported:
            waiting.append(imported[name])
        for literals, names in defined.get(name, ()):
            counted.update(literals)
            waiting += [(module, used) for used in names if "." not in used]
            waiting += [
                (".".join(imported[first]), last) for first, _, last in (n.partition(".") for n in names) if first in imported
            ]
    return counted


def constants_hash(claim: Claim) -> str:
    """Twelve hex digits over `constants`."""
    return hashlib.sha256(json.dumps(sorted(constants(claim).items())).encode()).hexdigest()[:12]


def changed_constants(claim: Claim, commit: str) -> str:
    """Constants that went, and ends of slices that came, since a commit, in words; "" where others came and none went.

    What only comes is an option or a limit of something new, or the trace sees it. Where the sources of the commit cannot be had, nobody
    can say, and any difference counts.
    """
    before = _constants_at(commit)
    if before is None or claim.key not in before:
        return "constants of its cells or worlds have changed"
    old, new = Counter(before[claim.key]), constants(claim)
    went, came = old - new, new - old
    if not went and not any(constant.startswith("[") for constant in came):
        return ""
    words = [f"{', '.join(sorted(some))} {verb}" for some, verb in ((went, "went"), (came, "came")) if some]
    return f"constants of its cells or worlds have changed: {'; '.join(words)}"


@cache
def _constants_at(commit: str) -> dict[str, dict[str, int]] | None:
    counted: dict[str, dict[str, int]] | None = run_at(commit, RECOUNT, __file__)
    return counted


Part = tuple[tuple[str, ...], tuple[str, ...]]
"""Of one statement: constants, and names that it uses (those of an imported module as MODULE.NAME)."""


@cache
def _read(sources: Path, file: Path, changed: int) -> tuple[dict[str, list[Part]], dict[str, Definition]]:
    """Top-level definitions of a module, and its imports of the package, anywhere in it."""
    tree = without_docstrings(ast.parse(file.read_text(encoding="utf-8")))
    defined: dict[str, list[Part]] = {}
    imported: dict[str, Definition] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diptych"):
            imported |= {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
    for node in tree.body:
        for name in _bound(node):
            defined.setdefault(name, []).append((tuple(_literals(node)), tuple(_names(node))))
    return defined, imported


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return []


def _names(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part.id
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            yield f"{part.value.id}.{part.attr}"


def _literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Slice):
        yield from (f"[{text}]" for part in ast.iter_child_nodes(node) for text in _literals(part))
        return
    if isinstance(node, ast.Constant):
        text = node.value if isinstance(node.value, str) else ""
        number = isinstance(node.value, float) or (
            isinstance(node.value, int) and node.value not in (0, 1)
        )  # no truth values either
        if number or (text and not (WORD.fullmatch(text) or ENTRY.fullmatch(text) or FILE.fullmatch(text))):
            yield repr(node.value)
        return
    if (
        isinstance(node, ast.Raise | ast.Assert)
        or (isinstance(node, ast.keyword) and node.arg in ("dim", "axis"))
        or _is_type(node)
    ):
        return
    for name, value in ast.iter_fields(node):
        skipped = name in ("annotation", "returns") or (isinstance(node, ast.Subscript) and name == "slice" and _index(value))
        for part in () if skipped else value if isinstance(value, list) else (value,):
            if isinstance(part, ast.AST):
                yield from _literals(part)


def _is_type(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("TypeVar", "cast")


def _index(node: ast.AST) -> bool:
    """True for a subscript that only picks: `x[0]`, `x[:, -1]`. That of a slice is a size: `x[:500]`."""
    return not any(isinstance(part, ast.Slice) and (part.lower or part.upper or part.step) for part in ast.walk(node))
