"""Scores that a model gives pairs of an image and a text, checked.  Letters: N images, K texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import PairScorer
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.image import ImageSource


def compared_by(model: Any, wanted: Literal["auto", "vectors", "pairs"]) -> Literal["vectors", "pairs"]:
    """How a task compares images with texts: as its option says, else by pairs where the model scores them."""
    able = isinstance(model, PairScorer)
    if wanted == "pairs" and not able:
        raise ConfigError(f"'{getattr(model, 'name', model)}' scores no pairs (expected compare 'vectors')")
    return "pairs" if wanted == "pairs" or (able and wanted == "auto") else "vectors"


def pair_scores(
    model: Any, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
) -> npt.NDArray[np.float32]:
    """[N, K] of a `PairScorer`, finite; equal texts are scored once, so that they tie exactly."""
    distinct = list(dict.fromkeys(texts))
    score_NK = np.asarray(model.score_pairs(images, distinct, query=query), np.float32)
    if score_NK.shape != (len(images), len(distinct)):
        raise ShapeError(f"the model answered {list(score_NK.shape)} for {len(images)} images and {len(distinct)} texts")
    if not np.isfinite(score_NK).all():
        image, text = (int(place) for place in np.argwhere(~np.isfinite(score_NK))[0])
        name = images[image].name
        raise DataError(f"the score of the image {name} and the text {distinct[text]!r} is not finite", expected="finite numbers")
    place = {text: column for column, text in enumerate(distinct)}
    return score_NK[:, [place[text] for text in texts]]
