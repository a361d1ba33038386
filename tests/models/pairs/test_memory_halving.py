"""Classifiers, late interaction and relation detectors go on with smaller batches when memory runs out, with the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diptych.core.registry import RECIPES
from diptych.worlds.resolve import resolve

MOST = 3


@contextmanager
def little_memory(module: nn.Module) -> Iterator[list[int]]:
    """A module whose device holds three items at once; the sizes that it was given."""
    sizes: list[int] = []

    def refuse(_: nn.Module, given: tuple[Any, ...]) -> None:
        sizes.append(len(given[0]))
        if len(given[0]) > MOST:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    hook = module.register_forward_pre_hook(refuse)
    try:
        yield sizes
    finally:
        hook.remove()


def trained(slug: str, world: str, **fields: Any) -> tuple[Any, Any]:
    """What a recipe deploys, untrained, and images of its world."""
    data = resolve(f"world:{world}").split("train")
    recipe: Any = RECIPES.load(slug).tiny().prepare(data)
    torch.manual_seed(0)
    return recipe.deploy(recipe.model().eval()), data


def test_a_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = trained("mrl_classes", "scenes?n=24")
    images = [data[row].image for row in range(8)]
    expected = model.classify(images), model.embed_images(images)
    with little_memory(model.model.image_tower) as sizes:
        np.testing.assert_allclose(model.classify(images), expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.embed_images(images), expected[1], rtol=1e-4, atol=1e-5)
    assert sizes[:2] == [8, 4]
    assert "does not hold 8 items at once: 4 from here on" in capsys.readouterr().err


def test_late_interaction() -> None:
    model, data = trained("filip", "scenes?n=24")
    images, texts = [data[row].image for row in range(8)], [data[row].texts[0].string for row in range(6)]
    expected = model.score_pairs(images, texts, query="image"), model.embed_patches(images), model.embed_words(texts)
    with little_memory(model.model.image_tower) as seen, little_memory(model.model.text_tower) as read:
        before = model.truncated
        np.testing.assert_allclose(model.score_pairs(images, texts, query="image"), expected[0], rtol=1e-4, atol=1e-5)
        for given, one in zip(model.embed_patches(images) + model.embed_words(texts), expected[1] + expected[2], strict=True):
            np.testing.assert_allclose(given, one, rtol=1e-4, atol=1e-5)
    assert seen[:3] == [8, 4, 2]
    assert read[:2] == [6, 3]
    assert model.truncated == before, "a text counts once, however often it is encoded"


def test_a_relation_detector() -> None:
    model, data = trained("rlipv2", "links?n=16")
    images = [data[row].image for row in range(5)]
    query = {"objects": ["circle", "star"], "relations": ["left of", "above"], "top": 3}
    expected = model.detect(images, **query)
    with little_memory(model.model.backbone) as sizes:
        given = model.detect(images, **query)
    assert sizes[:2] == [5, 2]
    for one, other in zip(given, expected, strict=True):
        assert [list(row) for row in one.triplets()] == [list(row) for row in other.triplets()]
