"""SocialGPT prompts: story and reasoning prompts, relation definitions, and parsing of the reply."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from diptych.core.disk.files import write_json
from diptych.core.disk.json_text import parse_json
from diptych.core.errors import ConfigError, DataError
from diptych.pipelines._social.segment_objective import SegmentQuestion, Slot

PIPA: dict[str, str] = {
    "father-child": "a man and a child of his",
    "mother-child": "a woman and a child of hers",
    "grandpa-grandchild": "a man and a child of his son or daughter",
    "grandma-grandchild": "a woman and a child of her son or daughter",
    "friends": "people who are close because of common interests or experiences",
    "siblings": "people with the same parents",
    "classmates": "students who learn in the same class",
    "lovers/spouses": "people who love each other or are married",
    "presenter-audience": "somebody who gives a talk, and somebody who listens to it",
    "teacher-student": "somebody who teaches knowledge and values, and somebody who learns them",
    "trainer-trainee": "somebody who teaches a skill or technique, and somebody who practises it",
    "leader-subordinate": "somebody who leads in an organisation, and somebody who is led",
    "band members": "musicians or singers who perform together",
    "dance team members": "dancers who perform together",
    "sport team members": "athletes of one team",
    "colleagues": "people who work in the same organisation",
}
"""The 16 relations of PIPA in their order, with our own definitions."""
PISC: dict[str, str] = {
    "friends": "people who are close and not related",
    "family-members": "people who are related, or parents and children",
    "couple": "people who love each other or are married",
    "professional": "people who work, learn or perform together",
    "commercial": "somebody who sells or serves, and a customer",
    "no-relationship": "people who do not know each other",
}
"""The 6 relations of PISC by their released names, with our own definitions."""
RELATIONS: dict[str, dict[str, str]] = {"pipa": PIPA, "pisc": PISC}
SEGMENTS = ("system", "prelude", "relationship", "example")
"""Slots of the reasoning prompt, in order."""
RULE = "*" * 64
"""Line around the example of the reasoning prompt."""
VICUNA = (" USER: ", " ASSISTANT: ")
"""Text before the turns of a conversation with Vicuna."""
STORYTELLER = (
    "You write one fluent paragraph from statements about a picture.\n"
    "- Say how people and things stand to each other, and what the people do with each other.\n"
    "- Name people and things by their symbols, such as <P1> or <O2>.\n"
    "- Give no coordinates."
)
STORY = (
    "Records of people have the form {{<symbol>:[P..] , <coordinate>:[x,y,w,h] , <caption>:[..] , <age>:[..] , <gender>:[..]}}, those "
    "of things {{<symbol>:[O..] , <coordinate>:[x,y,w,h] , <caption>:[..]}}; x and y are the upper left corner of a box, w and h its "
    "width and height.\n"
    "Write an informative paragraph of at most {sentences} sentences about the scene, above all about the people <P..>: where they "
    "are, what they do, and what each thing adds to it. Always use the symbols <P..> and <O..>; give no coordinates and no numbers for "
    "positions.\n\n"
    "a. Size: {width}x{height}\nb. Caption: {caption}\nc. Scene: {scene}\nd. People and things: {records}"
)


@dataclass(frozen=True, slots=True)
class Segments:
    """Texts of the four slots of a reasoning prompt."""

    system: str
    prelude: str
    relationship: str
    example: str

    @classmethod
    def usual(cls, relations: Mapping[str, str]) -> Segments:
        """Default segments for these relations: rules, role, definitions, and an example with its answer."""
        names, first = listed_names(relations), list(relations)[-1]
        rules = (
            "You recognise how people in a picture are related from a description of it.\n"
            f"- The answer is one of the {len(relations)} relations that are listed.\n- Always give the most likely one.\n"
            "- Begin with [The final answer is <relation>]."
        )
        prelude = f"You are an expert of social relations. Two people in a picture have one of these relations: {names}."
        defined = "\n".join(f"{row}. <{name}>: {words}." for row, (name, words) in enumerate(relations.items(), start=1))
        example = (
            "[1. image description]:\n<P1> and <P2> stand in an office before a screen <O1>, and both wear a badge.\n\n"
            f"[2. Question]: \n{question_about('P1', 'P2', relations)}\n\n"
            f"[3. Answer]: {answer_words(first)}. Their place and clothes suggest it."
        )
        return cls(rules, prelude, defined, example)

    @classmethod
    def read(cls, path: Path, relations: Mapping[str, str]) -> Segments:
        """Default segments, overridden by those of a JSON file. Raises DataError for an invalid file or name."""
        try:
            value = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise DataError(
                f"cannot be read: {error}", file=path, expected=json.dumps(dict.fromkeys(SEGMENTS, "text"))
            ) from error
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()) or set(value) - set(SEGMENTS):
            raise DataError("contains no texts by segment", file=path, expected=f"texts for some of {', '.join(SEGMENTS)}")
        usual = cls.usual(relations)
        return cls(*(value.get(name, getattr(usual, name)) for name in SEGMENTS))

    def write(self, path: Path) -> None:
        """Writes all four segments to a JSON file that `read` accepts."""
        write_json(path, asdict(self))


def relations_of(name: str) -> dict[str, str]:
    """Relations and their definitions: "pipa", "pisc", or a JSON file of them. Raises ConfigError or DataError."""
    if name in RELATIONS:
        return RELATIONS[name]
    path = Path(name)
    if path.suffix != ".json":
        raise ConfigError(f"relations is {name!r} (expected pipa | pisc | a .json file of definitions by relation)")
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected='{"colleagues": "people who ...", ...}') from error
    if not isinstance(value, dict) or len(value) < 2 or not all(isinstance(words, str) for words in value.values()):
        raise DataError("contains no definitions", file=path, expected='{"colleagues": "people who ...", ...}')
    return {str(label): words for label, words in value.items()}


def listed_names(relations: Mapping[str, str]) -> str:
    """The relations in angle brackets."""
    return "{" + ", ".join(f"<{name}>" for name in relations) + "}"


def question_about(first: str, second: str, relations: Mapping[str, str]) -> str:
    """Question about two people by their symbols, as released."""
    asked = f"What are the most likely social relationships between {first} and {second}?"
    return f"{asked} Choose only one from {listed_names(relations)}."


def answer_words(label: str) -> str:
    """Beginning of an answer, and the target of the segment search."""
    return f"[The final answer is <{label}>]"


def reasoning_parts(
    story: str, first: str, second: str, relations: Mapping[str, str], behind: str = ""
) -> tuple[str | Slot, ...]:
    """The reasoning prompt after its system segment: prelude, definitions, example, then story and question, in the released frame.

    behind  text behind the question
    """
    asked = f"\n{RULE}\n\n[1. image description]:\n{story}\n\n[2. Question]: \n{question_about(first, second, relations)}{behind}"
    example = f"\n\n{RULE}\nExample:\n"
    return Slot("prelude"), "\n\n", Slot("relationship"), example, Slot("example"), f"{asked}\n\n[3. Answer]:"


def training_question(
    story: str, pair: tuple[str, str], label: str, relations: Mapping[str, str], turns: tuple[str, str] = VICUNA
) -> SegmentQuestion:
    """Converts a labelled story to a training question for the segment search, whose question ends with two full stops, as released.

    turns  text before the user's turn, which follows the system segment, and before the answer
    """
    *parts, last = reasoning_parts(story, *pair, relations, behind=".")
    assert isinstance(last, str)
    return SegmentQuestion((Slot("system"), turns[0], *parts, last + turns[1]), answer_words(label))


def relation_in(reply: str, labels: Sequence[str], *, how: Literal["strict", "released"] = "strict") -> tuple[str, ...]:
    """Relations that a reply names.

    how  "strict": the one in [The final answer is <...>], or without that the only one in the first sentence; empty if there are
         several. "released": all whose names occur before the first full stop, so a list of guesses counts as correct

    >>> relation_in("[The final answer is <friends>]. They laugh.", list(PIPA))
    ('friends',)
    >>> relation_in("Maybe friends or siblings.", list(PIPA)), relation_in("Maybe friends or siblings.", list(PIPA), how="released")
    ((), ('friends', 'siblings'))
    """
    if how == "released":
        head = reply.split(".")[0]
        return tuple(label for label in labels if label in head)
    by_length = sorted(labels, key=len, reverse=True)
    any_label = "|".join(re.escape(label) for label in by_length)
    stated = re.findall(rf"final answer is\s*:?\s*[<\"']?({any_label})(?![\w-])", reply, flags=re.IGNORECASE)
    named = stated or re.findall(
        rf"(?<![\w-])({any_label})(?![\w-])", re.split(r"[.\n]", reply.strip(), maxsplit=1)[0], flags=re.IGNORECASE
    )
    lower = {label.lower(): label for label in labels}
    different = tuple(dict.fromkeys(lower[name.lower()] for name in named))
    return different if len(different) == 1 else ()
