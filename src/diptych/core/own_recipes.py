"""Recipes in user files: ``my_recipes.py:MyCLIP`` is accepted wherever a recipe name is.

A run folder remembers which file its recipe came from. Such a file is a program, and a run folder may come from anybody: so it is
carried out on behalf of a folder only where it was named by hand before, on this machine, by the same path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from diptych.core.disk.cache import cache_folder
from diptych.core.errors import ConfigError, RunError
from diptych.core.sources.program import definition_file

PREFIX = "diptych_own_"
"""How the modules of such files are called, so that everything can tell them from those of packages."""
FILE_FIRST = re.compile(r"(?:[A-Za-z]:[\\/])?[^:]*\.py:")
ADDRESS = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)(:.*)?", re.DOTALL)


def is_recipe_file(words: str) -> bool:
    """True if a recipe is given by its file and class, FILE.py:CLASS; False for a name whose options name a file."""
    return FILE_FIRST.match(words) is not None


def load_recipe_file(words: str) -> Any:
    """The class of ``FILE.py:CLASS``, which is trusted from now on.

    Raises ConfigError: no such file, no such class, a class that is no recipe, or a file that cannot be carried out, with the reason.
    """
    path, name = _parts(words)
    kind = _attribute(path, name, "FILE.py:CLASS, a recipe of your own")
    if not (isinstance(kind, type) and hasattr(kind, "presets") and hasattr(kind, "losses")):
        raise ConfigError(
            f"'{name}' of {path} is not a recipe (expected a class that inherits from diptych.core.contracts.Recipe)"
        )
    trust(path)
    return kind


def load_trusted_recipe(words: str, run: object) -> Any:
    """The same on behalf of a run folder: only files that were named by hand before. Raises RunError for others."""
    path, name = _parts(words)
    if str(path) not in _trusted_files():
        raise RunError(
            f"{run} was trained with {path}:{name}, a program that was not used on this machine before; for safety it is not executed: "
            f"if you trust it, run `diptych train {path}:{name} --help` once"
        )
    return load_recipe_file(words)


def load_trusted_object(words: str, field: str) -> Any:
    """The function or class of ``FILE.py:NAME`` that a field of a recipe names; only of files that were named by hand on this machine.

    Raises RunError for other files, ConfigError for one that cannot be carried out or has no such name.
    """
    path, name = _parts(words)
    if path.is_file() and str(path) not in _trusted_files():
        raise RunError(
            f"{field} names {path}, a program that was not used on this machine before; for safety it is not executed: "
            f"if you trust it, train a recipe with --{field.replace('_', '-')} {path}:{name} once"
        )
    return _attribute(path, name, f"FILE.py:NAME for {field}")


def refuse_untrusted_programs(recipe: Any, run: object) -> None:
    """Raise RunError, before anything is trained, for a program that a recipe's fields name and nobody named on this machine yet."""
    for path, name in named_programs(recipe):
        if not path.is_file() or str(path) not in _trusted_files():
            gone = "which does not exist" if not path.is_file() else "a program that nobody named on this machine yet"
            raise RunError(
                f"{run} names {path}:{name}, {gone}: if you trust it, give its path with --recipe {path} (source/ has a copy)"
            )


def named_programs(recipe: Any) -> list[tuple[Path, str]]:
    """File and name of every program of one's own that a recipe's fields name as ``FILE.py:NAME``, also within its groups."""
    named: list[tuple[Path, str]] = []
    for item in dataclasses.fields(recipe):
        value = getattr(recipe, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            named += named_programs(value)
        elif isinstance(value, str) and not item.metadata.get("prepared") and (match := ADDRESS.fullmatch(value)):
            named.append((Path(match["file"]).expanduser().resolve(), match["name"]))
    return named


def recipe_file_address(kind: type) -> str:
    """Address FILE.py:CLASS of a class from a file of one's own; "" for a class of a package, of a session or of a script that runs."""
    path = definition_file(kind)
    if kind.__module__.partition(".")[0] in ("diptych", "__main__") or path is None or "<locals>" in kind.__qualname__:
        return ""
    return f"{path}:{kind.__qualname__}"


def trust(path: Path) -> None:
    """Remember that a program was named by hand on this machine."""
    if str(path) in _trusted_files():
        return
    _list().parent.mkdir(parents=True, exist_ok=True)
    with _list().open("a", encoding="utf-8") as file:
        file.write(f"{path}\n")


def _attribute(path: Path, name: str, expected: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'} (expected {expected})")
    value = getattr(_module(path), name, None)
    if value is None:
        raise ConfigError(f"{path} has no '{name}' (expected {expected})")
    return value


def _parts(words: str) -> tuple[Path, str]:
    file, _, name = words.rpartition(":")
    return Path(file).expanduser().resolve(), name


def _module(path: Path) -> Any:
    """Import a recipe file as a module, again where its content changed. Imports from its own folder work."""
    name = PREFIX + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python module (expected a file that ends in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a program of the user's may do anything
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be carried out: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _list() -> Path:
    return cache_folder() / "own-recipes.txt"


def _trusted_files() -> set[str]:
    return set(_list().read_text(encoding="utf-8").splitlines()) if _list().is_file() else set()


def split_commas(words: str) -> list[str]:
    """The pieces between commas; a comma within brackets or quotes separates nothing.

    >>> split_commas("ks=[20,50],label='a, b',draws=10")
    ['ks=[20,50]', "label='a, b'", 'draws=10']
    """
    pieces, depth, quote = [""], 0, ""
    for before, letter in zip(f" {words}", words, strict=False):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in "=,[{ :":  # an apostrophe within a word opens nothing
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not quote and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces
