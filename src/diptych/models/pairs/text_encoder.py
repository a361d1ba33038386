"""Text encoder of a dual encoder.  Letters: N items, D width, B batch, L tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import projection_of
from diptych.models.towers.outputs import Tower


@dataclass(frozen=True)
class TextEncoderOutput:
    """text_ND: unit-norm, float32 (float64 when the model is)."""

    text_ND: Embeddings[Tensor]


class TextEncoder(nn.Module):
    """Text tower and projection, with the parameter names of a `DualEncoder`, so that weights can be exchanged."""

    def __init__(self, text_tower: Tower, *, width: int, project: bool = True) -> None:
        super().__init__()
        self.text_tower, self.text_projection = text_tower, projection_of(text_tower, width, "text", project=project)

    def forward(self, text_BL: Tensor, text_mask_BL: Tensor) -> TextEncoderOutput:
        return TextEncoderOutput(l2_normalise(self.text_projection(self.text_tower(text_BL, text_mask_BL).pooled_BD)))


@torch.no_grad()
def copy_text_weights_(before: nn.Module, after: nn.Module) -> None:
    """Copy the weights of a `TextEncoder` into the model of the next phase; its other weights are unchanged."""
    assert isinstance(before, TextEncoder)
    report = after.load_state_dict(before.state_dict(), strict=False)
    assert not report.unexpected_keys, report.unexpected_keys
