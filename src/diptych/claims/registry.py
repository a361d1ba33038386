"""Finds claims by the name of their system. A claim is the function `claim` of a module of the same name in this room."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from diptych.claims.claim import Claim
from diptych.core import systems
from diptych.core.errors import ConfigError


def slugs() -> list[str]:
    """Systems and baselines that have a claim."""
    return [slug for slug in systems.slugs() if find_spec(f"diptych.claims.{slug}")]


def find(slug: str) -> Claim:
    """The claim of that system; near matches come from all systems."""
    system = systems.find(slug)
    if system.slug not in slugs():
        raise ConfigError(f"'{system.slug}' ({system.title}) has no claim yet; with one: {', '.join(slugs()) or 'none'}")
    claim: Claim = import_module(f"diptych.claims.{system.slug}").claim()
    return claim
