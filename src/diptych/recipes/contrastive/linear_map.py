"""Linear map: two frozen encoders and one matrix between them, solved in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Draws
from diptych.core.errors import ConfigError
from diptych.data.load.batch import group_ids
from diptych.models.pairs.frozen.linear_map import LinearPair, MappedFeatures, Side, procrustes_map, ridge_map
from diptych.models.pairs.frozen.locked import LinearMapEmbedder
from diptych.recipes._shared.frozen.frozen_pairs import FeatureBatch, FrozenPairRecipe, table


@dataclass(frozen=True, kw_only=True)
class LinearMap(FrozenPairRecipe[LinearPair, MappedFeatures]):
    """The least that can join an image encoder and a text encoder: a matrix, in closed form. A baseline beside `locked`.

    Both encoders stay as they are. Features lose their mean; those of one side are multiplied by a matrix into the space of the
    other, and cosine similarities are taken there. One pass over the data adds up X'X and X'Y in float64, then the matrix follows:
    `ridge` minimises the squared distance with a penalty on the matrix (Hoerl & Kennard, 1970), `procrustes` takes the best matrix with
    orthonormal columns, a rotation where both sides have equal width (Schönemann, 1966). There is no learning rate, no seed and no
    schedule; `steps`, `lr`, `warmup`, `weight_decay` and `clip_norm` change nothing but, with fewer steps than a pass has, how much of
    the data is seen. An image with several texts counts once, with their mean: for least squares that is the same as all of them,
    each with an equal share of the image's weight.

    Nothing here knows of negatives, which is what `locked` adds: a claim against this baseline says what contrast is worth.

    solution  how the matrix is found
    penalty   of ridge, for each row: scikit-learn's `Ridge(alpha=penalty * rows)`
    mapped    the side that is moved into the space of the other
    """

    slug = "linear_map"
    engine = "solve"

    solution: Literal["ridge", "procrustes"] = "ridge"
    penalty: float = 1e-3
    mapped: Side = "image"
    batch_size: int = 256
    epochs: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.penalty < 0:
            raise ConfigError(f"penalty is {self.penalty} (expected 0 or more)")

    def model(self) -> LinearPair:
        images, texts = self.encoders()
        return LinearPair(images.width, texts.width, mapped=self.mapped)

    def batch(self, draws: Draws) -> FeatureBatch:
        """The features of each image, and the mean of those of its texts."""
        images, texts = table(self, "images"), table(self, "texts")
        strings = [[text.string for text in draw.sample.positives(self.language)] for draw in draws]
        text_BE = [torch.from_numpy(texts.rows(own)).mean(0) for own in strings]
        image_BD = torch.from_numpy(images.rows([draw.sample.uid for draw in draws]))
        return FeatureBatch(image_BD, torch.stack(text_BE), group_ids(draws))

    def features(self, model: LinearPair, batch: FeatureBatch) -> MappedFeatures:
        mapped: MappedFeatures = model(batch.image_BD, batch.text_BE)
        return mapped

    def losses(self, features: MappedFeatures, batch: FeatureBatch) -> dict[str, Tensor]:
        """Ridge objective, for each row. Procrustes minimises the distance alone, among orthonormal matrices."""
        distance = (features.image_NE - features.text_NE).square().sum(1).mean()
        penalty = self.penalty if self.solution == "ridge" else 0.0
        return {"distance": distance, "penalty": penalty * features.map_DE.square().sum()}

    def statistics(self, model: LinearPair, batch: FeatureBatch) -> dict[str, Tensor]:
        image_ND, text_NE = batch.image_BD.double(), batch.text_BE.double()
        x_ND, y_NE = (image_ND, text_NE) if self.mapped == "image" else (text_NE, image_ND)
        return {
            "rows": torch.full((), float(len(x_ND)), dtype=torch.float64, device=x_ND.device),
            "x_D": x_ND.sum(0),
            "y_E": y_NE.sum(0),
            "xx_DD": x_ND.T @ x_ND,
            "xy_DE": x_ND.T @ y_NE,
            "yy": y_NE.square().sum(),
        }

    def solve(self, model: LinearPair, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Writes means and map. Logs the rows, and the share of the target's variance that the map explains (R², over all dimensions)."""
        rows = float(totals["rows"])
        x_D, y_E = totals["x_D"] / rows, totals["y_E"] / rows
        gram_DD = totals["xx_DD"] - rows * torch.outer(x_D, x_D)
        cross_DE = totals["xy_DE"] - rows * torch.outer(x_D, y_E)
        map_DE = ridge_map(gram_DD, cross_DE, self.penalty * rows) if self.solution == "ridge" else procrustes_map(cross_DE)
        assert model.moved.map_DE is not None
        model.moved.map_DE.copy_(map_DE)
        model.moved.mean_D.copy_(x_D)
        model.target.mean_D.copy_(y_E)
        variance = totals["yy"] - rows * y_E.square().sum()
        left = variance - 2 * (map_DE * cross_DE).sum() + (map_DE * (gram_DD @ map_DE)).sum()
        return {"rows": rows, "explained": 1 - float(left / variance)}

    def deploy(self, model: LinearPair) -> LinearMapEmbedder:
        return LinearMapEmbedder(model, *self.encoders(), name=self.slug)

    @classmethod
    def tiny(cls) -> Self:
        """A second after the features. The penalty was not tuned."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """No paper has this map between these encoders; the same at the image encoder's own size."""
        return cls(encoder_size=224)
