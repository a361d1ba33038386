"""Scene layout: things on a 3 x 3 grid, one of their relations planned so that geometry makes it true.

Lengths are shares of the image side, so that a scene is the same at every size. x runs right, y runs down, depth 0 is at the
back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.worlds.rendered import SceneRandom

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "moon", "bar")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 0.075, "medium": 0.11, "large": 0.145}  # radius
TILT = 30.0  # degrees, clockwise
UNTURNED = ("circle", "ring")  # look the same at every angle
CONTACT = ("circle", "square", "cross", "ring", "bar")  # reach the edge of their extent on both axes through the centre
SOLID = ("circle", "square")  # fill their extent: a small thing fits inside a large one, and one hides a good part of another
BACKGROUNDS = ("plain", "gradient", "noise")

PREDICATES = (
    "left of",
    "right of",
    "above",
    "below",
    "on",
    "inside",
    "touching",
    "in front of",
    "behind",
    "bigger than",
    "same colour as",
)
INVERSE = {"left of": "right of", "above": "below", "in front of": "behind"}
INVERSE |= {there: here for here, there in INVERSE.items()}
SYMMETRIC = ("touching", "same colour as")
PLANNED = (
    ("left of", 0.2),
    ("right of", 0.2),
    ("above", 0.15),
    ("below", 0.15),
    ("on", 0.07),
    ("inside", 0.07),
    ("touching", 0.06),
    ("in front of", 0.04),
    ("bigger than", 0.03),
    ("same colour as", 0.03),
)
CUTOUT_PLANNED = (("left of", 0.3), ("right of", 0.3), ("above", 0.2), ("below", 0.2))  # true of any outline

CELL = 1 / 3
GAP = 0.016  # kept free on each side of a cell border: a pixel at 64, so neighbours never touch by accident
OVERLAP = 0.5 / 64  # things that are meant to touch overlap by half a pixel at 64
HALF_SIDE = {"square": 0.8, "bar": 0.97, "cross": 0.95}  # extent to the right, in radii; 1 for round shapes
HALF_HEIGHT = {"square": 0.8, "bar": 0.34, "cross": 0.95}


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object. `label` is its noun: a shape, or the name of a cut-out; `picture` numbers the cut-out, -1 for a drawn shape."""

    label: str
    colour: str
    size: str
    texture: str
    angle: float
    x: float
    y: float
    depth: int
    picture: int = -1

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    @property
    def noun(self) -> str:
        return f"{self.colour} {self.label}" if self.colour else self.label

    @property
    def attributes(self) -> tuple[str, ...]:
        turned = () if self.picture >= 0 or self.label in UNTURNED else ("tilted" if self.angle else "upright",)
        return tuple(word for word in (self.colour, self.size, self.texture) if word) + turned


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in the order of their creation, and the planned statement: thing 0 `predicate` thing 1."""

    things: tuple[SceneObject, ...]
    predicate: str
    background: str
    tone: tuple[float, float]  # grey at the top and at the bottom, 0..1
    noise_seed: int

    @property
    def group(self) -> str:
        """The planned statement in one direction, so that "a left of b" and "b right of a" are the same concept."""
        return " ".join(canonical(self.things[0].noun, self.predicate, self.things[1].noun))


def canonical(subject: str, predicate: str, other: str) -> tuple[str, str, str]:
    if predicate in ("right of", "below", "behind") or (predicate in SYMMETRIC and other < subject):
        return other, INVERSE.get(predicate, predicate), subject
    return subject, predicate, other


@dataclass(frozen=True, slots=True)
class LayoutRules:
    """Constraints on scenes. `avoid` are nouns that never occur; with `require`, thing 0 or 1 is always one of these."""

    min_objects: int = 2
    max_objects: int = 4
    avoid: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of cut-outs, by picture number; empty: drawn shapes


def layout(dice: SceneRandom, rules: LayoutRules) -> Scene:
    """A scene whose planned relation holds by construction (`scene_truth` computes it again from the masks)."""
    count = dice.between(rules.min_objects, rules.max_objects)
    while True:
        predicate = dice.weighted(CUTOUT_PLANNED if rules.labels else PLANNED)
        first = [_look(dice, rules, predicate, role, rules.require if role == 0 else ()) for role in (0, 1)]
        if predicate == "same colour as":
            first[1] = (first[1][0], first[0][1], *first[1][2:])
        nouns = [f"{look[1]} {look[0]}".strip() for look in first]
        # Two equal nouns would make the statement say little ("a red circle left of a red circle").
        has_required = not rules.require or set(nouns) & set(rules.require)
        if nouns[0] != nouns[1] and has_required and not (set(nouns) & set(rules.avoid)):
            break
    centres, free = _place_pair(dice, predicate, first)
    looks = list(first)
    for cell in dice.shuffled(free)[: count - 2]:
        look = _look(dice, rules, "", 2, ())
        while f"{look[1]} {look[0]}".strip() in rules.avoid:
            look = _look(dice, rules, "", 2, ())
        looks.append(look)
        centres.append(_in_cell(dice, cell, SIZES[look[2]]))
    depths = dice.shuffled(range(len(looks)))
    if predicate in ("inside", "in front of") and depths[0] < depths[1]:
        depths[0], depths[1] = depths[1], depths[0]
    things = tuple(
        SceneObject(*look[:5], x, y, depth, look[5]) for look, (x, y), depth in zip(looks, centres, depths, strict=True)
    )
    kind = dice.pick(BACKGROUNDS)
    dark = dice.uniform(0.04, 0.26)
    tone = (dark, dice.uniform(0.04, 0.26)) if dice.uniform() < 0.7 else (1 - dark * 0.5, dice.uniform(0.87, 0.98))
    return Scene(things, predicate, kind, tone if kind == "gradient" else (tone[0], tone[0]), dice.seed())


Look = tuple[str, str, str, str, float, int]  # label, colour, size, texture, angle, picture


def _look(dice: SceneRandom, rules: LayoutRules, predicate: str, role: int, among: Sequence[str]) -> Look:
    """Random attributes of a thing, constrained by the planned relation. Role 0 is the subject, 1 the object, 2 neither."""
    size = dice.pick(("small", "large"))
    if (predicate in ("bigger than", "inside")) and role < 2:
        size = "large" if (role == 0) == (predicate == "bigger than") else "small"
    if rules.labels:
        picture = dice.below(len(rules.labels))
        if among:
            label = dice.pick(among)
            picture = rules.labels.index(label)
        return rules.labels[picture], "", size, "", 0.0, picture
    shapes: tuple[str, ...] = SHAPES
    if predicate in ("on", "touching"):
        shapes = CONTACT
    elif predicate == "in front of" or (predicate == "inside" and role == 1):
        shapes = SOLID
    fitting = [noun for noun in among if noun.split(" ", 1)[1] in shapes]
    colour, label = dice.pick(fitting).split(" ", 1) if fitting else (dice.pick(COLOURS), dice.pick(shapes))
    texture = dice.weighted((("plain", 0.6), ("striped", 0.2), ("dotted", 0.2)))
    turned = label not in UNTURNED and predicate not in ("on", "touching") and dice.uniform() < 0.4
    return label, colour, size, texture, TILT if turned else 0.0, -1


Place = tuple[float, float]


def _in_cell(dice: SceneRandom, cell: int, radius: float) -> Place:
    play = CELL / 2 - radius - GAP
    row, column = divmod(cell, 3)
    return (column + 0.5) * CELL + dice.uniform(-play, play), (row + 0.5) * CELL + dice.uniform(-play, play)


def _place_pair(dice: SceneRandom, predicate: str, looks: Sequence[Look]) -> tuple[list[Place], list[int]]:
    """Centres of thing 0 and thing 1, and the cells that are left."""
    shape_a, shape_b = looks[0][0], looks[1][0]
    a, b = SIZES[looks[0][2]], SIZES[looks[1][2]]
    cells = list(range(9))
    if predicate in ("left of", "right of", "above", "below"):
        low, high = sorted(dice.shuffled(range(3))[:2])
        cross = (dice.below(3), dice.below(3))
        pair = [row * 3 + column for row, column in zip(cross, (low, high), strict=True)]
        if predicate in ("above", "below"):
            pair = [row * 3 + column for row, column in zip((low, high), cross, strict=True)]
        if predicate in ("right of", "below"):
            pair.reverse()
        used, centres = set(pair), [_in_cell(dice, cell, radius) for cell, radius in zip(pair, (a, b), strict=True)]
    elif predicate == "on":
        under = dice.between(3, 8)
        x, y = _in_cell(dice, under, b)
        used = {under, under - 3}
        centres = [(x, y - b * HALF_HEIGHT.get(shape_b, 1.0) - a * HALF_HEIGHT.get(shape_a, 1.0) + OVERLAP), (x, y)]
    elif predicate == "touching":
        row, column, side = dice.below(3), dice.below(2), dice.pick((-1, 1))
        base = row * 3 + column + (side < 0)
        x, y = _in_cell(dice, base, b)
        reach = b * HALF_SIDE.get(shape_b, 1.0) + a * HALF_SIDE.get(shape_a, 1.0) - OVERLAP
        used, centres = {base, base + side}, [(x + side * reach, y), (x, y)]
    elif predicate == "inside":
        cell = dice.below(9)
        x, y = _in_cell(dice, cell, b)
        used, centres = {cell}, [(x + dice.uniform(-0.01, 0.01), y + dice.uniform(-0.01, 0.01)), (x, y)]
    elif predicate == "in front of":
        row, column, side = dice.below(3), dice.below(2), dice.pick((-1, 1))
        base = row * 3 + column + (side < 0)
        x, y = _in_cell(dice, base, b)
        used, centres = {base, base + side}, [(x + side * 0.58 * (a + b), y), (x, y)]
    else:
        pair = dice.shuffled(cells)[:2]
        used, centres = set(pair), [_in_cell(dice, cell, radius) for cell, radius in zip(pair, (a, b), strict=True)]
    return centres, [cell for cell in cells if cell not in used]
