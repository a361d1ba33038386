"""Prompts and dialogues for generative models: a prompt is a list of parts, a dialogue a list of turns.

    prompt = (ImagePart(), TextPart("What is left of "), RegionPart((10, 20, 60, 80)), TextPart("?"))
    dialogue = Dialogue((Turn("user", prompt), Turn("assistant", (TextPart("A lamp."),)), Turn("user", (TextPart("Which colour?"),))))

A picture, region or other medium is a part at its position in the prompt, not a placeholder in a string: which token stands for it
depends on the model. A part refers to a picture by its index among the pictures that go with the prompt (those of the sample), so that
dialogues can be stored beside the data; or it holds a picture of its own, which cannot be stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.scene_graph import Box

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


EMPTY_TEXT = "the model wrote no word before its end mark (more training may help, or another prompt)"
"""What is said beside a generated text that is empty."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text in a prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture in a prompt: number `place` of those that go with the prompt, or `source`."""

    place: int = 0
    source: ImageSource | None = None

    def __post_init__(self) -> None:
        _counted(self.place)


@dataclass(frozen=True, slots=True)
class MediaPart:
    """Another medium in a prompt: that of the sample by its `name` ("clip", "cloud"), or `item`."""

    name: str
    item: MediaItem | None = None


@dataclass(frozen=True, slots=True)
class RegionPart:
    """A box in a prompt, xyxy in pixels of picture number `place`; `label` is its name in the text, "" for none."""

    box: Box
    place: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        _counted(self.place)
        x0, y0, x1, y1 = self.box
        if not (x1 > x0 and y1 > y0):
            raise DataError(f"box {self.box} has no area", field="box", expected="x0 < x1 and y0 < y1, pixels")


Part = TextPart | ImagePart | MediaPart | RegionPart
Prompt = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a dialogue: a role and its prompt."""

    role: Role
    parts: Prompt

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"unknown role {self.role!r}", field="role", expected=" | ".join(ROLES))

    @property
    def text(self) -> str:
        """Text of the turn without its other parts."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns in order: at most one of "system", at the start, then "user" and "assistant" in turn.

    >>> Dialogue((Turn("user", (TextPart("a"),)), Turn("user", (TextPart("b"),))))
    Traceback (most recent call last):
        ...
    diptych.core.errors.DataError: field 'turns': turn 1 is of 'user' (expected 'assistant')
    """

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        if not self.turns:
            raise DataError("a dialogue without turns", field="turns", expected="at least one")
        start = 1 if self.turns[0].role == "system" else 0
        for number, turn in enumerate(self.turns[start:]):
            due = ("user", "assistant")[number % 2]
            if turn.role != due:
                raise DataError(f"turn {number + start} is of '{turn.role}'", field="turns", expected=f"'{due}'")

    @property
    def awaits_answer(self) -> bool:
        """True if the assistant's turn is next."""
        return self.turns[-1].role == "user"


PromptLike = str | Sequence[Part] | Dialogue
"""What `Generator.generate` takes for each item: words about its picture, a prompt, or a dialogue that awaits an answer. Where no picture
goes with it (None), a string is text only."""


def as_prompt(asked: str | Sequence[Part]) -> Prompt:
    """A prompt as a tuple of parts. A string is a text about the picture that goes with it: the picture first, then the text, if any.

    >>> as_prompt("What is this?")
    (ImagePart(place=0, source=None), TextPart(text='What is this?'))
    """
    if isinstance(asked, str):
        return (ImagePart(), TextPart(asked)) if asked else (ImagePart(),)
    return tuple(asked)


def as_dialogue(asked: PromptLike) -> Dialogue:
    """Any prompt as a dialogue; a prompt without turns is one turn of the user."""
    return asked if isinstance(asked, Dialogue) else Dialogue((Turn("user", as_prompt(asked)),))


def text_only(asked: PromptLike) -> PromptLike:
    """A prompt that no picture goes with: a string becomes one text part; prompts and dialogues stay as they are.

    >>> text_only("Is 7 prime?")
    (TextPart(text='Is 7 prime?'),)
    """
    return (TextPart(asked),) if isinstance(asked, str) else asked


def require_images(images: Sequence[ImageSource | None], *, model: str) -> list[ImageSource]:
    """The images, for a model that reads one with every prompt. Raises `DataError` for a prompt that has none."""
    given = [image for image in images if image is not None]
    if len(given) < len(images):
        row = next(row for row, image in enumerate(images) if image is None)
        raise DataError(
            f"'{model}' does not read prompts without a picture", row=row, field="images", expected="a picture with every prompt"
        )
    return given


def require_one_per_image(name: str, given: Sized, images: Sized) -> None:
    """Raises `ConfigError` unless there is one of `given`, called `name` in the message, for each image."""
    if len(given) != len(images):
        raise ConfigError(f"{len(given)} {name} for {len(images)} images (expected one an image)")


def single_image_requests(
    images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, model: str
) -> list[tuple[ImageSource, str]]:
    """Image and text of each request, for a model that reads one image and words with each.

    Raises `ConfigError` if there are not as many prompts as images, `DataError` for a request without image or with more than one.
    """
    require_one_per_image("prompts", prompts, images)
    texts = [text_of_single_image_prompt(prompt, model=model) for prompt in prompts]
    return list(zip(require_images(images, model=model), texts, strict=True))


