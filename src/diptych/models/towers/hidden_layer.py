"""Tower of an intermediate layer of an image encoder.  Letters: B batch, P patches, D width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.towers.outputs import Tower, TowerOutput
from diptych.models.towers.packaged.hf_image import NO_CLASS_TOKEN, TransformersImage
from diptych.models.towers.vit import VisionTransformer


class HiddenLayerTower(Tower):
    """Patches of `inner` after one of its layers, before the final norm, without the class token
    (LLaVA 1.5, 2310.03744: layer -2).

    layer  index as in the hidden states of transformers: -1 after the last block, -2 after the one before it.
           Blocks after that layer are removed to save memory and time
    The pooled vector is the mean of the patches. Raises ConfigError for an encoder without such layers.
    """

    def __init__(self, inner: Tower, layer: int = -2) -> None:
        super().__init__()
        blocks = _blocks(inner)
        if not -len(blocks) <= layer <= -1:
            raise ConfigError(f"layer is {layer} of an image encoder of {len(blocks)} blocks (expected -{len(blocks)}..-1)")
        if layer < -1:
            del blocks[layer + 1 :]
        if isinstance(inner, TransformersImage):
            inner.net.post_layernorm = nn.Identity()
        self.inner, self.layer, self.width = inner, layer, inner.width
        self.image_size: Any = getattr(inner, "image_size", None)

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        if isinstance(self.inner, VisionTransformer):
            state_BPD = self.inner.states(image_BCHW)
            first = 0 if self.inner.class_token_D is None else 1
        else:
            assert isinstance(self.inner, TransformersImage)
            state_BPD = self.inner.net(pixel_values=image_BCHW).last_hidden_state
            first = 0 if self.inner.net.config.model_type in NO_CLASS_TOKEN else 1
        token_BPD = state_BPD[:, first:]
        return TowerOutput(token_BPD, token_BPD.new_ones(token_BPD.shape[:2], dtype=torch.bool), token_BPD.mean(1))


def hidden_layer(tower: Tower, layer: int) -> HiddenLayerTower:
    """Return that layer of a tower, which is modified in place. `spec` has both, so that a saved model can be rebuilt."""
    spec = {"name": "hidden_layer", "inner": tower.spec, "layer": layer}
    made = HiddenLayerTower(tower, layer)
    made.spec = spec
    return made


def _blocks(tower: Tower) -> nn.ModuleList:
    if isinstance(tower, VisionTransformer):
        return tower.transformer.blocks
    layers = getattr(getattr(getattr(tower, "net", None), "encoder", None), "layers", None)
    if isinstance(tower, TransformersImage) and isinstance(layers, nn.ModuleList):
        return layers
    raise ConfigError(
        f"{type(tower).__name__} has no inner layers to take (expected a vision transformer, such as vit_l14, or CLIP's)"
    )
