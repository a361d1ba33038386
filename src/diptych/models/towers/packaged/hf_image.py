"""Tower of the image encoder of a dual encoder of transformers.  Letters: B batch, C channel, H W, P positions, D width."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.outputs import Tower, TowerOutput
from diptych.models.towers.packaged.groupvit import drop_paths, init_groupvit_

CLASSES = {
    "align_vision_model": "AlignVisionModel",
    "altclip_vision_model": "AltCLIPVisionModel",
    "blip_vision_model": "BlipVisionModel",
    "chinese_clip_vision_model": "ChineseCLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "groupvit_vision_model": "GroupViTVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""`model_type` of a vision configuration -> the class of transformers that implements it."""

NO_CLASS_TOKEN = ("siglip_vision_model", "groupvit_vision_model")


class TransformersImage(Tower):
    """Image encoder of transformers on square images [B, 3, image_size, image_size]; the pooled vector is the encoder's own.

    `config` is the encoder's configuration as a dict, as under "vision_config" in its config.json. Tokens are the last feature
    map, row by row, or the patches without the class token; for GroupViT the groups of the last stage. EfficientNets (ALIGN) have
    batch norm, which uses the whole batch of a process: with gradient caching it normalises within a chunk.
    A GroupViT is initialised as by its authors; `drop_path` is the maximal rate of its stochastic depth.
    """

    def __init__(self, *, config: dict[str, Any], image_size: int | None = None, drop_path: float = 0.0) -> None:
        super().__init__()
        kind = config.get("model_type", "")
        if kind not in CLASSES:
            raise ConfigError(f"model_type of an image encoder is {kind!r} (expected {' | '.join(CLASSES)})")
        settings = transformers.AutoConfig.for_model(**config)
        self.net: Any = getattr(transformers, CLASSES[kind])._from_config(settings)
        if kind == "groupvit_vision_model":
            init_groupvit_(self.net)
            drop_paths(self.net, drop_path)
        elif drop_path:
            raise ConfigError(f"drop_path is {drop_path:g} for a {kind} (expected 0: only groupvit_vision_model has it)")
        self.image_size = int(image_size or settings.image_size)
        convolves = kind == "align_vision_model"  # then any size
        if not convolves and self.image_size != settings.image_size:
            raise ConfigError(f"images of {image_size} pixels do not fit this encoder (expected {settings.image_size})")
        # ALIGN's "hidden_dim" is a pooling window and not a width.
        self.width = int(self.net.encoder.blocks[-1].projection.project_conv.out_channels if convolves else settings.hidden_size)

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        if image_BCHW.shape[1:] != (3, self.image_size, self.image_size):
            raise ShapeError(f"images must be ['B', 3, {self.image_size}, {self.image_size}], got {list(image_BCHW.shape)}")
        answer = self.net(pixel_values=image_BCHW)
        tokens = answer.last_hidden_state
        if tokens.ndim == 4:
            tokens_BPD = tokens.flatten(2).transpose(1, 2)
        else:
            tokens_BPD = tokens if self.net.config.model_type in NO_CLASS_TOKEN else tokens[:, 1:]
        mask_BP = tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool)
        return TowerOutput(tokens_BPD, mask_BP, answer.pooler_output)
