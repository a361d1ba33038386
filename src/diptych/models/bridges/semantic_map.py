"""A linear map from image features into the embedding table of a language model, in closed form (SITTA, 2307.05591).

Both sides are standardised by each dimension: the features of images by mean and deviation over the training images, the embeddings over
the vocabulary. A row pairs an image with one token of its captions. All maps are without intercept.

Letters: N images, D image features, E width of the language model, V vocabulary, T tokens of an image, R rows, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from sklearn.model_selection import KFold
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.frozen.linear_map import procrustes_map, ridge_map
from diptych.models.towers.outputs import Tower

Solution = Literal["least_squares", "ridge", "procrustes", "robust"]


@dataclass(frozen=True, slots=True)
class AlignmentDistances:
    """distance_B  squared distances of a mapped image to each of its tokens, summed; count_B  how many tokens those are"""

    distance_B: Rows[Tensor]
    count_B: Rows[Tensor]


class StandardMap(nn.Module):
    """Linear map from standardised image features to standardised word embeddings (SITTA, 2023), with the mean and deviation of both.

    These are all of SITTA's own weights. The map is zero until it is solved for.

    statistics  dtype of mean and deviation of both sides; float64 keeps what was summed in it. Standardised rows are in that of the rows,
                float32 or wider
    """

    mean_D: Tensor
    std_D: Tensor
    word_mean_E: Tensor
    word_std_E: Tensor

    def __init__(self, features: int, width: int, *, statistics: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.map_DE = nn.Parameter(torch.zeros(features, width))
        for name, size in (("mean_D", features), ("word_mean_E", width)):
            self.register_buffer(name, torch.zeros(size, dtype=statistics))
        for name, size in (("std_D", features), ("word_std_E", width)):
            self.register_buffer(name, torch.ones(size, dtype=statistics))

    def forward(self, feature_ND: Tensor) -> Tensor:
        """[N, E] in the standardised space of words."""
        return self.standard(feature_ND) @ self.map_DE

    def standard(self, feature_ND: Tensor) -> Tensor:
        return _standardised(feature_ND, self.mean_D, self.std_D)

    def standard_words(self, embedding_VE: Tensor) -> Tensor:
        return _standardised(embedding_VE, self.word_mean_E, self.word_std_E)


def _standardised(rows_NE: Tensor, mean_E: Tensor, std_E: Tensor) -> Tensor:
    return ((rows_NE - mean_E) / std_E).to(torch.promote_types(rows_NE.dtype, torch.float32))


class ImageOnlyEncoder(nn.Module):
    """An image encoder without a text side: its feature is what its classifier would see, as the released code reads BEiT and ViT."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.image_tower, self.image_projection, self.width = tower, nn.Identity(), tower.width


