"""Finds claims by the name of their system.

The claims of a system stand in a module of its name in this room: a function `claim`, or `claims` where there are several. The first
one is the system's main claim, under its slug alone; a further one carries a name and is found as "SLUG/NAME". One that was added
later, on other data, may stand in a module SLUG_NAME of its own, so that the verdicts that are there do not become stale.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

import diptych.claims
from diptych.claims.claim import Claim
from diptych.core import systems
from diptych.core.errors import ConfigError, UnknownName


def slugs() -> list[str]:
    """Systems and baselines that have a claim."""
    return [slug for slug in systems.slugs() if find_spec(f"diptych.claims.{slug}")]


def every() -> list[Claim]:
    """Every claim, the main one of a system before its further ones."""
    return [claim for slug in slugs() for claim in of(slug)]


def of(slug: str) -> tuple[Claim, ...]:
    """All claims of that system, the main one first; near matches come from all systems."""
    system = systems.find(slug)
    if system.slug not in slugs():
        raise ConfigError(f"'{system.slug}' ({system.title}) has no claim yet; with one: {', '.join(slugs()) or 'none'}")
    modules = (import_module(f"diptych.claims.{name}") for name in _modules(system.slug))
    return tuple(claim for module in modules for claim in (module.claims() if hasattr(module, "claims") else (module.claim(),)))


def _modules(slug: str) -> list[str]:
    """The module of that name, then those that carry it before an underscore and are no system of their own."""
    others = set(systems.slugs())
    names = sorted(module.name for module in iter_modules(diptych.claims.__path__))
    return [slug, *(name for name in names if name.startswith(f"{slug}_") and name not in others)]


def find(key: str) -> Claim:
    """One claim: "clip" is the main one of that system, "clip/combinations" a further one."""
    slug, _, name = key.partition("/")
    claims = of(slug)
    if not name:
        return claims[0]
    by_name = {claim.name: claim for claim in claims if claim.name}
    if name not in by_name:
        raise UnknownName(f"claim of {slug}", name, list(by_name))
    return by_name[name]
