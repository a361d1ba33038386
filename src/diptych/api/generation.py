"""Words about pictures: captions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.api.models import load
from diptych.core.contracts import Generator, Ranker
from diptych.core.errors import ConfigError
from diptych.core.inputs import image_of, images_of
from diptych.data.text.prompts.comprehension_prompts import with_description

Compared = Literal["mean", "sum"]
WRITES_NOT = "writes no text (expected a model that is a Generator: the run of limber, or hf:FOLDER of LLaVA)"


@dataclass(frozen=True, slots=True)
class AnswerChoice:
    """The most likely of given answers to a question, with the likelihood of each.

    text    the answer with the least cost
    shares  of each answer: softmax of minus its cost, which adds up to 1 over those that were given and says nothing of others
    nats    the cost of each: its negative log-likelihood, a token or in all
    """

    text: str
    shares: dict[str, float]
    nats: dict[str, float]


def caption(model: Any, images: Any, *, prompt: str = "", max_tokens: int = 64, **options: Any) -> Any:
    """Captions of images by a generative model: a string for one image, a list for several.

    model    one that writes (the run of a recipe such as limber, "hf:FOLDER" of LLaVA, BLIP-2 and the like), or where to load one from
    images   a path, encoded bytes, a PIL image, uint8 [H, W, 3] pixels, a `Sample` or an `ImageSource`; or several: a list, a data set
    prompt   what is asked; "" asks for what the model's own template asks for
    options  of transformers' `generate`, where the model is one of it: num_beams, repetition_penalty, ...
    """
    made = _require(model, Generator, WRITES_NOT)
    sources, alone = images_of(images)
    texts = made.generate(sources, [prompt] * len(sources), max_tokens=max_tokens, **options)
    return texts[0] if alone else texts


def ask(
    model: Any,
    image: Any,
    question: str,
    *,
    choices: Sequence[str] = (),
    compared: Compared = "mean",
    describe: str = "",
    description_tokens: int = 1024,
    max_tokens: int = 32,
) -> str | AnswerChoice:
    """An answer to a question about an image: generated text, or the best of given `choices` by likelihood.

    image     None for a model that reads text alone, such as the run of rl4lms, or reads it too
    compared  "mean": nats a token, so that long answers have no handicap; "sum": of the whole answer
    describe  asks for a description of the image first, which then stands before the question (describe and respond, STIC, 2405.19716)
    description_tokens  of the description, at most
    max_tokens  of the answer, at most
    """
    if not question.strip():
        raise ConfigError("the question is empty (expected words, or use caption)")
    if describe.strip():
        if image is None:
            raise ConfigError(f"describe is {describe!r} without an image (expected an image, or no describe)")
        question = with_description(question, caption(model, image, prompt=describe, max_tokens=description_tokens))
    if not choices and image is None:
        (text,) = _require(model, Generator, WRITES_NOT).generate([None], [question], max_tokens=max_tokens)
        return str(text)
    if not choices:
        answer: str = caption(model, image, prompt=question, max_tokens=max_tokens)
        return answer
    if len(set(choices)) < len(choices):
        twice = next(choice for choice in choices if list(choices).count(choice) > 1)
        raise ConfigError(f"the choice {twice!r} is given twice (expected different choices)")
    if len(choices) < 2:
        raise ConfigError(f"only one choice is given, {choices[0]!r} (expected two or more)")
    if compared not in ("mean", "sum"):
        raise ConfigError(f"compared is {compared!r} (expected mean | sum)")
    made = _require(model, Ranker, "cannot rank answers (expected the run of limber, or hf:FOLDER of LLaVA, BLIP-2 and the like)")
    (found_C2,) = made.answer_nll([None if image is None else image_of(image)], [question], [list(choices)])
    nats_C = found_C2[:, 0] / found_C2[:, 1] if compared == "mean" else found_C2[:, 0]
    share_C = np.exp(nats_C.min() - nats_C)
    share_C /= share_C.sum()
    best = int(np.argmin(nats_C))
    return AnswerChoice(
        choices[best], dict(zip(choices, share_C.tolist(), strict=True)), dict(zip(choices, nats_C.tolist(), strict=True))
    )


def _require(model: Any, capability: type, lacks: str) -> Any:
    made = load(model) if isinstance(model, str | Path) else model
    if not isinstance(made, capability):
        raise ConfigError(f"{getattr(made, 'name', model)} {lacks}")
    return made
