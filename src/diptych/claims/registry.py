"""Finds claims by the name of their system.

The claims of a system stand in `claims/systems/SLUG.py`: a function `claims`. The first is the system's main claim, under its slug
alone; a further one carries a name and is found as "SLUG/NAME".
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from diptych.claims.claim import Claim
from diptych.core import systems
from diptych.core.errors import ConfigError, UnknownName

PLACE = "diptych.claims.systems"


def slugs() -> list[str]:
    """Systems and baselines that have a claim."""
    return [slug for slug in systems.slugs() if _has_claim(slug)]


def every() -> list[Claim]:
    """Every claim, the main one of a system before its further ones."""
    return [claim for slug in slugs() for claim in of(slug)]


def of(slug: str) -> tuple[Claim, ...]:
    """All claims of that system, the main one first; near matches come from all systems."""
    system = systems.find(slug)
    if not _has_claim(system.slug):
        raise ConfigError(f"'{system.slug}' ({system.title}) has no claim yet; with one: {', '.join(slugs()) or 'none'}")
    declared: tuple[Claim, ...] = import_module(f"{PLACE}.{system.slug}").claims()
    return declared


def find(key: str) -> Claim:
    """One claim: "clip" or "clip/" is the main one of that system, "coop/probe" a further one."""
    slug, _, name = key.partition("/")
    claims = of(slug)
    if not name:
        return claims[0]
    by_name = {claim.name: claim for claim in claims if claim.name}
    if name not in by_name:
        raise UnknownName("claim", key, [claim.key for claim in claims])
    return by_name[name]


def _has_claim(slug: str) -> bool:
    return find_spec(f"{PLACE}.{slug}") is not None
