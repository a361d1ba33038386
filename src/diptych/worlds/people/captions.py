"""Sentences about a rendered person in three styles that differ in words and in their order; hidden attributes are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diptych.worlds.people.looks import Person
from diptych.worlds.rendered import SceneRandom

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VisibleAttributes:
    """Visible attributes of a person in a picture: phrases, or `UNKNOWN` where hidden; `bag` is "" if there is none.

    `attributes` is the form of SYNTH-PEDES: gender, head, upper clothes, lower clothes, shoes, belongings.
    """

    person: Person
    action: str
    head: bool
    upper: bool
    lower: bool
    shoes: bool
    bag: bool

    @property
    def attributes(self) -> tuple[str, ...]:
        who = self.person
        return (
            who.gender,
            f"{who.hair} {who.hair_colour} hair" if self.head else UNKNOWN,
            f"{who.upper_colour} {who.upper}" if self.upper else UNKNOWN,
            f"{who.lower_colour} {who.lower}" if self.lower else UNKNOWN,
            f"{who.shoe_colour} shoes" if self.shoes else UNKNOWN,
            who.bag if who.bag and self.bag else UNKNOWN,
        )


def _plain(seen: VisibleAttributes, dice: SceneRandom) -> str:
    """A sentence from head to foot."""
    who = seen.person
    head = f" with {who.hair} {who.hair_colour} hair" if seen.head else ""
    worn = [f"{_article(who.upper_colour)} {who.upper_colour} {who.upper}"] if seen.upper else []
    worn += [_lower(who, dice.pick(("", "a pair of ")) if who.lower != "skirt" else "")] if seen.lower else []
    worn += [f"{who.shoe_colour} shoes"] if seen.shoes else []
    worn += ["a cap"] if who.hat and seen.head else []
    verb = dice.pick((" wears ", " is wearing ", " has on "))
    bag = dice.pick((", carrying a ", ", with a ")) + who.bag if who.bag and seen.bag else ""
    return f"a {who.gender}{head}{verb}{_joined(worn)}{bag}"


def _witness(seen: VisibleAttributes, dice: SceneRandom) -> str:
    """Short sentences from the ground up, in everyday words."""
    who = seen.person
    man = who.gender == "man"
    name = dice.pick(("guy", "gentleman") if man else ("lady", "girl"))
    he, his = ("he", "his") if man else ("she", "her")
    clauses = [f"the {name} is {seen.action}"]
    clauses += [f"{his} footwear is {who.shoe_colour}"] if seen.shoes else []
    clauses += [f"{he} is dressed in {_lower(who, '', COMMON)}"] if seen.lower else []
    clauses += (
        [f"{he} has {_article(who.upper_colour)} {who.upper_colour} {COMMON.get(who.upper, who.upper)} on"] if seen.upper else []
    )
    clauses += [f"{his} {who.hair_colour} hair is {who.hair}"] if seen.head else []
    clauses += [f"there is a {COMMON.get(who.bag, who.bag)} too"] if who.bag and seen.bag else []
    return ". ".join(clauses)


def _tags(seen: VisibleAttributes, dice: SceneRandom) -> str:
    """A list in any order, as a form has it."""
    who = seen.person
    parts = [f"{who.hair_colour} hair, {who.hair}"] if seen.head else []
    parts += [f"{who.upper_colour} top: {who.upper}"] if seen.upper else []
    parts += [f"{who.lower_colour} bottom: {who.lower}"] if seen.lower else []
    parts += [f"shoes {who.shoe_colour}"] if seen.shoes else []
    parts += [f"bag: {who.bag}"] if who.bag and seen.bag else []
    return "; ".join(["male" if who.gender == "man" else "female", *dice.shuffled(parts)])


COMMON = {
    "trousers": "pants",
    "jacket": "windbreaker",
    "t-shirt": "tee",
    "striped shirt": "stripy top",
    "coat": "long overcoat",
    "backpack": "rucksack",
    "handbag": "purse",
}
"""Other words for the same things, in the style of a witness."""
STYLES: dict[str, Callable[[VisibleAttributes, SceneRandom], str]] = {"plain": _plain, "witness": _witness, "tags": _tags}


def _lower(who: Person, lead: str, words: Mapping[str, str] | None = None) -> str:
    name = (words or {}).get(who.lower, who.lower)
    article = "a " if who.lower == "skirt" else ""
    return f"{lead}{article}{who.lower_colour} {name}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _joined(parts: list[str]) -> str:
    if not parts:
        return "everyday clothes"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
