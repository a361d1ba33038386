"""Wordings of questions, by program. A template names slots of its questions in braces."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

OPTION_LEADS = tuple(
    f"{space}{lead}" for space in ("\n", " ") for lead in ("", "Options: ", "Choices: ", "Choose from: ", "Pick one of: ")
)
"""Between a question and its options."""
_ASKING = ("", "Tell me: ", "Can you say: ")
_AMONG = ("among", "out of", "of")
_VIEWS = ("in depth", "{} the camera", "{} the viewer")


def _asked(*questions: str, bare: Sequence[str] = ()) -> tuple[str, ...]:
    """Questions with and without a preceding request, and noun phrases as requests. Capitalises the first letter, keeps the
    slots."""
    asked = [lead + question + "?" for lead, question in product(_ASKING, questions)]
    named = [f"{verb} {phrase}." for verb, phrase in product(("Name", "Give", "Identify"), bare)]
    return tuple(text[0].upper() + text[1:] for text in (*asked, *named))


def _among(*questions: str) -> tuple[str, ...]:
    """Questions that name their candidates first or last."""
    return _asked(
        *(f"{word} {{candidates}}, {question}" for word, question in product(_AMONG, questions)),
        *(f"{question}, {word} {{candidates}}" for word, question in product(_AMONG, questions)),
    )


_HOW_MANY = (
    "how many {name} are there",
    "how many {name} do you see",
    "how many {name} are visible",
    "what is the number of {name}",
    "what is the number of {name} in the picture",
)
_MANY_IN_ALL = ("in these images", "across these images", "in all of the images together")


def _extreme(side: str, adverb: str) -> tuple[str, ...]:
    return _among(f"which object is the {side} one", f"which object is placed {adverb}", f"what is the {side} object")


def _distance(noun: str, words: Sequence[str], preposition: str, *, anchor: bool = False) -> tuple[str, ...]:
    views = [f"{preposition} the {{anchor}} in depth"] if anchor else [view.format(preposition) for view in _VIEWS]
    return _among(*(f"which {noun} is {word} {view}" for word, view in product(words, views)))


_CLOSER, _FARTHER = ("closer", "nearer"), ("farther", "farther away")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "exists_object": _asked(*_HOW_MANY, bare=("the number of {name}",)),
    "most_object": _among("which object occurs most often", "what is the most frequent object", "which object is seen the most"),
    "least_object": _among(
        "which object occurs least often", "what is the least frequent object", "which object is seen the least"
    ),
    "leftmost_object": _extreme("leftmost", "farthest to the left"),
    "rightmost_object": _extreme("rightmost", "farthest to the right"),
    "topmost_object": _extreme("topmost", "farthest up"),
    "bottommost_object": _extreme("bottommost", "farthest down"),
    "exists_attribute": _asked(*_HOW_MANY, bare=("the number of {name}",)),
    "attribute_box": _asked(
        "what are the attributes of the {name} located at region {box}",
        "which attributes does the {name} in the region {box} have",
        bare=("the attributes of the {name} at region {box}",),
    ),
    "typed_attribute_box": _asked(
        "what is the {type} of the {name} located at region {box}",
        "which {type} does the {name} in the region {box} have",
        bare=("the {type} of the {name} at region {box}",),
    ),
    "exists_relation": _asked(
        "how are the {subject} and the {object} related",
        "what is the relation between the {subject} and the {object}",
        "which relation does the {subject} have to the {object}",
        bare=("the relation of the {subject} to the {object}",),
    ),
    "relation_box": _asked(
        "how are the objects at {box} and {other_box} related",
        "what is the relation between the objects at {box} and {other_box}",
        bare=("the relation of the object at {box} to the one at {other_box}",),
    ),
    "head_relation": _among("which one is {relation} the {object}", "what is {relation} the {object}"),
    "closer_point": _distance("point", _CLOSER, "to"),
    "farther_point": _distance("point", _FARTHER, "from"),
    "closer_object": _distance("object", _CLOSER, "to"),
    "farther_object": _distance("object", _FARTHER, "from"),
    "closer_to_anchor_object": _distance("object", _CLOSER, "to", anchor=True),
    "farther_to_anchor_object": _distance("object", _FARTHER, "from", anchor=True),
    "same_object_segment": _among(
        "which point is on the same object as {anchor}", "which point belongs to the object at {anchor}"
    ),
    "different_object_segment": _among(
        "which point is not on the same object as {anchor}", "which point does not belong to the object at {anchor}"
    ),
    "graph_object": ("What is the {reference}?",),
    "graph_relation": ("What is the relation from the {reference}, to the {other_reference}?",),
    "graph_attribute": ("What is the {type} of the {reference}?",),
    "graph_caption": (
        "Describe the picture.",
        "What does the picture show?",
        "Say what is in the picture and how it is related.",
    ),
    "has_relation": _asked(
        "in which image is the {subject} {relation} the {object}", "which image shows the {subject} {relation} the {object}"
    ),
    "has_not_relation": _asked(
        "in which image is the {subject} not {relation} the {object}",
        "which image does not show the {subject} {relation} the {object}",
    ),
    "has_object": _asked("which image has {object}", "which image shows {object}", "which image contains {object}"),
    "has_not_object": _asked("which image does not have {object}", "which image does not show {object}"),
    "has_attributed_object": _asked("which image has {attribute} {object}", "which image shows {attribute} {object}"),
    "has_not_attributed_object": _asked(
        "which image does not have {attribute} {object}", "which image does not show {attribute} {object}"
    ),
    "has_most_object": _asked("which image has the most {objects}", "which image shows the largest number of {objects}"),
    "has_least_object": _asked("which image has the fewest {objects}", "which image shows the smallest number of {objects}"),
    "common_object": _asked(
        "which objects do these images have in common",
        "which objects appear in all of these images",
        bare=("the objects that appear in all of these images",),
    ),
    "common_attribute": _asked(
        "which attribute does the {object} have in all of these images",
        "which attribute of the {object} is shared by these images",
        bare=("the attribute of the {object} that these images share",),
    ),
    "count_object": _asked(*(f"how many {{objects}} are there {where}" for where in _MANY_IN_ALL)),
    "count_attribute_object": _asked(*(f"how many {{attribute}} {{objects}} are there {where}" for where in _MANY_IN_ALL)),
    "compare_relation": _asked(
        "how does the relation between the {subject} and the {object} differ in these images",
        "what is the difference of the relation between the {subject} and the {object} in these images",
    ),
    "compare_attribute": _asked(
        "how do the attributes of the {object} differ in these images",
        "what is the difference of the attributes of the {object} in these images",
    ),
}
