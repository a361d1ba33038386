"""Source files that define a recipe, and one hash over all code that it reaches: its own, this package's, and library versions."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from diptych.core.sources.closure import SOURCES, closure_hash, module_file
from diptych.core.sources.syntax import PACKAGE, strip_syntax

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "numpy", "pillow", "simplejpeg")
"""Packages whose versions may change what a training comes to."""


def code_hash(kinds: Iterable[type], *, modules: Sequence[str] = (), files: Sequence[Path] = ()) -> str:
    """Twelve hex digits over the syntax of everything that these classes reach, and over the versions of `LIBRARIES`.

    White space, comments and docstrings do not count. Classes outside of the package count with their files and with the files that
    those import from their own folder; a class without a file counts with what Python knows of its source.

    modules  further modules of the package, by name
    files    further source files outside of it
    """
    texts, ours = [], set(modules)
    outside = list(files)
    for kind in {each for given in kinds for each in inspect.getmro(given)}:
        if is_of_package(kind):
            ours.add(kind.__module__)
        elif own := definition_file(kind):
            outside.append(own)
        elif kind.__module__ == "__main__":
            texts.append(_source_of(kind))
    for path in local_files(outside):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours |= set(_package_imports(tree))
        texts.append(strip_syntax(tree))
    words = [closure_hash(*sorted(ours)) if ours else "", *sorted(texts), *library_versions()]
    return hashlib.sha256("\n\n".join(words).encode()).hexdigest()[:12]


def library_versions() -> list[str]:
    """NAME==VERSION of those `LIBRARIES` that are installed."""
    made = []
    for name in LIBRARIES:
        try:
            made.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return made


def is_of_package(kind: type) -> bool:
    """True for a class that this package defines."""
    return kind.__module__.partition(".")[0] == PACKAGE


def definition_file(kind: type) -> Path | None:
    """File that defines a class: of this package, or of the user's own; None for classes of libraries, and if there is no file."""
    if is_of_package(kind):
        return module_file(SOURCES, kind.__module__)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    path = Path(file).resolve() if file else None
    if path is None or not path.is_file() or path.suffix != ".py" or _is_library(path):
        return None
    return path


def recipe_files(kind: type) -> list[Path]:
    """Files that define a recipe: that of its class, and of classes outside of the package every file that theirs import beside them."""
    own = [path for each in inspect.getmro(kind) if not is_of_package(each) and (path := definition_file(each)) is not None]
    if own:
        return local_files(own)
    path = definition_file(kind)
    return [path] if path is not None else []


def local_files(paths: Iterable[Path]) -> list[Path]:
    """These source files and those that they import from their own folders, directly or not, each once."""
    seen: dict[Path, None] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen[path] = None
        waiting += _imported_beside(path)
    return list(seen)


def same_syntax(one: str, other: str) -> bool:
    """True if two source texts differ in nothing but comments, docstrings and white space."""
    if one == other:
        return True
    try:
        return strip_syntax(ast.parse(one)) == strip_syntax(ast.parse(other))
    except SyntaxError:
        return False


def _imported_beside(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[tuple[int, str]] = []
        if isinstance(node, ast.Import):
            names = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = node.module or ""
            names = [(node.level, stem), *((node.level, f"{stem}.{alias.name}".strip(".")) for alias in node.names)]
        for level, name in names:
            folder = path.parents[max(0, level - 1)]
            module = module_file(folder, name) if name else None
            if module is not None and not _is_library(module):
                yield module.resolve()


def _is_library(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or f"python{sys.version_info.major}." in str(path.parent)


def _package_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            yield from (f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names))


def _source_of(kind: type) -> str:
    """Syntax of a class of a session; without source text, the code of its functions."""
    try:
        return strip_syntax(ast.parse(inspect.cleandoc(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):
        functions = [value for value in vars(kind).values() if inspect.isfunction(value)]
        return "\n".join(f"{each.__qualname__} {each.__code__.co_code.hex()} {each.__code__.co_consts!r}" for each in functions)
