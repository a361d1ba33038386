"""Label encoders: one vector per label text. Every text is encoded separately, so the order of labels does not matter.

text_tiny, text_clip, hf, hf:FOLDER   a text tower (`towers.text_tower`) on token ids
vectors                                given vectors, such as those of a frozen sentence encoder, unchanged
table                                  one free vector per label, by index: no shared words (a control)

Letters: N labels, L tokens, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diptych.core.errors import ShapeError
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import text_tower


class LabelEncoder(nn.Module):
    """Encodes token ids [N, L] and their mask, or the input of its kind, as [N, width]. `spec` rebuilds it."""

    width: int
    spec: dict[str, Any]


def label_encoder(name: str, **options: Any) -> LabelEncoder:
    """Return a newly initialised label encoder (with the folder's weights for "hf:FOLDER").

    Options: of `text_tower` and pooler=True for towers of transformers; width for vectors; labels and width for table
    """
    if name == "vectors":
        encoder: LabelEncoder = VectorLabels(**options)
    elif name == "table":
        encoder = TableLabels(**options)
    else:
        pooler = bool(options.pop("pooler", name.startswith("hf")))
        tower = text_tower(name, **({"pooling": "cls"} if name.startswith("hf") else {}) | options)
        encoder = TowerLabels(tower, pooler=pooler)
        encoder.spec = {**tower.spec, "pooler": pooler}
        return encoder
    encoder.spec = {"name": name, **options}
    return encoder


class TowerLabels(LabelEncoder):
    """Pooled vector of a text tower; with `pooler`, through a linear layer and tanh, as in RoBERTa."""

    def __init__(self, tower: Tower, *, pooler: bool = False) -> None:
        super().__init__()
        self.tower, self.width = tower, tower.width
        self.pooler = nn.Linear(tower.width, tower.width) if pooler else None
        if self.pooler is not None:
            nn.init.normal_(self.pooler.weight, std=0.02)
            nn.init.zeros_(self.pooler.bias)

    def forward(self, ids_NL: Tensor, mask_NL: Tensor | None = None) -> Tensor:
        pooled_ND: Tensor = self.tower(ids_NL, mask_NL).pooled_BD
        return pooled_ND if self.pooler is None else self.pooler(pooled_ND).tanh()


class VectorLabels(LabelEncoder):
    """Given vectors, unchanged: nothing is learned."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, vector_ND: Tensor, mask_NL: Tensor | None = None) -> Tensor:
        if vector_ND.shape[1:] != (self.width,) or not vector_ND.is_floating_point():
            raise ShapeError(f"label vectors must be floats [N, {self.width}], got {vector_ND.dtype} {list(vector_ND.shape)}")
        return vector_ND


class TableLabels(LabelEncoder):
    """Row `id` of a learned table for label `id`, given as [N, 1]: a control without words."""

    def __init__(self, *, labels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(labels, width)

    def forward(self, ids_N1: Tensor, mask_NL: Tensor | None = None) -> Tensor:
        vector_ND: Tensor = self.table(ids_N1[:, 0])
        return vector_ND
