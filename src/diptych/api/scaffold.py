"""A package with one system, operator or task: the classes of docs/add-a-system.md under a name of your own, with tests."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from diptych.core.disk.files import atomic_folder
from diptych.core.disk.paths import unwritable_reason
from diptych.core.entries import Registry
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import OPERATORS, RECIPES, TASKS


@dataclass(frozen=True, slots=True)
class PackageTemplate:
    """Parts of a template: the registry its name goes to, its module, and the names in it that become those of the user."""

    registry: Registry
    group: str
    module: str
    slug: str
    type_name: str


TEMPLATES = {
    "system": PackageTemplate(RECIPES, "recipes", "recipes", "smoothed_clip", "SmoothedCLIP"),
    "operator": PackageTemplate(OPERATORS, "operators", "operators", "short_captions", "ShortCaptions"),
    "task": PackageTemplate(TASKS, "tasks", "tasks", "two_captions", "TwoCaptions"),
}


def new_package(kind: str, name: str, folder: Path | str) -> Path:
    """Write a package that adds `name` to Diptych, and returns its folder: pyproject.toml with the entry point, module and tests.

    kind    "system", "operator" or "task"
    name    lower case with underscores: of the package, the module's class in CamelCase, and what the command line calls it
    folder  must not exist, or be empty

    Raises UnknownName, and ConfigError for an invalid or taken name, or a folder that cannot be written.
    """
    if kind not in TEMPLATES:
        raise UnknownName("kind", kind, TEMPLATES)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"the name is {name!r} (expected lower case letters, digits and underscores, such as my_{kind})")
    template, folder = TEMPLATES[kind], Path(folder)
    if name in template.registry:
        raise ConfigError(f"there is a {kind} '{name}' already (expected another name)")
    if reason := unwritable_reason(folder):
        raise ConfigError(f"{folder} cannot be written: {reason}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty (expected a folder that does not exist yet)")
    names = {
        template.type_name: "".join(part.capitalize() for part in name.split("_")),
        template.slug: name,
        "my_package": name,
        "GROUP": template.group,
        "ENTRY": name,
        "MODULE": template.module,
        "CLASS": template.type_name,
    }
    with atomic_folder(folder) as work:
        package = work / "src" / name
        package.mkdir(parents=True)
        (work / "tests").mkdir()
        (package / "__init__.py").write_text("", encoding="utf-8")
        for source, target in (
            (f"{kind}.py.txt", package / f"{template.module}.py"),
            (f"test_{kind}.py.txt", work / "tests" / f"test_{name}.py"),
            ("pyproject.toml.txt", work / "pyproject.toml"),
        ):
            target.write_text(_renamed(source, names), encoding="utf-8")
    return folder


def _renamed(source: str, names: dict[str, str]) -> str:
    """A template with every name replaced; in pyproject.toml by way of the template's own class name."""
    text = resources.files("diptych.api").joinpath("templates", source).read_text(encoding="utf-8")
    if source.endswith(".toml.txt"):
        for name in ("GROUP", "ENTRY", "MODULE", "CLASS"):
            text = text.replace(name, names[name])
    for name in [key for key in names if not key.isupper()]:
        text = text.replace(name, names[name])
    return text
