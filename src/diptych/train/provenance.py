"""Provenance of a run, kept in its folder: command line, recipe files, versions of all packages, hashes of our modules.

source/            copies of the files that define the recipe, by their names, and of config.yaml as it was when the run began;
                   modules.json: hashes of the package's modules in use
requirements.txt   every installed distribution with its version
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from diptych.core.config import read_sections, to_plain
from diptych.core.contracts import Recipe
from diptych.core.disk.files import write_atomic, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.environment import COMMAND
from diptych.core.own_recipes import named_programs, recipe_file_address
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.core.sources.closure import SOURCES
from diptych.core.sources.program import is_of_package, local_files, recipe_files, same_syntax
from diptych.core.sources.syntax import PACKAGE

MODULES = "modules.json"
CONFIG = "config.yaml"


def record_provenance(folder: RunFolder, recipe: Recipe) -> None:
    """Write what belongs to a new run: `source/`, `requirements.txt`, and the command line, class and files of the recipe in
    `run.json`."""
    kind = type(recipe)
    files = source_files(recipe)
    folder.source.mkdir(exist_ok=True)
    for name, path in files.items():
        write_atomic(folder.source / name, path.read_text(encoding="utf-8"))
    write_json(folder.source / MODULES, _module_hashes())
    keep_config(folder)
    write_atomic(folder.path / "requirements.txt", "".join(f"{line}\n" for line in installed_packages()))
    record: dict[str, Any] = {
        "command": list(COMMAND) or list(sys.argv),
        "source_files": {name: str(path) for name, path in files.items()},
    }
    if not is_of_package(kind) and not _is_registered(kind):
        record["class"] = f"{kind.__module__}:{kind.__qualname__}"
    if own := recipe_file_address(kind):
        record["recipe"] = own
    folder.write_state(**record)


def keep_config(folder: RunFolder) -> None:
    """Keep a copy of config.yaml as it is now, by which later edits are recognised."""
    write_atomic(folder.source / CONFIG, _text(folder.path / CONFIG))


def source_files(recipe: Recipe) -> dict[str, Path]:
    """Files that define a recipe by the name that their copies have, those of its own losses and bases among them."""
    named = local_files(path for path, _ in named_programs(recipe) if path.is_file())
    made: dict[str, Path] = {}
    for path in [*recipe_files(type(recipe)), *named]:
        name, number = path.name, 2
        while made.get(name, path) != path:
            name, number = f"{path.stem}_{number}{path.suffix}", number + 1
        made[name] = path
    return made


def changed_recipe_files(folder: RunFolder, recipe: Recipe) -> list[Path]:
    """Copies in `source/` that differ in more than comments and white space from what defines the recipe now; none for runs from before
    recipes were copied."""
    now, names = source_files(recipe), _strings(folder.state.get("source_files"))
    renamed = iter([path for name, path in now.items() if name not in names])
    pairs = [(folder.source / name, now.get(name) or next(renamed, None)) for name in names]
    return [copy for copy, path in pairs if copy.is_file() and (path is None or not same_syntax(_text(copy), _text(path)))]


def changed_modules(folder: RunFolder) -> list[str]:
    """Modules of the package whose files are others than when the run began, those that define its recipe aside."""
    try:
        before = _strings(read_object(folder.source / MODULES))
    except ValueError:
        return []
    recipes = set(_strings(folder.state.get("source_files")).values())
    return [
        name
        for name, old in before.items()
        if (now := _hash_of(SOURCES / name)) != old and str(SOURCES / name) not in recipes and now
    ]


def changed_packages(folder: RunFolder) -> list[str]:
    """Libraries below a training whose versions are others than when the run began, as "torch 2.9.0 -> 2.10.0"."""
    before = _strings(folder.state.get("environment", {}).get("packages"))
    made = []
    for name, old in before.items():
        try:
            now = metadata.version(name)
        except metadata.PackageNotFoundError:
            now = "missing"
        if now != old:
            made.append(f"{name} {old} -> {now}")
    return made


def edited_fields(folder: RunFolder) -> list[str]:
    """Fields of config.yaml that were edited after the run began, as "recipe.lr 0.1 -> 0.2"."""
    try:
        before, now = read_sections(folder.source / CONFIG), read_sections(folder.path / CONFIG)
    except ValueError:
        return []
    return _differences(before, now, "")


def installed_packages() -> list[str]:
    """NAME==VERSION of every installed distribution, sorted."""
    folders = [Path(entry) for entry in sys.path if Path(entry).is_dir()]
    return list(_installed_packages(tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders)))


@lru_cache(maxsize=1)
def _installed_packages(folders: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Kept until one of `folders` (path, time of its last change) changes: reading hundreds of metadata files takes a third of a
    second."""
    headers = [each.metadata for each in metadata.distributions()]
    versions = {(each["Name"] or "").lower(): each["Version"] for each in headers}
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()) if name)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    made: list[str] = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            made += _differences(old, new, f"{prefix}{name}.")
        elif to_plain(old) != to_plain(new):
            made.append(f"{prefix}{name} {old!r:.40} -> {new!r:.40}")
    return made


def _is_registered(kind: type) -> bool:
    """True for a class that its slug leads to, such as one that another package adds."""
    slug = getattr(kind, "slug", "")
    return slug in RECIPES and bool(RECIPES[slug].package) and RECIPES.load(slug) is kind


def _module_hashes() -> dict[str, str]:
    """Hash by path below the sources, of every module of the package that is imported now."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == PACKAGE]
    root = f"{SOURCES}{os.sep}"
    files = {file for module in modules if (file := getattr(module, "__file__", None) or "").startswith(root)}
    inside = sorted(file for file in files if file.endswith(".py"))
    return {file.removeprefix(root).replace(os.sep, "/"): _hash_of(file) for file in inside}


def _hash_of(path: Path | str) -> str:
    """Twelve hex digits of a file; "" if it is gone."""
    try:
        about = os.stat(path)
    except OSError:
        return ""
    return _hash_of_file(str(path), about.st_mtime_ns, about.st_size) if stat.S_ISREG(about.st_mode) else ""


@lru_cache(maxsize=4096)
def _hash_of_file(path: str, changed: int, size: int) -> str:
    """Kept until the file's time or size changes: a process that trains many runs reads a thousand modules once."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _strings(value: Any) -> dict[str, str]:
    """A mapping of strings that came from a file; empty for anything else."""
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, dict) else {}