def text_of_text_only_prompt(asked: PromptLike, *, model: str) -> str:
    """Text of a prompt that no picture goes with. Raises `DataError` if it refers to one, or is a dialogue of several turns."""
    if isinstance(asked, str):
        return asked
    if any(isinstance(part, ImagePart | RegionPart) for turn in as_dialogue(asked).turns for part in turn.parts):
        raise DataError(
            f"a prompt for '{model}' refers to a picture and comes without one", field="images", expected="the picture"
        )
    return text_of_single_image_prompt(asked, model=model)


def text_of_single_image_prompt(asked: PromptLike, *, model: str) -> str:
    """Text of a prompt for a model that reads one picture and then text, and nothing else.

    Raises `DataError` if the prompt holds anything that such a model would have to leave out.
    """
    dialogue = as_dialogue(asked)
    if len(dialogue.turns) > 1:
        raise DataError(f"'{model}' takes no dialogue of {len(dialogue.turns)} turns", field="prompt", expected="one prompt")
    parts = dialogue.turns[0].parts
    rest = parts[1:] if parts and parts[0] == ImagePart() else parts
    if odd := next((part for part in rest if not isinstance(part, TextPart)), None):
        kind = type(odd).__name__
        raise DataError(f"'{model}' cannot read this {kind}", field="prompt", expected="the picture first, if at all, then words")
    return "".join(part.text for part in rest if isinstance(part, TextPart))


def text_and_images_of_prompt(asked: PromptLike, *, model: str, most: int) -> tuple[str, tuple[ImageSource, ...]]:
    """Text of a prompt for a model that reads up to `most` pictures and then text, and the pictures that the prompt itself holds.

    >>> text_and_images_of_prompt((ImagePart(), TextPart("The same?")), model="m", most=2)
    ('The same?', ())
    """
    if most < 2 or isinstance(asked, str):
        return text_of_single_image_prompt(asked, model=model), ()
    dialogue = as_dialogue(asked)
    parts = dialogue.turns[0].parts
    pictures = [part for part in parts if isinstance(part, ImagePart)]
    behind = tuple(part for part in parts[len(pictures) :])
    brought = tuple(part.source for part in pictures[1:] if part.source is not None)
    if len(brought) != max(0, len(pictures) - 1):
        raise DataError(f"'{model}' gets one picture beside a prompt", field="prompt", expected="further pictures with a source")
    if 1 + len(brought) > most:
        raise DataError(f"'{model}' cannot read {1 + len(brought)} pictures", field="prompt", expected=f"{most} at most")
    if any(isinstance(part, ImagePart) for part in behind):
        raise DataError(f"'{model}' cannot read pictures behind words", field="prompt", expected="the pictures first, then words")
    first = pictures[:1]
    rest = dataclasses.replace(dialogue, turns=(Turn("user", (*first, *behind)), *dialogue.turns[1:]))
    return text_of_single_image_prompt(rest, model=model), brought


# ---------------------------------------------------------------- stored beside the data


def prompt_to_json(prompt: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts as plain values; `prompt_from_json` gives them back. A part with a picture or medium of its own cannot be stored."""
    return [_part_to_json(part) for part in prompt]


def dialogue_to_json(dialogue: Dialogue) -> list[dict[str, Any]]:
    """Turns as plain values: a role and the parts of `prompt_to_json` each."""
    return [{"role": turn.role, "content": prompt_to_json(turn.parts)} for turn in dialogue.turns]


def prompt_from_json(value: Any) -> Prompt:
    """A prompt from plain JSON values, or text only from a string. Raises `DataError` that names the part."""
    if isinstance(value, str):
        return (TextPart(value),)
    if not isinstance(value, Sequence):
        raise DataError(f"a prompt is a {type(value).__name__}", field="content", expected="a string or a list of parts")
    return tuple(_part_from_json(part, number) for number, part in enumerate(value))


def dialogue_from_json(value: Any) -> Dialogue:
    """A dialogue from a list of ``{"role": ..., "content": ...}``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(f"a dialogue is a {type(value).__name__}", field="turns", expected="a list of turns")
    turns = []
    for number, turn in enumerate(value):
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise DataError(f"turn {number} is {str(turn)[:60]}", field="turns", expected="role and content")
        turns.append(Turn(turn["role"], prompt_from_json(turn["content"])))
    return Dialogue(tuple(turns))


def _part_to_json(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart(source=None):
            return {"type": "image", "place": part.place}
        case MediaPart(item=None):
            return {"type": "media", "name": part.name}
        case RegionPart():
            return {"type": "region", "box": list(part.box), "place": part.place, "label": part.label}
        case _:
            raise DataError(f"a {type(part).__name__} with a source of its own cannot be stored", expected="the place of one")


def _part_from_json(value: Any, number: int) -> Part:
    index: Any = value.get("place", 0) if isinstance(value, Mapping) else 0
    label: Any = value.get("label", "") if isinstance(value, Mapping) else ""
    match value:
        case {"type": "text", "text": str(text)}:
            return TextPart(text)
        case {"type": "image"} if isinstance(index, int):
            return ImagePart(index)
        case {"type": "media", "name": str(name)}:
            return MediaPart(name)
        case {
            "type": "region",
            "box": [int() | float() as x0, int() | float() as y0, int() | float() as x1, int() | float() as y1],
        } if isinstance(index, int) and isinstance(label, str):
            return RegionPart((float(x0), float(y0), float(x1), float(y1)), index, label)
    raise DataError(f"part {number} is {str(value)[:60]}", field="content", expected="a text, image, media or region")


def _counted(index: int) -> None:
    if index < 0:
        raise DataError(f"picture {index}", field="place", expected="at least 0: the first picture that goes with the prompt")
