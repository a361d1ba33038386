"""Sentences with a place for a name, one of which is drawn each time: the choice is recorded, and training and testing can have
separate wordings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng

PLACE = "{}"
HELD_OUT = 0.25
"""The share of a bank's wordings that `part` leaves to evaluation."""
Wordings = Literal["all", "training", "held_out"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A filled sentence and the id of its template ("pathology/3")."""

    text: str
    template: str


@dataclass(frozen=True, slots=True)
class TemplateBank:
    """Templates, each with one `{}`.

    ids  of the templates, kept when the bank is split; () numbers them: "NAME/0", "NAME/1", ...

    >>> bank = TemplateBank(("an image of {}.", "{} is shown."), name="two")
    >>> bank.fill(1, "a red circle")
    Prompt(text='a red circle is shown.', template='two/1')
    """

    templates: tuple[str, ...]
    name: str = "prompts"
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.templates:
            raise ConfigError(f"the prompt bank '{self.name}' has no templates (expected sentences with one {PLACE} each)")
        for template in self.templates:
            if template.count(PLACE) != 1:
                raise ConfigError(f"template {template!r} has {template.count(PLACE)} placeholders (expected one {PLACE})")
        if not self.ids:
            object.__setattr__(self, "ids", tuple(f"{self.name}/{number}" for number in range(len(self.templates))))
        if len({*self.ids}) != len(self.templates):
            raise ConfigError(f"{len({*self.ids})} ids for {len(self.templates)} templates (expected one each)")

    def __len__(self) -> int:
        return len(self.templates)

    def fill(self, number: int, name: str) -> Prompt:
        """The sentence of that number about `name`."""
        return Prompt(self.templates[number].replace(PLACE, name), self.ids[number])

    def draw(self, name: str, rng: np.random.Generator) -> Prompt:
        """A sentence about `name`, each template equally likely; takes one number of the generator."""
        return self.fill(int(rng.integers(len(self.templates))), name)

    def every(self, name: str) -> tuple[Prompt, ...]:
        """All sentences about `name`, in order."""
        return tuple(self.fill(number, name) for number in range(len(self.templates)))

    def split(self, held_out: float, *, seed: int = 0) -> tuple[Self, Self]:
        """(training, testing): about that share of the wordings is held out, one at least on either side. Templates that differ in
        capitals and punctuation alone are one wording and stay together."""
        wordings = list(dict.fromkeys(_wording(template) for template in self.templates))
        if not 0 < held_out < 1 or len(wordings) < 2:
            raise ConfigError(
                f"{held_out:g} of {len(wordings)} wordings cannot be held out (expected a share between 0 and 1 of at least two)"
            )
        count = min(max(round(held_out * len(wordings)), 1), len(wordings) - 1)
        order = keyed_rng("wordings", seed).permutation(len(wordings))
        held = {wordings[position] for position in order[:count]}
        return self._only([_wording(t) not in held for t in self.templates]), self._only(
            [_wording(t) in held for t in self.templates]
        )

    def part(self, wordings: Wordings) -> Self:
        """All wordings, those that training may draw, or those that it never does, the same in every process; ids stay.

        >>> ids = [set(PATHOLOGY.part(part).ids) for part in ("training", "held_out", "all")]
        >>> len(ids[0] & ids[1]), ids[0] | ids[1] == ids[2]
        (0, True)
        """
        if wordings not in get_args(Wordings):
            raise ConfigError(f"wordings are {wordings!r} (expected {' | '.join(get_args(Wordings))})")
        return self if wordings == "all" else self.split(HELD_OUT)[wordings == "held_out"]

    def _only(self, keep: Sequence[bool]) -> Self:
        return type(self)(
            tuple(template for template, kept in zip(self.templates, keep, strict=True) if kept),
            self.name,
            tuple(key for key, kept in zip(self.ids, keep, strict=True) if kept),
        )


def _wording(template: str) -> str:
    return " ".join(re.findall(r"\w+|\{\}", template.casefold()))


PATHOLOGY = TemplateBank(
    (
        "{}.",
        *(f"{start} {{}}." for start in ("a photomicrograph showing", "a photomicrograph of", "an image of", "an image showing")),
        "an example of {}.",
        "{} is shown.",
        "this is {}.",
        "there is {}.",
        *(f"a histopathological {kind} {{}}." for kind in ("image showing", "image of", "photograph of", "photograph showing")),
        "shows {}.",
        "presence of {}.",
        "{} is present.",
        *(f"an H&E {kind} {{}}." for kind in ("stained image of", "stained image showing", "image showing", "image of")),
        "{}, H&E stain.",
        "{}, H&E.",
    ),
    name="pathology",
)
"""The 22 templates of KEEP (2024, arXiv 2412.13126), in the order of its released code."""
