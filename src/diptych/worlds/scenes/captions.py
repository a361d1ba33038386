"""Caption grammar of scenes: four lengths, paraphrases, and typed wrong captions.

Every caption of a scene contains its planned statement, so two scenes with an equal caption are in the same group and are never
each other's negatives. A wrong caption is read as "there are such things" and is kept only when the graph says that it is false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from diptych.core.sample import Text
from diptych.worlds.rendered import SceneRandom
from diptych.worlds.scenes.layout import COLOURS, INVERSE, PREDICATES, SYMMETRIC, Scene, SceneObject
from diptych.worlds.scenes.truth import Truth

LENGTHS = ("short", "tags", "long", "dense")
KINDS = ("swapped_attribute", "swapped_roles", "replaced_relation", "negation", "wrong_count")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SURFACES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher up than"),
    "below": ("below", "lower down than"),
    "on": ("on", "on top of"),
    "inside": ("inside", "within"),
    "touching": ("touching", "in contact with"),
    "in front of": ("in front of", "partly hiding"),
    "behind": ("behind", "partly hidden by"),
    "bigger than": ("bigger than", "larger than"),
    "same colour as": ("of the same colour as", "sharing its colour with"),
}
OPPOSITE = {
    "bigger than": "smaller than",
    "inside": "around",
    "on": "under",
}  # words for the other direction, for paraphrases only
# What a reader might grant although the geometry says no: never offered as a wrong relation.
GRANTED = {
    "on": ("above", "touching"),
    "inside": ("touching", "in front of"),
    "in front of": ("touching",),
    "behind": ("touching",),
}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True, slots=True)
class Mention:
    """Noun phrase for a thing: a noun, with a colour and a size when they are given."""

    label: str
    colour: str = ""
    size: str = ""

    @classmethod
    def of(cls, thing: SceneObject) -> Mention:
        return cls(thing.label, thing.colour)

    @property
    def words(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.label) if word)

    def fits(self, thing: SceneObject) -> bool:
        return thing.label == self.label and self.colour in ("", thing.colour) and self.size in ("", thing.size)


@dataclass(frozen=True, slots=True)
class Statement:
    """Relation `predicate` between some thing that fits `subject` and some other that fits `other`."""

    subject: Mention
    predicate: str
    other: Mention

    def holds(self, scene: Scene, facts: Truth) -> bool:
        return any(
            predicate == self.predicate and self.subject.fits(scene.things[a]) and self.other.fits(scene.things[b])
            for a, predicate, b in facts.holds
        )

    @property
    def words(self) -> str:
        return f"{with_article(self.subject.words)} {SURFACES[self.predicate][0]} {with_article(self.other.words)}"


@dataclass(frozen=True, slots=True)
class Negative:
    """A wrong caption with the true one that it was made from; they differ in nothing but the mistake."""

    kind: str
    true: str
    false: str


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def counted(number: int, noun: str) -> str:
    plural = noun if number == 1 else noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
    return f"{NUMBERS[number] if number < len(NUMBERS) else number} {plural}"


def statement(scene: Scene) -> Statement:
    """The planned statement."""
    return Statement(Mention.of(scene.things[0]), scene.predicate, Mention.of(scene.things[1]))


def captions(scene: Scene, facts: Truth, dice: SceneRandom, lengths: tuple[str, ...], paraphrases: int) -> list[Text]:
    """True captions in the order of `lengths`, then paraphrases of the short one (as many different ones as there are)."""
    stated = statement(scene)
    texts = []
    for length in lengths:
        if length == "tags":
            tags = dict.fromkeys(thing.noun for thing in scene.things)
            texts.append(
                Text(", ".join([*tags, f"{stated.subject.words} {stated.predicate} {stated.other.words}"]), "en", "tags")
            )
        else:
            words = (
                stated.words if length == "short" else _long(scene, stated) if length == "long" else _dense(scene, facts, stated)
            )
            texts.append(Text(words, "en"))
    if paraphrases:
        others = [words for words in _paraphrases(stated) if words != stated.words]
        texts += [Text(words, "en", "rewrite") for words in dice.shuffled(others)[:paraphrases]]
    return texts


def _paraphrases(stated: Statement) -> Iterator[str]:
    one, two = stated.subject.words, stated.other.words
    for surface in SURFACES[stated.predicate]:
        yield f"{with_article(one)} {surface} {with_article(two)}"
        yield f"there is {with_article(one)} {surface} {with_article(two)}"
        yield f"the {one} is {surface} the {two}"
    back = stated.predicate if stated.predicate in SYMMETRIC else INVERSE.get(stated.predicate)
    surfaces = SURFACES[back] if back else (OPPOSITE[stated.predicate],)
    for surface in surfaces:
        yield f"{with_article(two)} {surface} {with_article(one)}"
        yield f"the {two} is {surface} the {one}"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def place(thing: SceneObject) -> str:
    row, column = (min(int(v * 3), 2) for v in (thing.y, thing.x))
    if (row, column) == (1, 1):
        return "in the centre"
    return f"at the {ROWS[row]} {COLUMNS[column]}" if row != 1 else f"on the {COLUMNS[column]}"


def _long(scene: Scene, stated: Statement) -> str:
    """Long caption: the statement, then the position of every further thing."""
    rest = [f"there is {with_article(f'{t.size} {t.noun}')} {place(t)}" for t in scene.things[2:]]
    if not rest:
        rest = [f"the {stated.subject.words} is {scene.things[0].size}", f"the {stated.other.words} is {scene.things[1].size}"]
    return " ".join(_sentence(words) for words in (stated.words, *rest))


def _dense(scene: Scene, facts: Truth, stated: Statement) -> str:
    """Dense caption: counts, background, every thing with all its attributes and its position, and non-directional relations."""
    counts = Counter(thing.label for thing in scene.things)
    listed = " and ".join(counted(number, label) for label, number in counts.items())
    verb = "is" if counts[scene.things[0].label] == 1 else "are"
    tone = "dark" if scene.tone[0] < 0.5 else "light"
    sentences = [f"there {verb} {listed} on a {tone} {scene.background} background", stated.words]
    for thing in scene.things:
        words = [word for word in (thing.size, thing.texture, thing.colour) if word] + [thing.label]
        turned = " and tilted" if "tilted" in thing.attributes else ""
        sentences.append(f"{with_article(' '.join(words))} is {place(thing)}{turned}")
    for first, predicate, second in sorted(facts.holds):
        one, two = scene.things[first], scene.things[second]
        if predicate in ("on", "inside", "touching", "in front of", "bigger than") and (first, second) != (0, 1):
            sentences.append(f"the {one.noun} is {SURFACES[predicate][0]} the {two.noun}")
    return " ".join(_sentence(words) for words in sentences)


def negatives(scene: Scene, facts: Truth, dice: SceneRandom) -> list[Negative]:
    """At most one wrong caption of each kind; a kind that has no false version in this scene is left out."""
    stated = statement(scene)
    negatives_made = []
    swapped = _swap_attributes(scene, stated)
    if swapped and not swapped[1].holds(scene, facts):
        negatives_made.append(Negative("swapped_attribute", swapped[0].words, swapped[1].words))
    roles = Statement(stated.other, stated.predicate, stated.subject)
    if not roles.holds(scene, facts):
        negatives_made.append(Negative("swapped_roles", stated.words, roles.words))
    offered = [
        p for p in PREDICATES if p not in GRANTED.get(stated.predicate, ()) and (p != "same colour as" or stated.subject.colour)
    ]
    wrong = [other for p in offered if not (other := replace(stated, predicate=p)).holds(scene, facts)]
    if wrong:
        negatives_made.append(Negative("replaced_relation", stated.words, dice.pick(wrong).words))
    verb = SURFACES[stated.predicate][0]
    negatives_made.append(
        Negative(
            "negation",
            f"some {stated.subject.words} is {verb} {with_article(stated.other.words)}",
            f"no {stated.subject.words} is {verb} {with_article(stated.other.words)}",
        )
    )
    label = dice.pick(scene.things).label
    number = sum(thing.label == label for thing in scene.things)
    other = number + 1 if number == 1 or dice.uniform() < 0.5 else number - 1
    negatives_made.append(Negative("wrong_count", _exactly(number, label), _exactly(other, label)))
    return negatives_made


def _exactly(number: int, label: str) -> str:
    return f"exactly {counted(number, label)}"


def _swap_attributes(scene: Scene, stated: Statement) -> tuple[Statement, Statement] | None:
    """True and false with the colours exchanged, or the sizes when the colours are equal or unknown; None when both are."""
    one, two = stated.subject, stated.other
    if one.colour in COLOURS and one.colour != two.colour and stated.predicate != "same colour as":
        return stated, Statement(replace(one, colour=two.colour), stated.predicate, replace(two, colour=one.colour))
    sizes = scene.things[0].size, scene.things[1].size
    if sizes[0] == sizes[1]:
        return None
    one, two = replace(one, size=sizes[0]), replace(two, size=sizes[1])
    return (
        Statement(one, stated.predicate, two),
        Statement(replace(one, size=sizes[1]), stated.predicate, replace(two, size=sizes[0])),
    )
