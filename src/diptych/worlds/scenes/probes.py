"""Questions of published probes about rendered scenes: every false option is false by the scene's own graph.

A scene whose truth would leave a question open asks none: attributes are exchanged only between shapes that the scene holds once, and a
thing that is added is one that the scene does not hold at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.probes.case import Case
from diptych.data.probes.facts import AttributionFact, RelationFact
from diptych.worlds.scenes.captions import SURFACES, place, with_article
from diptych.worlds.scenes.layout import COLOURS, SHAPES, SIZES, SceneObject

SPATIAL = ("left of", "right of", "above", "below")
_SUGARCREPE = {"swapped_attribute": "swap_att", "swapped_roles": "swap_obj", "replaced_relation": "replace_rel"}


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """Ground truth of a rendered scene for the probes: its things, and every relation that holds between them, by index."""

    sample: Sample
    things: tuple[SceneObject, ...]

    @classmethod
    def of(cls, sample: Sample) -> SceneFacts | None:
        """None for a sample that is no scene of drawn shapes."""
        plain = sample.extras.get("things")
        if sample.source != "world:scenes" or not isinstance(plain, Sequence) or not plain or "predicate" not in sample.extras:
            return None
        things = tuple(SceneObject(**each) for each in plain)
        return cls(sample, things) if all(thing.colour and thing.label in SHAPES for thing in things) else None

    @property
    def predicate(self) -> str:
        """Predicate of the planned statement: the first thing to the second."""
        return str(self.sample.extras["predicate"])

    @property
    def statement(self) -> str:
        one, two = self.things[:2]
        return f"{with_article(one.noun)} {SURFACES[self.predicate][0]} {with_article(two.noun)}"

    @property
    def relation(self) -> RelationFact | None:
        """The planned statement and its exchanged form; None if that is true as well."""
        wrong = self._negative("swapped_roles")
        if wrong is None:
            return None
        one, two = self.things[:2]
        return RelationFact(
            self.predicate, wrong["true"], wrong["false"], f"{with_article(one.noun)} and {with_article(two.noun)}"
        )

    @property
    def attribution(self) -> AttributionFact | None:
        """The colours of the first two things, where their shapes are different and stand alone."""
        one, two = self.things[:2]
        if one.colour == two.colour or one.label == two.label or any(self.counts[thing.label] > 1 for thing in (one, two)):
            return None
        names = (one.label, two.label)
        true, false = (
            f"the {a} {names[0]} and the {b} {names[1]}" for a, b in ((one.colour, two.colour), (two.colour, one.colour))
        )
        return AttributionFact((one.colour, two.colour), names, true, false)

    @property
    def counts(self) -> Counter[str]:
        return Counter(thing.label for thing in self.things)

    @property
    def spatial(self) -> list[str] | None:
        """The four directions, the true one first, where it alone holds between the first two things and their nouns stand alone."""
        nouns = Counter(thing.noun for thing in self.things)
        if any(nouns[thing.noun] > 1 for thing in self.things[:2]):
            return None
        held = {r.predicate for r in self.sample.relations if (r.subject, r.object) == (0, 1) and r.predicate in SPATIAL}
        return [*held, *(other for other in SPATIAL if other not in held)] if len(held) == 1 else None

    def directed(self, predicate: str) -> str:
        """Sentence that the first thing has this relation to the second."""
        one, two = self.things[:2]
        return f"{with_article(one.noun)} {SURFACES[predicate][0]} {with_article(two.noun)}"

    def case(self, kind: str, true: str, false: str) -> Case:
        return Case(self.sample.uid, self.sample.group or self.sample.uid, kind, (true, false), ("true", "false"))

    def sugarcrepe(self) -> list[Case]:
        """A case of each of SugarCrepe's seven kinds that the scene allows."""
        cases = [
            self.case(name, wrong["true"], wrong["false"])
            for kind, name in _SUGARCREPE.items()
            if (wrong := self._negative(kind)) is not None
        ]
        one, two = self.things[:2]
        surface = SURFACES[self.predicate][0]
        if (shape := self._absent(SHAPES, [thing.label for thing in self.things])) is not None:
            other = f"{one.colour} {shape}"
            cases.append(self.case("replace_obj", self.statement, f"{with_article(other)} {surface} {with_article(two.noun)}"))
            cases.append(self.case("add_obj", self.statement, f"{self.statement} and {with_article(shape)}"))
        if (colour := self._absent(COLOURS, [thing.colour for thing in self.things])) and self.predicate != "same colour as":
            other = f"{colour} {one.label}"
            cases.append(self.case("replace_att", self.statement, f"{with_article(other)} {surface} {with_article(two.noun)}"))
        if sum(thing.noun == one.noun for thing in self.things) == 1:
            size = self._absent(tuple(SIZES), [one.size, "medium"])
            false = f"{with_article(f'{size} {one.noun}')} {surface} {with_article(two.noun)}"
            cases.append(self.case("add_att", self.statement, false))
        return cases

    def vl_checklist(self) -> list[Case]:
        """Colour, size, spatial relation, and a thing by where it is and how large, as VL-Checklist divides them."""
        one = self.things[0]
        cases = []
        if (colour := self._absent(COLOURS, [thing.colour for thing in self.things])) is not None:
            cases.append(self.case("Attribute/color/scenes", one.noun, f"{colour} {one.label}"))
        if sum(thing.label == one.label for thing in self.things) == 1 and one.size != "medium":
            other = "large" if one.size == "small" else "small"
            cases.append(self.case("Attribute/size/scenes", f"{one.size} {one.label}", f"{other} {one.label}"))
        if (names := self.spatial) is not None:
            cases.append(self.case("Relation/spatial/scenes", self.directed(names[0]), self.directed(self._drawn(names[1:]))))
        if (shape := self._absent(SHAPES, [thing.label for thing in self.things])) is not None:
            where = "center" if place(one) == "in the centre" else "margin"
            for kind in (f"Object/Location/{where}/scenes", f"Object/Size/{one.size}/scenes"):
                cases.append(self.case(kind, one.noun, f"{one.colour} {shape}"))
        return cases

    def _negative(self, kind: str) -> Mapping[str, str] | None:
        negatives: Sequence[Mapping[str, Any]] = self.sample.extras.get("negatives") or ()
        return next((each for each in negatives if each["kind"] == kind), None)

    def _absent(self, words: Sequence[str], present: Sequence[str]) -> str | None:
        """One of the words that is not there, drawn by the scene's own key."""
        left = [word for word in words if word not in present]
        return self._drawn(left) if left else None

    def _drawn(self, words: Sequence[str]) -> str:
        return words[int(keyed_rng("scene probe", self.sample.uid, *words).integers(len(words)))]
