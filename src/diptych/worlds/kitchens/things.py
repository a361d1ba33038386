"""Kitchen things: the emoji that shows each, what can be done with it, and which tools go with which food.

Where no emoji shows a thing, another stands in for it: a television for a microwave, a radio for a toaster, a bathtub with a shower for a
sink with a faucet.
"""

from __future__ import annotations

from functools import cache

from diptych.core.errors import DataError
from diptych.data.planning.domains import DISHES, FOOD
from diptych.worlds.scenes.cutouts import Cutout, cutout

EMOJI = {
    "apple": "red apple",
    "bread": "bread",
    "egg": "egg",
    "lettuce": "leafy green",
    "potato": "potato",
    "tomato": "tomato",
    "bowl": "bowl with spoon",
    "plate": "fork and knife with plate",
    "pan": "cooking",
    "pot": "pot of food",
    "cup": "teacup without handle",
    "mug": "beer mug",
    "knife": "kitchen knife",
    "spoon": "spoon",
    "fork": "fork and knife",
    "book": "closed book",
    "bottle": "baby bottle",
    "cellphone": "mobile phone",
    "sponge": "sponge",
    "kettle": "teapot",
    "tissue": "roll of paper",
    "pen": "pen",
    "pencil": "pencil",
    "salt": "salt",
    "soap": "soap",
    "wine": "wine glass",
    "microwave": "television",
    "toaster": "radio",
    "sink": "bathtub",
    "faucet": "shower",
}
CONTAINERS = ("bowl", "pan", "plate", "pot")
CUTTABLE = ("apple", "bread", "lettuce", "potato", "tomato")
COOKABLE = ("bread", "egg", "lettuce", "potato")
HANDED = (
    *("apple", "book", "bottle", "bowl", "bread", "cellphone", "cup", "egg", "fork", "kettle", "knife", "lettuce", "mug", "pan"),
    *("pen", "pencil", "plate", "pot", "potato", "spoon", "tomato", "wine"),
)


def cook_tools(food: str) -> tuple[str, ...]:
    """Tools in which that food can be cooked: bread in a toaster, too."""
    return ("microwave", "pan", "toaster") if food == "bread" else ("microwave", "pan")


def abilities(name: str) -> tuple[str, ...]:
    """Affordances of a thing (contain, cook, clean, cut), then its attributes (graspable, cutting, cooking, edible)."""
    contains = name in (*DISHES, "microwave", "toaster", "sink", "kettle", "bottle", "salt", "soap", "wine")
    words = {
        "contain": contains,
        "cook": name in ("microwave", "pan"),
        "clean": name == "sink",
        "cut": name == "knife",
        "graspable": name not in ("microwave", "toaster", "sink", "faucet"),
        "cutting": name in CUTTABLE,
        "cooking": name in FOOD,
        "edible": name in FOOD and name not in ("egg", "potato"),
    }
    return tuple(word for word, holds in words.items() if holds)


def interaction(tool: str, other: str) -> str:
    """Relation of a tool to another thing: cut, clean, cook or contain; "" for nothing."""
    if tool == "knife" and other in CUTTABLE:
        return "cut"
    if tool == "sink" and other in DISHES:
        return "clean"
    if tool in ("microwave", "pan", "toaster") and other in COOKABLE and tool in cook_tools(other):
        return "cook"
    return "contain" if tool in CONTAINERS and other in FOOD else ""


@cache
def cutouts(style: str) -> dict[str, Cutout]:
    """The cut-out of every thing in one style of emoji."""
    from diptych.data.media.decode import decode_rgba
    from diptych.data.read import read

    pool = read("emoji")
    wanted = {label: name for name, label in EMOJI.items()}
    made: dict[str, Cutout] = {}
    for row, own in enumerate(pool.column("style")):
        if own != style:
            continue
        sample = pool[row]
        name = wanted.get(sample.positives("en")[0].string.lower())
        if name is not None and sample.image is not None:
            made.setdefault(name, cutout(name, decode_rgba(sample.image), sample.licence))
    if missing := [name for name in EMOJI if name not in made]:
        raise DataError(
            f"no emoji of style {style!r} shows {missing[0]}", field="styles", expected="noto, fluent, openmoji, twemoji"
        )
    return made
