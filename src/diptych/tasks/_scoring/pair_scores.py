"""Validated image-text pair scores of a model.  Letters: N images, K texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import PairScorer
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.image import ImageSource


def compared_by(model: Any, compare: Literal["auto", "vectors", "pairs"]) -> Literal["vectors", "pairs"]:
    """Comparison that a task uses: "pairs" or "vectors" as its option says; "auto" is pairs where the model scores them."""
    able = isinstance(model, PairScorer)
    if compare == "pairs" and not able:
        raise ConfigError(f"'{getattr(model, 'name', model)}' scores no pairs (expected compare 'vectors')")
    return "pairs" if compare == "pairs" or (able and compare == "auto") else "vectors"


def pair_scores(
    model: Any, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
) -> npt.NDArray[np.float32]:
    """Finite scores [N, K] of a `PairScorer`; equal texts are scored once, so that they tie exactly."""
    distinct = list(dict.fromkeys(texts))
    score_NK = np.asarray(model.score_pairs(images, distinct, query=query), np.float32)
    if score_NK.shape != (len(images), len(distinct)):
        raise ShapeError(f"the model answered {list(score_NK.shape)} for {len(images)} images and {len(distinct)} texts")
    if not np.isfinite(score_NK).all():
        image, text = (int(index) for index in np.argwhere(~np.isfinite(score_NK))[0])
        name = images[image].name
        raise DataError(f"the score of the image {name} and the text {distinct[text]!r} is not finite", expected="finite numbers")
    index = {text: column for column, text in enumerate(distinct)}
    return score_NK[:, [index[text] for text in texts]]
