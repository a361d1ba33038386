"""Facts about a picture in ARO's files, from which ARO and SNARE make their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample


@dataclass(frozen=True, slots=True)
class RelationFact:
    """Two things and the relation between them.

    true, false  with the things in their places, and exchanged
    joined       the true one with "and" in place of the relation
    """

    name: str
    true: str
    false: str
    joined: str


@dataclass(frozen=True, slots=True)
class AttributionFact:
    """Two things with an attribute each. true, false: with their own, and with each other's."""

    attributes: tuple[str, str]
    objects: tuple[str, str]
    true: str
    false: str

    @property
    def name(self) -> str:
        """As the released code groups cases."""
        return "_".join(self.attributes)

    def sentence(self, verb: str = "is") -> str:
        """A sentence about each.

        >>> AttributionFact(("red", "blue"), ("cup", "box"), "", "").sentence("is not")
        'the cup is not red and the box is not blue'
        """
        (one, two), (first, second) = self.attributes, self.objects
        return f"the {first} {verb} {one} and the {second} {verb} {two}"

    @property
    def apart(self) -> str:
        """The same with attributes far from their things."""
        (one, two), (first, second) = self.attributes, self.objects
        return f"the {first} and the {second} are {one} and {two} respectively"


def published_relation(sample: Sample) -> RelationFact | None:
    """Of a sample of `visual_genome_relation.json`; None for others."""
    plain = _plain(sample, "relation", ("name", "true", "false"))
    if plain is None:
        return None
    name, true, false = (str(plain[key]) for key in ("name", "true", "false"))
    return RelationFact(name, true, false, true.replace(f"is {name}", "and"))


def published_attribution(sample: Sample) -> AttributionFact | None:
    """Of a sample of `visual_genome_attribution.json`; None for others."""
    plain = _plain(sample, "attribution", ("attributes", "objects", "true", "false"))
    if plain is None:
        return None
    (one, two), (first, second) = plain["attributes"], plain["objects"]
    return AttributionFact((str(one), str(two)), (str(first), str(second)), str(plain["true"]), str(plain["false"]))


def _plain(sample: Sample, field: str, keys: tuple[str, ...]) -> Mapping[str, Any] | None:
    plain = sample.extras.get(field)
    if plain is None:
        return None
    if not isinstance(plain, Mapping) or not set(keys) <= set(plain):
        raise DataError(
            f"sample {sample.uid}: {field} is {str(plain)[:60]}", field=field, expected=f"an object with {', '.join(keys)}"
        )
    return plain
