"""FIBER's matching trained alone, as its release fine-tunes retrieval by pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from threaded_ranks import ThreadedRanks, assert_learn_alike, likeliest

from diptych.core.errors import ConfigError
from diptych.data.load.stream import batches
from diptych.models.fiber.training import half_mismatched
from diptych.worlds.scenes.questions import questions

from .test_fiber import small


def test_matching_alone_shows_half_of_the_texts_with_another_picture() -> None:
    """`compute_itm` of the release: as many right pairs as fit into a half, cross-entropy over all of them."""
    group_N = torch.tensor([0, 1, 1, 2, 3, 4, 5])
    seen: set[tuple[int, int]] = set()
    for seed in range(200):
        torch.manual_seed(seed)
        place_N, fits_N = half_mismatched(group_N)
        assert int(fits_N.sum()) == 3
        assert (place_N == torch.arange(7)).tolist() == fits_N.tolist()
        assert (group_N[place_N] == group_N).tolist() == fits_N.tolist()
        seen |= {(n, int(place)) for n, place in enumerate(place_N)}
    assert len(seen) == 7 * 7 - 2, "every picture of another group is drawn for every text"
    assert half_mismatched(torch.zeros(3, dtype=torch.int64))[1].all()
    recipe = replace(small(caption=0.0), itc=0.0, mlm=0.0, wrong="random").prepare(questions(24))
    model = recipe.model().eval()
    (step,) = batches(questions(24), recipe, seed=1, stop=1)
    torch.manual_seed(3)
    features = recipe.features(model, step.batch)
    torch.manual_seed(3)
    place_N, fits_N = half_mismatched(step.batch.group_B)
    fiber = model.fiber
    each = []
    for n, (place, fits) in enumerate(zip(place_N.tolist(), fits_N.tolist(), strict=True)):
        row = slice(n, n + 1)
        image = fiber.image_features(step.batch.image_BCHW[place : place + 1])
        text = fiber.text_features(step.batch.text_BL[row], step.batch.text_mask_BL[row])
        assert fiber.fits is not None
        answer = fiber.fits(fiber.fuse(image, text, step.batch.text_mask_BL[row]).pooled_BD)[0]
        each.append(-answer.log_softmax(0)[int(fits)])
    terms = recipe.losses(features, step.batch)
    assert set(terms) == {"matching"}
    torch.testing.assert_close(terms["matching"], torch.stack(each).mean(), rtol=1e-4, atol=1e-5)
    recipe.after_update(model, features, step.batch, 0.0)
    with pytest.raises(ConfigError, match="random with itc 0"):
        replace(small(), wrong="random")


@pytest.mark.parametrize("changes", [{}, {"itc": 0.0, "wrong": "random"}])
def test_two_processes_match_as_one(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of the matching: partners come from the rows of both processes and the queue."""
    torch.manual_seed(0)
    recipe = replace(small().prepare(questions(24)), mlm=0.0, **changes)
    model = recipe.model().double()
    model.draw = likeliest
    first, second = (
        replace(item.batch, image_BCHW=item.batch.image_BCHW.double()) for item in batches(questions(24), recipe, seed=1, stop=2)
    )
    recipe.after_update(model, recipe.features(model, first), first, 0.0)
    halves = [second.rows(0, 4), second.rows(4, 8)]
    monkeypatch.setattr("diptych.models.fiber.training.half_mismatched", next_is_shown)

    def loss(own: Any, batch: Any) -> Any:
        features = recipe.features(own, batch)
        if features.fit_N2 is not None:
            return F.cross_entropy(features.fit_N2, features.fits_N)
        return recipe._matching(features, features.image_ND, features.text_ND)

    shared = ThreadedRanks().run(model, lambda rank, own: loss(own, halves[rank]))
    assert_learn_alike(model, loss(model, second), sum(shared) / 2)


def next_is_shown(group_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every other text is shown with the next picture of all."""
    fits_N = torch.arange(len(group_N)) % 2 == 0
    own_N = torch.arange(len(group_N))
    return torch.where(fits_N, own_N, own_N.roll(-1)), fits_N
