"""A dialogue in the format of transformers' chat templates: messages of parts, and the pictures in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.prompt import Dialogue, ImagePart, TextPart


def pictures_in_order(
    dialogue: Dialogue, images: Sequence[ImageSource], *, model: str
) -> tuple[list[dict[str, Any]], list[ImageSource]]:
    """Messages with a mark for each picture, and those pictures.

    images  what parts mean by their place; none goes with a dialogue of text only. A dialogue without any picture part is about the first
            one, which then stands first
    Raises DataError for a part that is neither text nor picture, for an index without a picture, and for a dialogue that ends
    with an answer.
    """
    if not dialogue.awaits_answer:
        raise DataError("the last turn is the assistant's", field="turns", expected="a turn of the user, which the model answers")
    turns: list[dict[str, Any]] = []
    pictures: list[ImageSource] = []
    for turn in dialogue.turns:
        content: list[dict[str, str]] = []
        for part in turn.parts:
            match part:
                case TextPart(text):
                    content.append({"type": "text", "text": text})
                case ImagePart(place, source):
                    if source is None and place >= len(images):
                        expected = f"0..{len(images) - 1}" if images else "the picture that goes with the prompt"
                        raise DataError(f"picture {place} of {len(images)} is requested", field="place", expected=expected)
                    pictures.append(images[place] if source is None else source)
                    content.append({"type": "image"})
                case _:
                    raise DataError(
                        f"'{model}' cannot read this {type(part).__name__}", field="prompt", expected="words and pictures"
                    )
        turns.append({"role": turn.role, "content": content})
    if not pictures and images:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"].insert(0, {"type": "image"})
        pictures.append(images[0])
    return turns, pictures
