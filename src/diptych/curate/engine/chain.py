"""Chains of curation steps from a file: the published ones by name, your own by path.

    curate:
      steps:
        - {step: laion, languages: [en], model: runs/clip}
        - {step: top_fraction, column: similarity, share: 0.3}

A step may start from its published configuration, `preset: paper`. A field whose value is ??? has to be given by hand; in place of one
whose value is "??? wordnet", the field wordnet of the same step may be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diptych.core.config import overlaid, read_sections, to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import OPERATORS

if TYPE_CHECKING:
    from diptych.core.contracts import Operator

PUBLISHED = ("datacomp_image_based", "datacomp_medium", "laion2b", "metaclip")
MISSING = "???"
SECTION, STEPS = "curate", "steps"


@dataclass(frozen=True, slots=True)
class CurationChain:
    """Steps of a chain as plain values, each with its name under "step"; `options` are the other fields of the file: source, out."""

    name: str
    steps: tuple[dict[str, Any], ...]
    options: dict[str, Any]

    def operators(self, changes: Mapping[str, Any] | None = None) -> list[Operator]:
        """The steps as operators.

        changes  "STEP.FIELD" -> value, for every step of that name

        Raises ConfigError for a field that has to be given and is not, UnknownName for steps or fields that there are not.
        """
        changes = dict(changes or {})
        if missing := list(dict.fromkeys(name for step in self.steps for name in _missing(step, changes))):
            needed = ", ".join(missing)
            sets = " ".join(f"{name.partition(' or ')[0]}=VALUE" for name in missing)
            helps = ", ".join(dict.fromkeys(f"diptych curate {name.partition('.')[0]} --help" for name in missing))
            raise ConfigError(f"{self.name} needs {needed} (expected --set {sets}; {helps} says what they are)")
        used: set[str] = set()
        made = [self._operator(step, changes, used) for step in self.steps]
        if unused := sorted(changes.keys() - used):
            raise UnknownName(
                "field of the chain", unused[0], sorted(f"{step['step']}.{name}" for step in self.steps for name in step)
            )
        return made

    def _operator(self, step: Mapping[str, Any], changes: Mapping[str, Any], used: set[str]) -> Operator:
        given = dict(step)
        slug, preset = str(given.pop("step")), str(given.pop("preset", ""))
        kind = OPERATORS.load(slug)
        own = {name.partition(".")[2]: value for name, value in changes.items() if name.partition(".")[0] == slug}
        used |= {f"{slug}.{name}" for name in own}
        given = {name: value for name, value in given.items() if not str(value).startswith(MISSING)} | own
        if preset and not hasattr(kind, preset):
            raise ConfigError(f"{self.name}: {slug} has no preset '{preset}'")
        start = getattr(kind, preset)() if preset else kind()
        operator: Operator = overlaid(start, given, f"{self.name}: {slug}")
        return operator


def _missing(step: Mapping[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Fields of a step that have to be given and are not: "laion.model", "metaclip.entries or metaclip.wordnet"."""
    missing = []
    for name, value in step.items():
        mark, *others = str(value).split() or [""]
        choice = [f"{step['step']}.{one}" for one in (name, *others)]
        if mark == MISSING and not changes.keys() & set(choice):
            missing.append(" or ".join(choice))
    return missing


def read_chain(address: str | Path) -> CurationChain | None:
    """The chain of a file, or a published one by its name; None for a file that holds none. Raises ConfigError for what is no chain."""
    if str(address) in PUBLISHED and not Path(address).exists():
        text = (resources.files("diptych.curate.chains") / f"{address}.yaml").read_text(encoding="utf-8")
        sections = yaml.safe_load(text)
    else:
        try:
            sections = read_sections(Path(address))
        except ValueError as error:
            names = ", ".join(PUBLISHED)
            raise ConfigError(f"{error} (published chains: {names})" if not Path(address).exists() else str(error)) from error
    section = dict(sections.get(SECTION, {}))
    if STEPS not in section:
        return None
    steps = section.pop(STEPS)
    if (
        not isinstance(steps, list)
        or not steps
        or not all(isinstance(step, dict) and isinstance(step.get("step"), str) for step in steps)
    ):
        raise ConfigError(f"{address}: steps is {steps!r:.60} (expected a list such as - {{step: laion, min_text: 5}})")
    return CurationChain(str(address), tuple(steps), section)


def chain_file(operators: Sequence[Operator]) -> str:
    """A file of steps with every field, to lie beside what they made."""
    steps = [
        {"step": one.slug, **{f.name: to_plain(getattr(one, f.name)) for f in fields(one) if f.init}}  # type: ignore[arg-type]
        for one in operators
    ]
    text: str = yaml.safe_dump({SECTION: {STEPS: steps}}, sort_keys=False, allow_unicode=True)
    return text
