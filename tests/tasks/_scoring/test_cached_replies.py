"""Replies of a run that was stopped are not asked for again, those of a completed run are; grey pictures of the blind baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import Reply
from diptych.core.image import ArrayImage, BytesImage
from diptych.data.media.decode import decode, encode_png
from diptych.models.endpoint.answers import AnswerCache
from diptych.tasks._scoring.answers.blind import GREY, grey_images
from diptych.tasks._scoring.answers.cached_replies import PART, cached_replies

PROMPTS = [f"question {n}" for n in range(2 * PART + 5)]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))


class Generator:
    """Repeats each prompt with the level of its picture; is stopped at call `stop_at`."""

    name = "generator"

    def __init__(self, fingerprint: str = "f", stop_at: int = 0) -> None:
        self.fingerprint, self.stop_at, self.asked = fingerprint, stop_at, list[list[str]]()

    def generate(self, images: Sequence[Any], prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        self.asked.append(list(prompts))
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        levels = ["" if image is None else f" {image.pixels_HWC.max()}" for image in images]
        return [f"{prompt}{level} of {max_tokens}" for prompt, level in zip(prompts, levels, strict=True)]


def ask(model: Any, prompts: Sequence[str] = PROMPTS, images: Any = None, max_tokens: int = 8, **options: Any) -> list[str]:
    replies = cached_replies(model, images or [None] * len(prompts), prompts, max_tokens=max_tokens, **options)
    return [reply.text for reply in replies]


def test_a_stopped_run_goes_on_and_a_completed_one_starts_again() -> None:
    whole = [f"{prompt} of 8" for prompt in PROMPTS]
    with pytest.raises(KeyboardInterrupt):
        ask(Generator(stop_at=2))
    with AnswerCache() as cache:
        assert len(cache) == PART
    other, again, after = Generator("another"), Generator(), Generator()
    assert ask(other) == whole
    assert [len(part) for part in other.asked] == [PART, PART, 5], "another model takes nothing from it"
    assert ask(again) == whole
    assert again.asked == [PROMPTS[PART : 2 * PART], PROMPTS[2 * PART :]]
    with AnswerCache() as cache:
        assert len(cache) == 0
    assert ask(after) == whole
    assert [len(part) for part in after.asked] == [PART, PART, 5]


@pytest.mark.parametrize(("fingerprint", "options"), [("f", {"keep": False}), ("", {})])
def test_without_a_cache_all_is_asked_at_once(fingerprint: str, options: dict[str, Any]) -> None:
    model = Generator(fingerprint, stop_at=2)
    assert len(ask(model, **options)) == len(PROMPTS)
    assert model.asked == [PROMPTS]
    with AnswerCache() as cache:
        assert len(cache) == 0


def test_equal_questions_are_asked_once_and_others_are_not_taken_for_equal() -> None:
    dark, light = (ArrayImage(np.full((2, 2, 3), level, np.uint8), "picture") for level in (3, 9))
    model = Generator()
    found = ask(model, ["a", "a", "b", "a", "a"], [dark, light, dark, None, dark])
    assert found == ["a 3 of 8", "a 9 of 8", "b 3 of 8", "a of 8", "a 3 of 8"]
    assert model.asked == [["a", "a", "b", "a"]]
    with pytest.raises(KeyboardInterrupt):
        ask(Generator(stop_at=2))
    longer = Generator()
    assert ask(longer, max_tokens=9)[0] == "question 0 of 9"
    assert len(longer.asked) == 3


def test_a_model_that_reports_faults_is_asked_as_it_is() -> None:
    class Endpoint:
        fingerprint = "f"

        def replies(self, images: Sequence[Any], prompts: Sequence[str], *, max_tokens: int = 64) -> list[Reply]:
            return [Reply(f"{prompt} of {max_tokens}", fault="refused") for prompt in prompts]

        def generate(self, *_: Any, **__: Any) -> list[str]:
            raise AssertionError("its replies are asked for")

    assert cached_replies(Endpoint(), [None], ["a"], max_tokens=3) == [Reply("a of 3", fault="refused")]


def test_grey_pictures_have_the_sizes_and_are_made_once() -> None:
    images = [BytesImage(encode_png(np.full((*size, 3), 7, np.uint8)), name) for size, name in (((2, 5), "a"), ((4, 3), "b"))]
    found = grey_images([*images, images[0]])
    assert [image.name for image in found] == ["a", "b", "a"]
    assert [decode(image, exact=True).shape for image in found] == [(2, 5, 3), (4, 3, 3), (2, 5, 3)]
    assert all((decode(image, exact=True) == GREY).all() for image in found)
    assert found[0] is found[2]
