"""Linear map from the space of one frozen encoder into that of another, in closed form: ridge regression or Procrustes.

Letters: N rows, D dimensions of the mapped encoder, E of the target encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings
from diptych.models.layers.transformer import l2_normalise

Side = Literal["image", "text"]


@dataclass(frozen=True, slots=True)
class MappedFeatures:
    """Centred features, with one side mapped into the space of the other. They are not normalised, as least squares requires.

    map_DE  the map itself, shared by all rows
    """

    image_NE: Embeddings[Tensor]
    text_NE: Embeddings[Tensor]
    map_DE: Tensor


class CentredMap(nn.Module):
    """Subtracts a stored mean, then multiplies by the map if there is one."""

    mean_D: Tensor

    def __init__(self, features: int, out: int | None) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(features))
        self.map_DE = None if out is None else nn.Parameter(torch.zeros(features, out))

    def raw(self, features_ND: Tensor) -> Tensor:
        centred_ND = features_ND - self.mean_D
        return centred_ND if self.map_DE is None else centred_ND @ self.map_DE

    def forward(self, features_ND: Tensor) -> Tensor:
        """[N, E], rows of norm 1 (zeros stay zeros)."""
        return l2_normalise(self.raw(features_ND))


class LinearPair(nn.Module):
    """Maps features of two encoders to `MappedFeatures`. `mapped` is the side with the map; the other is only centred.

    The map is zero until it is solved for.
    """

    def __init__(self, image_features: int, text_features: int, *, mapped: Side = "image") -> None:
        super().__init__()
        self.spec: dict[str, Any] = {"image_features": image_features, "text_features": text_features, "mapped": mapped}
        self.mapped = mapped
        self.width = text_features if mapped == "image" else image_features
        self.image_head = CentredMap(image_features, text_features if mapped == "image" else None)
        self.text_head = CentredMap(text_features, image_features if mapped == "text" else None)

    @property
    def moved(self) -> CentredMap:
        """The head that maps."""
        return self.image_head if self.mapped == "image" else self.text_head

    @property
    def target(self) -> CentredMap:
        """The head that does not."""
        return self.text_head if self.mapped == "image" else self.image_head

    def forward(self, image_ND: Tensor, text_NE: Tensor) -> MappedFeatures:
        assert self.moved.map_DE is not None
        # `+ 0` makes the map an output of this module and not the parameter itself, which sharding may free after forward.
        return MappedFeatures(self.image_head.raw(image_ND), self.text_head.raw(text_NE), self.moved.map_DE + 0)


def ridge_map(gram_DD: Tensor, cross_DE: Tensor, penalty: float) -> Tensor:
    """map_DE that minimises |X map - Y|² + penalty |map|², from X'X and X'Y of centred X and Y (Hoerl & Kennard, 1970).

    The minimum is unique for penalty > 0; for 0 it is the one of least norm.
    """
    if penalty == 0:
        least_DE: Tensor = torch.linalg.pinv(gram_DD, hermitian=True) @ cross_DE
        return least_DE
    damped_DD = gram_DD + penalty * torch.eye(len(gram_DD), dtype=gram_DD.dtype, device=gram_DD.device)
    solved_DE: Tensor = torch.cholesky_solve(cross_DE, torch.linalg.cholesky(damped_DD))
    return solved_DE


def procrustes_map(cross_DE: Tensor) -> Tensor:
    """map_DE with orthonormal columns (rows, where D < E) that maximises tr(map' X'Y): for D = E the rotation or reflection that
    minimises |X map - Y|² (Schönemann, 1966); else that of the side with fewer dimensions, padded with zeros.
    """
    left_DK, _, right_KE = torch.linalg.svd(cross_DE, full_matrices=False)
    product_DE: Tensor = left_DK @ right_KE
    return product_DE
