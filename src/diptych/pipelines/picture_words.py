"""Words of an image by a lexical model: weights, and the location of each word in the image.

Letters: W words, H W rows and columns of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import LexicalEmbedder, Role, WordMapper
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Share, visible_share

TOP = 20


@dataclass(frozen=True, slots=True, eq=False)
class PictureWords:
    """Words of a picture by weight, from `words_of`.

    words       heaviest first
    weights     of norm 1 over all words of the picture
    count       words that have a weight at all
    weight_WHW  float32: the weight that each part by itself would give the word, on the same scale; None if the model has no map
    box         part of the picture under the grid: x0, y0, x1, y1 as shares of its sides
    """

    words: tuple[str, ...]
    weights: tuple[float, ...]
    count: int
    weight_WHW: npt.NDArray[np.float32] | None
    box: Share

    def lines(self) -> list[str]:
        if not self.words:
            return ["no word of the vocabulary fits this picture"]
        width = max(map(len, self.words))
        lines = [f"  {word:<{width}}  {weight:.3f}" for word, weight in zip(self.words, self.weights, strict=True)]
        if self.weight_WHW is not None:
            columns = self.weight_WHW.shape[2]
            best_W = self.weight_WHW.reshape(len(self.words), -1).argmax(axis=1)
            positions = [(1 + int(best) // columns, 1 + int(best) % columns) for best in best_W]
            lines = [f"{line} in row {row}, column {column}" for line, (row, column) in zip(lines, positions, strict=True)]
        return [f"{len(self.words)} of {self.count} words", *lines]

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "words": list(self.words),
            "weights": list(self.weights),
            "count": self.count,
            "box": list(self.box),
        }
        grids = np.zeros((0, 0, 0), np.float32) if self.weight_WHW is None else self.weight_WHW
        return plain | {"rows": grids.shape[1], "columns": grids.shape[2], "places": grids.astype(float).round(5).tolist()}


@dataclass(frozen=True)
class PictureInput:
    """image  the picture"""

    image: ImageSource


@dataclass(frozen=True)
class WordsOfPicture:
    """Words that a lexical model predicts for a picture.

    model  that turns pictures into weights over words
    top    so many of the heaviest are shown
    """

    slug: ClassVar[str] = "picture_words"
    roles: ClassVar[tuple[Role, ...]] = (Role("model", LexicalEmbedder, "the model that is asked"),)
    request: ClassVar[type] = PictureInput

    model: LexicalEmbedder
    top: int = TOP

    def run(self, request: PictureInput) -> PictureWords:
        return words_of(self.model, request.image, self.top)


def words_of(model: Any, image: ImageSource, top: int = TOP) -> PictureWords:
    """Heaviest `top` words of a picture. Raises ConfigError for a model without a vocabulary."""
    if not isinstance(model, LexicalEmbedder):
        raise ConfigError(
            f"{getattr(model, 'name', model)} does not turn pictures into words (expected a model of recipe lexlip)"
        )
    if top < 1:
        raise ConfigError(f"top is {top} (expected 1 word or more)")
    weights = model.lexicalise_images([image])[0]
    length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    heaviest = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    grids = None
    if isinstance(model, WordMapper) and heaviest:
        grids = model.map_words(image, [{word: 1 / length} for word, _ in heaviest])
    height, width = decode(image, exact=True).shape[:2]
    return PictureWords(
        tuple(word for word, _ in heaviest),
        tuple(weight / length for _, weight in heaviest),
        len(weights),
        grids,
        visible_share(getattr(model, "preprocess", None), width, height),
    )
