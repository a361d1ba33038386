"""Recipes in files of one's own: ``my_recipes.py:MyCLIP`` wherever a recipe's name is taken.

A run folder remembers which file its recipe came from. Such a file is a program, and a run folder may come from anybody: so it is
carried out on behalf of a folder only where it was named by hand before, on this machine, by the same path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from diptych.core.disk.cache import cache_folder
from diptych.core.errors import ConfigError, RunError

PREFIX = "diptych_own_"
"""How the modules of such files are called, so that everything can tell them from those of packages."""


def is_recipe_file(words: str) -> bool:
    """True if a recipe is given by its file and class, FILE.py:CLASS."""
    return ".py:" in words


def load_recipe_file(words: str) -> Any:
    """The class of ``FILE.py:CLASS``, which is trusted from now on.

    Raises ConfigError: no such file, no such class, a class that is no recipe, or a file that cannot be carried out, with the reason.
    """
    path, name = _parts(words)
    if not path.is_file():
        raise ConfigError(
            f"{path} {'is a folder' if path.is_dir() else 'does not exist'} (expected FILE.py:CLASS, a recipe of your own)"
        )
    kind = getattr(_module(path), name, None)
    if kind is None:
        raise ConfigError(f"{path} has no '{name}' (expected the name of a class that is a Recipe)")
    if not (isinstance(kind, type) and hasattr(kind, "presets") and hasattr(kind, "losses")):
        raise ConfigError(f"'{name}' of {path} is no recipe (expected a class that inherits from diptych.core.contracts.Recipe)")
    _remember(path)
    return kind


def load_trusted_recipe(words: str, run: object) -> Any:
    """The same on behalf of a run folder: only files that were named by hand before. Raises RunError for others."""
    path, name = _parts(words)
    if str(path) not in _trusted_files():
        raise RunError(
            f"{run} was trained with {path}:{name}, a program that nobody named on this machine yet, and it is not carried out because a "
            f"file says so: if it is yours, say `diptych train {path}:{name} --help` once"
        )
    return load_recipe_file(words)


def recipe_file_address(kind: type) -> str:
    """Address FILE.py:CLASS of a class from a recipe file; "" for a class of a package."""
    if not kind.__module__.startswith(PREFIX):
        return ""
    return f"{sys.modules[kind.__module__].__file__}:{kind.__qualname__}"


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
        raise ConfigError(f"{path} is no module (expected a file that ends in .py)")
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


def _remember(path: Path) -> None:
    if str(path) in _trusted_files():
        return
    _list().parent.mkdir(parents=True, exist_ok=True)
    with _list().open("a", encoding="utf-8") as file:
        file.write(f"{path}\n")