class SemanticMap(nn.Module):
    """A frozen image encoder and language model, and the linear map between them.

    words       number of rows of the embedding table that belong to the vocabulary; tables are often longer
    statistics  dtype of mean and deviation of both sides (`StandardMap`)
    """

    def __init__(
        self,
        joint: DualEncoder | ImageOnlyEncoder,
        language: LanguageModel,
        *,
        words: int,
        statistics: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.joint, self.language, self.words = joint, language, words
        self.map = StandardMap(joint.width, language.width, statistics=statistics)
        for frozen in (joint, language):
            frozen.requires_grad_(False)
        with torch.no_grad():
            mean_E, std_E = statistics_of(self._table().double())
            self.map.word_mean_E.copy_(mean_E)
            self.map.word_std_E.copy_(std_E)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.joint.eval()
        self.language.eval()
        return self

    def image_features(self, image_BCHW: Tensor) -> Tensor:
        """[B, D]: the image in the joint space, or in that of its encoder alone, not normalised."""
        feature_BD: Tensor = self.joint.image_projection(self.joint.image_tower(image_BCHW).pooled_BD)
        return feature_BD

    def text_features(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """[B, D]: a text in the joint space, not normalised. An image encoder alone has none."""
        assert isinstance(self.joint, DualEncoder)
        feature_BD: Tensor = self.joint.text_projection(self.joint.text_tower(text_BL, mask_BL).pooled_BD)
        return feature_BD

    def word_table(self) -> Tensor:
        """[V, E], standardised."""
        return self.map.standard_words(self._table())

    def _table(self) -> Tensor:
        return self.language.embed(torch.arange(self.words, device=self.map.mean_D.device))

    def forward(self, image_BCHW: Tensor, token_BT: Tensor, token_mask_BT: Tensor) -> AlignmentDistances:
        mapped_BE = self.map(self.image_features(image_BCHW))
        word_BTE = self.map.standard_words(self.language.embed(token_BT))
        apart_BT = (word_BTE - mapped_BE[:, None]).square().sum(2) * token_mask_BT
        return AlignmentDistances(apart_BT.sum(1), token_mask_BT.sum(1))

    @torch.no_grad()
    def nearest_words(self, image_BCHW: Tensor) -> Tensor:
        """Tokens by their cosine with the mapped image, the nearest first, [B, V]; ties in the order of their ids."""
        mapped_BE = l2_normalise(self.map(self.image_features(image_BCHW)))
        return torch.argsort(mapped_BE @ l2_normalise(self.word_table()).T, dim=1, descending=True, stable=True)

    @torch.no_grad()
    def sums(
        self, image_BCHW: Tensor, token_BT: Tensor, token_mask_BT: Tensor, *, floor: float | None = None
    ) -> dict[str, Tensor]:
        """Sufficient statistics of the maps, summed over a batch in float64.

        With `floor` each row is weighted by one over its distance under the present map plus `floor`, which makes the next
        Procrustes map more robust (2205.11616); a common factor changes nothing.
        """
        feature_BD = self.image_features(image_BCHW).double()
        word_BTE = self.map.standard_words(self.language.embed(token_BT)).double()
        weight_BT = token_mask_BT.double()
        if floor is not None:
            mapped_BE = self.map.standard(feature_BD) @ self.map.map_DE.double()
            weight_BT = weight_BT / ((word_BTE - mapped_BE[:, None]).norm(dim=2) + floor)
        word_BE, weight_B = (weight_BT[..., None] * word_BTE).sum(1), weight_BT.sum(1)
        return {
            "images": torch.full((), float(len(feature_BD)), dtype=torch.float64, device=feature_BD.device),
            "rows": token_mask_BT.sum().double(),
            "x_D": feature_BD.sum(0),
            "square_D": feature_BD.square().sum(0),
            "weight": weight_B.sum(),
            "wx_D": weight_B @ feature_BD,
            "wxx_DD": feature_BD.T @ (weight_B[:, None] * feature_BD),
            "wy_E": word_BE.sum(0),
            "wxy_DE": feature_BD.T @ word_BE,
            "yy": (weight_BT * word_BTE.square().sum(2)).sum(),
        }


def statistics_of(rows_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, the latter divided by N as in NumPy; a constant column is divided by 1 and
    stays zero."""
    return rows_NE.mean(0), nonzero_deviations(rows_NE.std(0, correction=0))


def nonzero_deviations(std_D: Tensor) -> Tensor:
    """Standard deviations [D] with 1 in place of 0, so that constant columns can be divided."""
    return torch.where(std_D > 0, std_D, torch.ones_like(std_D))


def image_statistics(totals: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the features, each image once, from the sums of `SemanticMap.sums`."""
    mean_D = totals["x_D"] / totals["images"]
    return mean_D, nonzero_deviations((totals["square_D"] / totals["images"] - mean_D.square()).clamp_min(0).sqrt())


def gram_matrices(totals: Mapping[str, Tensor], mean_D: Tensor, std_D: Tensor) -> tuple[Tensor, Tensor]:
    """X'X and X'Y of standardised features with each image counted once per token, without materialising the rows."""
    crossed_DD = torch.outer(totals["wx_D"], mean_D)
    gram_DD = totals["wxx_DD"] - crossed_DD - crossed_DD.T + totals["weight"] * torch.outer(mean_D, mean_D)
    cross_DE = totals["wxy_DE"] - torch.outer(mean_D, totals["wy_E"])
    return gram_DD / torch.outer(std_D, std_D), cross_DE / std_D[:, None]


def solve_map(gram_DD: Tensor, cross_DE: Tensor, solution: Solution, *, penalty: float) -> Tensor:
    """map_DE of X'X and X'Y: least squares (of least norm where several are equal), ridge, or the orthonormal one ("procrustes", and
    "robust", which is that of weighted rows)."""
    if solution in ("procrustes", "robust"):
        return procrustes_map(cross_DE)
    return ridge_map(gram_DD, cross_DE, penalty if solution == "ridge" else 0.0)


def solve_map_of_rows(x_RD: Tensor, y_RE: Tensor, solution: Solution, *, penalty: float, rounds: int, floor: float) -> Tensor:
    """map_DE between standardised rows that fit into memory, such as those of a vocabulary."""
    map_DE = solve_map(x_RD.T @ x_RD, x_RD.T @ y_RE, solution, penalty=penalty)
    for _ in range(rounds if solution == "robust" else 0):
        weight_R = 1 / ((y_RE - x_RD @ map_DE).norm(dim=1) + floor)
        map_DE = procrustes_map(x_RD.T @ (weight_R[:, None] * y_RE))
    return map_DE


def fold_accuracies(
    x_RD: Tensor, y_RE: Tensor, solution: Solution, *, folds: int, seed: int, **settings: Any
) -> dict[str, float]:
    """k-fold cross-validated nearest-neighbour accuracy of mapped rows, by cosine: on training and on held-out rows.

    Each is the mean over folds; candidates are the targets of the same part (the token classification of SITTA's code).
    `settings` are those of `solve_map_of_rows`.
    """
    accuracies: dict[str, list[float]] = {"fold_train_accuracy": [], "fold_accuracy": []}
    for parts in KFold(folds, shuffle=True, random_state=seed).split(x_RD):
        learned, left = (torch.from_numpy(part).to(x_RD.device) for part in parts)
        map_DE = solve_map_of_rows(x_RD[learned], y_RE[learned], solution, **settings)
        for name, row_N in zip(accuracies, (learned, left), strict=True):
            mapped_NE, target_NE = l2_normalise(x_RD[row_N] @ map_DE), l2_normalise(y_RE[row_N])
            nearest_N = torch.cat([(some_ME @ target_NE.T).argmax(1) for some_ME in mapped_NE.split(1024)])
            own_N = torch.arange(len(row_N), device=x_RD.device)
            accuracies[name].append(float((nearest_N == own_N).double().mean()))
    return {name: sum(values) / folds for name, values in accuracies.items()}
