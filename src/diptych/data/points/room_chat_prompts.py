"""Prompts of a language model about a room: its things with their identifiers, then what is asked.

Requests are in words of ours; the layout is the published one: a system text with the list of things in brackets, the request, the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.data.points.room_language import RoomDescription, RoomObject
from diptych.data.text.object_identifiers import IdentifierAssignment, IdentifierForm, identifier
from diptych.data.text.prompts.layout import ImageSlots, Piece, TextPiece, TokenPiece

ChatTask = Literal["grounding", "captions", "questions", "objects"]
CHAT_TASKS: tuple[ChatTask, ...] = ("grounding", "captions", "questions", "objects")
GROUND = "Which objects does this mean: {}? Answer with their identifiers."
DESCRIBE = "Describe {}."
NAME = "What is {}?"
NONE = "none"
V2_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the human's questions. The conversation centers around a 3D indoor scene that encompasses numerous 3D objects. "
    'Here is a list of object information: [{}]. Objects are separated by "," and each object is identified by an ID in the format '
    '"objxx". '
)
"""Published with Chat-3D v2.0, which separates things by semicolons all the same."""
SCENE_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to "
    "the user's questions. The conversation centers around an indoor scene. Object information: [{}]."
)
"""Published with Chat-3D v2.1 and Chat-Scene."""


@dataclass(frozen=True)
class ChatPrompt:
    """Words around the list of things and the request.

    system     text before everything, with one {} for the list of things
    request    with one {} for what is asked; the answer follows
    form       of identifiers, see `IdentifierForm`
    answer_start  an answer begins with the start marks of the language model, which are targets, behind the space after the request (v2.0)
    answer_end  what ends an answer in place of the end mark; "" for the end mark
    named_by   how an answer means things: by "identifiers", or by "centres", numbers of metres, which are read as the nearest thing: what a
               model without identifiers can do
    """

    system: str = "A room with objects: [{}]."
    request: str = "\n### Human: {}\n### Assistant:"
    form: IdentifierForm = "words"
    answer_start: bool = False
    answer_end: str = ""
    named_by: Literal["identifiers", "centres"] = "identifiers"

    def __post_init__(self) -> None:
        if self.named_by not in ("identifiers", "centres"):
            raise ConfigError(f"named_by is {self.named_by!r} (expected identifiers | centres)")
        if self.system.count("{}") != 1 or self.request.count("{}") != 1 or self.form not in ("words", "tokens"):
            raise ConfigError(
                f"system {self.system!r}, request {self.request!r}, form {self.form!r} (expected one {{}} in each, and words | tokens)"
            )

    def pieces(
        self, assignment: IdentifierAssignment, asked: str, answer: str | None, *, tokens: int, start: Sequence[int] = ()
    ) -> list[Piece]:
        """The row of a request: identifiers and slots of all things in their order; `tokens` of a thing. None leaves the answer open.
        `start` are the start marks of the language model."""
        before, _, behind = self.system.partition("{}")
        row: list[Piece] = [TextPiece(before)]
        for number, index in enumerate(assignment.sequence):
            words = identifier(assignment.number_of[index], self.form)
            joined = ("; " if number else "") + words + " " if self.form == "words" else words
            row += [TextPiece(joined), ImageSlots(tokens)]
        request, space = behind + self.request.format(asked), " "
        if answer is not None and self.answer_start:
            request, space = request + space, ""
        row.append(TextPiece(request))
        if answer is None:
            return row
        if self.answer_start:
            row.append(TokenPiece(tuple(start), answer=True))
        row.append(TextPiece(f"{space}{answer}{self.answer_end}", answer=True, ends=not self.answer_end))
        return row

    def written(self, text: str) -> str:
        """A generated answer, up to what ends it."""
        return text.partition(self.answer_end)[0] if self.answer_end else text


def draw_request(
    tasks: Sequence[ChatTask],
    objects: Sequence[RoomObject],
    described: Sequence[RoomDescription],
    questions: Sequence[tuple[str, tuple[str, ...]]],
    assignment: IdentifierAssignment,
    prompt: ChatPrompt,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """A request about a room and its answer, of one of the tasks that the room has something for."""
    index_of = {thing.id: index for index, thing in enumerate(objects)}
    alone = [one for one in described if len(one.object_ids) == 1]
    ready = [
        task for task in tasks if {"grounding": described, "captions": alone, "questions": questions, "objects": objects}[task]
    ]
    if not ready:
        return "", ""
    form = prompt.form
    task = ready[int(rng.integers(len(ready)))]
    if task == "questions":
        question, accepted = questions[int(rng.integers(len(questions)))]
        return question, accepted[int(rng.integers(len(accepted)))] if accepted else ""
    if task == "objects":
        index = int(rng.integers(len(objects)))
        return NAME.format(identifier(assignment.number_of[index], form)), objects[index].label
    if task == "captions":
        one = alone[int(rng.integers(len(alone)))]
        return describe_request(assignment, index_of[one.object_ids[0]], form), one.text
    one = described[int(rng.integers(len(described)))]
    indices = [index_of[number] for number in one.object_ids]
    if prompt.named_by == "centres":
        return GROUND.format(one.text), "; ".join(centre_words(objects[p].box) for p in indices) or NONE
    return GROUND.format(one.text), " ".join(identifier(assignment.number_of[p], form) for p in indices) or NONE


def centre_words(box: Sequence[float]) -> str:
    """The centre of a box in tenths of a metre.

    >>> centre_words((1.25, 0.4, 0.33, 1, 1, 1))
    '12 4 3'
    """
    return " ".join(str(round(10 * value)) for value in box[:3])


def nearest_places(text: str, box_M6: npt.NDArray[np.float64]) -> list[int]:
    """Places of the things nearest to the centres that a text names, each once; of numbers that make no whole centre none."""
    numbers = [int(number) / 10 for number in re.findall(r"-?\d+", text)]
    centres = [numbers[at : at + 3] for at in range(0, len(numbers) - 2, 3)]
    distance = [np.linalg.norm(box_M6[:, :3] - centre, axis=1) for centre in centres if len(box_M6)]
    return list(dict.fromkeys(int(each_M.argmin()) for each_M in distance))


def describe_request(assignment: IdentifierAssignment, index: int, form: IdentifierForm) -> str:
    """The request for a caption of the thing at that place."""
    return DESCRIBE.format(identifier(assignment.number_of[index], form))
