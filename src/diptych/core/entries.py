"""Registries: names with entry points that are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from diptych.core import systems
from diptych.core.errors import ConfigError, UnknownName


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """A name with its entry point.

    target   "package.module:attribute", imported by `load`
    about    a line for the help
    package  the distribution that brought it, "" for Diptych
    """

    name: str
    target: str
    about: str = ""
    package: str = ""

    def load(self) -> Any:
        """Import it. Raises ConfigError when a package's entry cannot be imported, naming that package."""
        module, _, attribute = self.target.partition(":")
        if not self.package:
            return getattr(importlib.import_module(module), attribute)
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"'{self.name}' of the package '{self.package}' cannot be imported from {self.target}: {error}"
            ) from error


@dataclass(frozen=True)
class Registry(Mapping[str, RegistryEntry]):
    """The names of one kind. A mapping of name to `RegistryEntry`; dashes and capitals are forgiven when a name is looked up.

    kind    how an error calls it ("recipe")
    group   the entry-point group of other packages
    own     Diptych's names that are not systems of the table: target and a line about it
    room    whose systems of the table belong to it, "" for none
    """

    kind: str
    group: str
    own: Mapping[str, tuple[str, str]]
    room: str = ""

    @cached_property
    def _entries(self) -> dict[str, RegistryEntry]:
        entries = {name: RegistryEntry(name, target, about) for name, (target, about) in self.own.items()}
        if self.room:
            rows = [row for row in systems.rows() if row.room == self.room and row.built]
            entries |= {row.slug: RegistryEntry(row.slug, row.entry, row.title) for row in rows}
        for point in self._foreign():
            package = point.dist.name if point.dist else "unknown"
            if point.name in entries:
                here = entries[point.name].package or "diptych"
                raise ConfigError(
                    f"{self.kind} '{point.name}' is in the package '{package}' and in '{here}': uninstall one of them"
                )
            entries[point.name] = RegistryEntry(point.name, point.value, f"from the package {package}", package)
        return entries

    def _foreign(self) -> list[EntryPoint]:
        return sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value))

    def __getitem__(self, name: str) -> RegistryEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return id(self)

    def find(self, name: str) -> RegistryEntry:
        """The entry of that name.

        Raises UnknownName with near matches among everything that has a name of this kind, systems that are planned included, and
        ConfigError for a system that is not built yet or is of another kind.
        """
        for key in (name, name.lower().replace("-", "_")):
            if key in self._entries:
                return self._entries[key]
        planned = {row.slug: row for row in systems.rows()}
        if self.room and key in planned:
            row = planned[key]
            if row.room == self.room:
                raise ConfigError(row.not_built)
            raise ConfigError(f"'{name}' ({row.title}) is not a {self.kind}: it lives in {row.room}/")
        valid = {*self._entries, *(planned if self.room else ())}
        raise UnknownName(self.kind, name, valid, hint=f"among others: {', '.join(list(self._entries)[:12])}")

    def load(self, name: str) -> Any:
        """Import the entry point of that name."""
        return self.find(name).load()
