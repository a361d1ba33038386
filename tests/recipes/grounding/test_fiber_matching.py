"""FIBER's matching trained alone, as its release fine-tunes retrieval by pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

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
